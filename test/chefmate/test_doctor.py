# SPDX-License-Identifier: Apache-2.0
"""chefmate doctor: each check on a machine made for it, and the command on this one."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chefmate.doctor import frames
from chefmate.doctor.finding import Finding, Level, Machine
from chefmate.doctor.machine import check_cameras, check_disk, check_graphics, check_packages
from chefmate.doctor.ports import check_names, check_ports
from chefmate.doctor.ros import check_environment, check_frames, check_shared_memory, segments
from chefmate.doctor.servos import check_calibration, check_servos
from chefmate_driver.arm.calibration import read_calibration, write_calibration
from chefmate_driver.arm.emulated import emulated_arm
from chefmate_driver.feetech.emulator import EmulatedPort
from chefmate_driver.feetech.plant import SimplePlant
from chefmate_ros.share import share_file

TWIN = share_file("config", "calibration", "twin.json")
CH343 = ("1a86", "55d3")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A computer with nothing plugged in."""
    places = {name: tmp_path / name for name in ("dev", "sys", "proc", "shm", "rules")}
    for place in places.values():
        place.mkdir()
    rules = (places.pop("rules"),)
    return Machine(environment={"HOME": str(tmp_path)}, rules=rules, **places)


@pytest.fixture
def arm(tmp_path: Path) -> Iterator[EmulatedPort]:
    with emulated_arm(TWIN, SimplePlant([0.0] * 6), tmp_path / "arm") as opened:
        yield opened


def plug_in(machine: Machine, target: str, ids: tuple[str, str] = CH343, name: str = "ttyACM0") -> None:
    """A USB adapter as /dev and /sys show it."""
    (machine.dev / name).symlink_to(target)
    usb = machine.sys / "devices/usb1/1-2"
    (usb / "1-2:1.0").mkdir(parents=True)
    for file, text in (("idVendor", ids[0]), ("idProduct", ids[1]), ("serial", "5A7A0123")):
        (usb / file).write_text(text + "\n")
    (machine.sys / "class/tty" / name).mkdir(parents=True)
    (machine.sys / "class/tty" / name / "device").symlink_to(usb / "1-2:1.0")


def one(findings: Iterable[Finding], words: str) -> Finding:
    """The one finding whose message has these words."""
    found = [finding for finding in findings if re.search(words, finding.message)]
    assert len(found) == 1, f"{words!r} in {found}"
    return found[0]


def test_every_error_and_warning_comes_with_its_mend(machine: Machine, arm: EmulatedPort) -> None:
    arm.emulator.faults.silent.add(2)
    bad = replace(machine, port=str(arm.link), calibration="nobody", environment={"ROS_DOMAIN_ID": "x"})
    checks = (check_environment, check_ports, check_servos, check_calibration, check_cameras, check_graphics)
    found = [finding for check in checks for finding in check(bad)]
    assert {finding.level for finding in found} >= {Level.ERROR}
    for finding in found:
        assert finding.mend or finding.level in (Level.OK, Level.INFO), finding


def test_without_a_robot_nothing_is_an_error(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_LEROBOT_CALIBRATION", str(machine.dev))  # an empty place
    found = [f for check in (check_ports, check_names, check_servos, check_calibration, check_cameras)
             for f in check(machine)]  # fmt: skip
    assert {finding.level for finding in found} == {Level.INFO}
    assert "only the twin" in one(found, "no USB serial adapter").message


def test_a_port_that_does_not_exist_is_named_with_those_that_do(machine: Machine, arm: EmulatedPort) -> None:
    plug_in(machine, arm.path)
    finding = one(check_ports(replace(machine, port="/dev/none")), "/dev/none does not exist")
    assert finding.level is Level.ERROR
    assert "ttyACM0" in finding.message


def test_a_port_that_this_user_may_not_open_comes_with_the_group(machine: Machine, tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    (machine.dev / "ttyUSB0").touch(mode=0o600)
    pid = os.fork()
    if pid == 0:  # as an ordinary user, whoever runs the tests
        if os.getuid() == 0:
            os.setgroups([])
            os.setuid(65534)
        else:
            (machine.dev / "ttyUSB0").chmod(0o000)
        found = [
            f for f in check_ports(machine) if f.level is Level.ERROR and "usermod -aG dialout" in f.mend
        ]
        os._exit(0 if len(found) == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_an_adapter_without_a_stable_name_gets_a_rule_and_one_with_a_name_is_told_it(
    machine: Machine, arm: EmulatedPort
) -> None:
    plug_in(machine, arm.path)
    finding = one(check_names(machine), "no name that stays")
    assert finding.level is Level.WARNING
    for words in (
        'ATTRS{idVendor}=="1a86"',
        'ATTRS{serial}=="5A7A0123"',
        "SYMLINK+=",
        "udevadm control --reload",
    ):
        assert words in finding.mend
    by_id = machine.dev / "serial/by-id"
    by_id.mkdir(parents=True)
    (by_id / "usb-1a86_USB_Single_Serial_5A7A0123-if00").symlink_to(machine.dev / "ttyACM0")
    assert one(check_names(machine), "by-id/usb-1a86").level is Level.OK


def test_modem_manager_and_brltty_are_named_where_they_take_the_adapter(
    machine: Machine, arm: EmulatedPort
) -> None:
    plug_in(machine, arm.path, ids=("1a86", "7523"))
    (machine.proc / "77").mkdir()
    (machine.proc / "77" / "comm").write_text("ModemManager\n")
    assert one(check_names(machine), "ModemManager").level is Level.WARNING
    assert not [finding for finding in check_names(machine) if "braille" in finding.message]
    (machine.rules[0] / "85-brltty.rules").write_text('ENV{PRODUCT}=="1a86/7523/*", GOTO="brltty"\n')
    assert "apt remove brltty" in one(check_names(machine), "braille").mend
    (machine.rules[0] / "99-mine.rules").write_text('ATTRS{idVendor}=="1a86", ENV{ID_MM_DEVICE_IGNORE}="1"\n')
    assert not [finding for finding in check_names(machine) if "ModemManager" in finding.message]


def test_a_busy_port_names_the_process_that_holds_it(machine: Machine, arm: EmulatedPort) -> None:
    code = (
        "import serial, sys; port = serial.Serial(sys.argv[1], exclusive=True); "
        "print('open', flush=True); input()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(arm.link)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "open\n"
        finding = one(check_servos(replace(machine, port=str(arm.link))), "is in use by")
        assert finding.level is Level.ERROR
        assert f"process {holder.pid}" in finding.message
    finally:
        holder.communicate("\n", timeout=20)


def test_servos_that_hold_the_calibration_are_fine(machine: Machine, arm: EmulatedPort) -> None:
    found = list(check_servos(replace(machine, port=str(arm.link), calibration="twin")))
    assert one(found, "all six servos answer").level is Level.OK
    assert one(found, "its servos hold .*twin.json").level is Level.OK
    assert not [finding for finding in found if finding.level is Level.ERROR]


def test_another_arms_calibration_names_joint_and_difference(
    machine: Machine, arm: EmulatedPort, tmp_path: Path
) -> None:
    twin = read_calibration(TWIN)
    joint = twin["elbow_flex"]
    file = tmp_path / "other.json"
    write_calibration(file, {**twin, "elbow_flex": replace(joint, homing_offset=joint.homing_offset + 40)})
    finding = one(check_servos(replace(machine, port=str(arm.link), calibration=str(file))), "does not hold")
    assert finding.level is Level.ERROR
    assert "elbow_flex" in finding.message and "3.5 degrees" in finding.message
    assert "shoulder_pan" not in finding.message


def test_a_silent_servo_and_an_unpowered_bus_are_told_apart(machine: Machine, arm: EmulatedPort) -> None:
    here = replace(machine, port=str(arm.link))
    arm.emulator.faults.silent.add(4)
    assert "4 (wrist_flex)" in one(check_servos(here), "no answer from servo").message
    arm.emulator.faults.silent.update(range(1, 7))
    assert "supply" in one(check_servos(here), "no servo answers").mend


def test_a_register_that_differs_is_named_with_the_command_that_mends_it(
    machine: Machine, arm: EmulatedPort
) -> None:
    with arm.emulator.lock:
        arm.emulator.servos[2].set_return_delay(250)
    finding = one(check_servos(replace(machine, port=str(arm.link))), "return_delay of servo 3 has 250")
    assert finding.level is Level.WARNING
    assert "chefmate arm configure --port" in finding.mend


def test_a_missing_calibration_is_an_error_only_where_there_is_an_arm(
    machine: Machine, arm: EmulatedPort, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_LEROBOT_CALIBRATION", str(tmp_path / "none"))
    assert one(check_calibration(machine), "no calibration").level is Level.INFO
    finding = one(check_calibration(replace(machine, port=str(arm.link))), "no calibration")
    assert finding.level is Level.ERROR and "chefmate arm calibrate" in finding.mend
    file = tmp_path / "none/robots/so_follower/mine.json"
    write_calibration(file, read_calibration(TWIN))
    assert one(check_calibration(replace(machine, port=str(arm.link))), "mine.json").level is Level.OK
    file.write_text("{}")
    assert (
        one(check_calibration(replace(machine, port=str(arm.link))), "lacks shoulder_pan").level
        is Level.ERROR
    )


@pytest.mark.parametrize(
    ("variables", "words", "level"),
    [
        ({}, "ROS_DOMAIN_ID=0", Level.OK),
        ({"ROS_DOMAIN_ID": "230"}, "'230' is no number from 0 to 101", Level.ERROR),
        ({"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"}, "rmw_cyclonedds_cpp", Level.WARNING),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF"}, "do not find each other", Level.ERROR),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "near"}, "'near' is none of", Level.WARNING),
        ({"FASTRTPS_DEFAULT_PROFILES_FILE": "/nowhere.xml"}, "/nowhere.xml is no file", Level.ERROR),
        ({"CONDA_PREFIX": "/opt/conda"}, "conda is active", Level.WARNING),
    ],
)
def test_an_environment_that_keeps_nodes_apart_is_named(
    machine: Machine, variables: dict[str, str], words: str, level: Level
) -> None:
    assert one(check_environment(replace(machine, environment=variables)), words).level is level


def test_segments_of_killed_processes_are_told_from_those_in_use(machine: Machine) -> None:
    names = [f"fastrtps_{digit * 16}" for digit in "abc"]
    for name in names:
        (machine.shm / name).write_bytes(bytes(1000))
        (machine.shm / f"{name}_el").touch()
    (machine.shm / "fastrtps_port7411").touch()
    with (machine.shm / f"{names[1]}_el").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = segments(machine.shm)
        assert found.used == 1 and found.bytes == 2000
        assert [path.name for path in found.left] == [names[0], names[2]]
        assert "were left" in one(check_shared_memory(machine), "2 segments").message
    assert segments(machine.shm).used == 0


def test_a_missing_shared_memory_is_an_error(machine: Machine) -> None:
    machine.shm.rmdir()
    assert one(check_shared_memory(machine), "is missing").level is Level.ERROR


def test_an_unknown_renderer_is_an_error(machine: Machine) -> None:
    finding = one(
        check_graphics(replace(machine, environment={"MUJOCO_GL": "vulkan"})), "'vulkan' is none of"
    )
    assert finding.level is Level.ERROR


def test_disk_and_packages_of_this_machine_are_reported(machine: Machine) -> None:
    assert {finding.check for finding in check_disk(machine)} == {"disk"}
    assert one(check_packages(machine), r"all \d+ found").level is Level.OK


def test_frames_between_two_processes_are_counted(
    machine: Machine, start_process: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = frames.measure()
    assert whole.sent == 120
    assert whole.received >= 0.9 * whole.sent
    # With Fast DDS's own segment of 512 KB, too small for an image, half of them get lost.
    small = tmp_path / "small.xml"
    small.write_text(re.sub("16777216", "524288", share_file("config", "fastdds.xml").read_text()))
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", str(small))
    finding = one(check_frames(machine), "frames .* arrived")
    assert finding.level is Level.ERROR
    assert "unset FASTRTPS_DEFAULT_PROFILES_FILE" in finding.mend


def test_the_command_exits_1_if_and_only_if_there_are_errors(arm: EmulatedPort) -> None:
    def run(*words: str) -> tuple[int, dict[str, Any]]:
        command = [sys.executable, "-m", "chefmate", "doctor", "--quick", "--json", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return done.returncode, json.loads(done.stdout)

    code, document = run("--port", str(arm.link), "--calibration", "twin")
    assert code == (0 if document["ok"] else 1)
    assert document["errors"] == sum(row["level"] == "error" for row in document["findings"])
    code, document = run("--port", "/dev/none")
    assert code == 1 and not document["ok"]
    assert any("/dev/none does not exist" in row["message"] and row["mend"] for row in document["findings"])
