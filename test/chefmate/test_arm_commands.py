# SPDX-License-Identifier: Apache-2.0
"""`chefmate arm scan, configure, calibrate, check, emulate` as a user runs them, on emulated servos."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from chefmate.arm_calibrate import calibration_path
from chefmate.cli import main
from chefmate_driver.arm.calibration import read_calibration, write_calibration
from chefmate_driver.arm.emulated import emulated_arm
from chefmate_driver.arm.emulated_hand import MIDDLE, new_arm
from chefmate_driver.arm.emulated_settings import store
from chefmate_driver.arm.model import JOINT_NAMES, LOWER, UPPER
from chefmate_driver.feetech.bus import FeetechBus
from chefmate_driver.feetech.emulator import EmulatedPort
from chefmate_driver.feetech.faults import Fault, FaultKind, FaultScript
from chefmate_driver.feetech.plant import SimplePlant
from chefmate_ros.share import share_file

ROOT = Path(__file__).resolve().parents[2]
TWIN = share_file("config", "calibration", "twin.json")


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """LeRobot's calibrations and the journals of this test alone."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HF_LEROBOT_CALIBRATION", str(tmp_path / "calibration"))
    return tmp_path / "calibration" / "robots" / "so_follower"


@pytest.fixture
def plant() -> SimplePlant:
    return SimplePlant([float(angle) for angle in MIDDLE])


@pytest.fixture
def arm(plant: SimplePlant, tmp_path: Path) -> Iterator[EmulatedPort]:
    with emulated_arm(TWIN, plant, tmp_path / "arm") as port:
        yield port


@pytest.fixture
def fresh(plant: SimplePlant, tmp_path: Path) -> Iterator[EmulatedPort]:
    with new_arm(TWIN, plant, tmp_path / "arm") as port:
        yield port


def until(condition: Callable[[], Any], timeout: float, what: Callable[[], str]) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what()}"
        time.sleep(0.002)


def turn(port: EmulatedPort, plant: SimplePlant, joint: int, *angles: float) -> None:
    """The hand turns a joint, by at most 25 degrees between two readings of the command."""
    for angle in angles:
        while (left := float(angle) - float(plant.positions[joint])) != 0.0:
            plant.positions[joint] += max(-0.45, min(0.45, left))
            seen = port.requests
            until(lambda seen=seen: port.requests > seen + 1, 30.0, lambda: "readings of the command")


def sweep(port: EmulatedPort, plant: SimplePlant) -> None:
    for joint, name in enumerate(JOINT_NAMES):
        if name != "wrist_roll":
            turn(port, plant, joint, LOWER[joint], UPPER[joint], MIDDLE[joint])


class Session:
    """A command in a thread of its own, with somebody at its keyboard."""

    def __init__(self, words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
        reader, self._writer = os.pipe()
        self._input = os.fdopen(reader)
        monkeypatch.setattr(sys, "stdin", self._input)
        self._capsys = capsys
        self.out = self.err = ""
        self.code: int | None = None
        self._thread = threading.Thread(target=self._run, args=(words,), daemon=True)
        self._thread.start()

    def _run(self, words: list[str]) -> None:
        self.code = main(words)

    @property
    def shown(self) -> str:
        """Everything printed so far."""
        captured = self._capsys.readouterr()
        self.out += captured.out
        self.err += captured.err
        return self.out + self.err

    def expect(self, prompt: str) -> None:
        """Waits until a text has been shown since the last one."""
        until(
            lambda: prompt in self.shown or self.code is not None,
            30.0,
            lambda: f"{prompt!r} in {self.shown!r}",
        )
        assert prompt in self.shown, self.shown
        self.err = self.err.split(prompt, 1)[-1]
        self.out = self.out.split(prompt, 1)[-1]

    def type(self, line: str) -> None:
        """Types a line."""
        os.write(self._writer, line.encode() + b"\n")

    def answer(self, prompt: str, line: str) -> None:
        """Waits for a prompt and types a line."""
        self.expect(prompt)
        self.type(line)

    def end_of_input(self) -> None:
        """Closes the keyboard."""
        os.close(self._writer)

    def wait(self) -> int:
        self._thread.join(40.0)
        assert self.code is not None, self.shown
        _ = self.shown
        self._input.close()
        return self.code


@pytest.fixture
def start(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    def begin(*words: str) -> Session:
        return Session(["arm", *words], capsys, monkeypatch)

    return begin


def eeprom(port: EmulatedPort) -> list[bytes]:
    with port.emulator.lock:
        return [servo.read(0, 40) for servo in port.emulator.servos]


def port_of(port: EmulatedPort) -> list[str]:
    return ["--port", str(port.link)]


MIDDLE_PROMPT, SWEEP_PROMPT = "in the middle of its travel, then press Enter", "slowly from stop to stop"


# calibrate


def test_a_new_arm_is_calibrated_and_lerobots_file_says_so(
    fresh: EmulatedPort, plant: SimplePlant, folders: Path, start: Any
) -> None:
    before = eeprom(fresh)
    session = start("calibrate", *port_of(fresh), "--calibration", "mine", "--json")
    session.answer(MIDDLE_PROMPT, "")
    session.expect(SWEEP_PROMPT)
    sweep(fresh, plant)
    session.type("")
    session.expect("Write this to the servos")
    assert eeprom(fresh) == before and not folders.exists()
    session.type("y")
    assert session.wait() == 0
    saved = read_calibration(folders / "mine.json")
    answer = json.loads(session.out)
    assert answer["written"] is True
    assert answer["calibration"] == {name: asdict(joint) for name, joint in saved.items()}
    for servo, joint in zip(fresh.emulator.servos, saved.values(), strict=True):
        servo.power_cycle()
        assert servo.get("homing_offset") == joint.homing_offset
        assert servo.get("max_position_limit") == joint.range_max
        assert servo.get("lock") == 1


def test_a_short_sweep_goes_on_or_ends_without_a_trace(
    fresh: EmulatedPort, plant: SimplePlant, folders: Path, start: Any
) -> None:
    before = eeprom(fresh)
    session = start("calibrate", *port_of(fresh), "--calibration", "mine")
    session.answer(MIDDLE_PROMPT, "")
    session.expect(SWEEP_PROMPT)
    turn(fresh, plant, 0, 0.3)
    session.type("")
    session.expect("shoulder_pan: it was swept over 17 degrees only")
    session.answer("`again` starts with the middle", "")
    session.expect(SWEEP_PROMPT)
    turn(fresh, plant, 0, -1.05)
    session.type("")
    session.expect("shoulder_pan: it was swept over 77 degrees only")
    session.answer("`again` starts with the middle", "again")
    session.answer(MIDDLE_PROMPT, "")
    session.answer(SWEEP_PROMPT, "")
    session.expect("shoulder_pan: it was swept over 0 degrees only")
    session.answer("`again` starts with the middle", "quit")
    assert session.wait() == 1
    assert "the servos hold what they held before" in session.out
    assert eeprom(fresh) == before and not folders.exists()


def test_input_that_ends_writes_nothing(fresh: EmulatedPort, start: Any) -> None:
    before = eeprom(fresh)
    session = start("calibrate", *port_of(fresh), "--calibration", "mine")
    session.end_of_input()
    assert session.wait() == 1
    assert "input ended" in session.err
    assert eeprom(fresh) == before


def test_an_arm_under_torque_is_made_limp_only_with_the_owners_word(fresh: EmulatedPort, start: Any) -> None:
    with FeetechBus(str(fresh.link)) as bus:
        bus.write(2, "torque_enable", 1)
    session = start("calibrate", *port_of(fresh), "--calibration", "mine")
    session.answer("Servo 2 holds torque. The arm falls", "n")
    assert session.wait() == 1
    assert fresh.emulator.servos[1].get("torque_enable") == 1


def test_ctrl_c_during_the_sweep_leaves_the_eeprom_as_it_was(fresh: EmulatedPort, tmp_path: Path) -> None:
    before = eeprom(fresh)
    words = [sys.executable, "-m", "chefmate", "arm", "calibrate", *port_of(fresh), "--calibration", "mine"]
    process = subprocess.Popen(
        words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        assert MIDDLE_PROMPT in process.stdout.readline()
        process.stdin.write("\n")
        process.stdin.flush()
        assert SWEEP_PROMPT in process.stdout.readline()
        seen = fresh.requests
        until(lambda: fresh.requests > seen + 5, 30.0, lambda: "readings")
        process.send_signal(signal.SIGINT)
        shown, _ = process.communicate(timeout=30.0)
    finally:
        process.kill()
    assert process.returncode == 130, shown
    assert "the servos hold what they held before" in shown and "interrupted" in shown
    assert eeprom(fresh) == before


def test_a_pulled_cable_is_named_and_nothing_is_written(
    fresh: EmulatedPort, folders: Path, start: Any
) -> None:
    before = eeprom(fresh)
    session = start("calibrate", *port_of(fresh), "--calibration", "mine")
    session.answer(MIDDLE_PROMPT, "")
    session.expect(SWEEP_PROMPT)
    fresh.play(FaultScript((Fault(FaultKind.DISCONNECT, 0.0, 0.5),)))
    assert session.wait() == 1
    assert f"{fresh.link} is lost" in session.err and "check the USB cable" in session.err
    assert "the servos hold what they held before" in session.out
    until(lambda: fresh.connected and fresh.quiet, 10.0, lambda: "the port again")
    assert eeprom(fresh) == before and not folders.exists()


def test_a_cable_pulled_while_writing_is_mended_by_the_next_run(
    fresh: EmulatedPort, folders: Path, start: Any
) -> None:
    write_calibration(folders / "mine.json", read_calibration(TWIN))
    before = eeprom(fresh)

    def pull(now: float, data: bytes) -> None:  # with the first limit of servo 2
        if data[4:8] == bytes((0x83, 9, 2, 2)):
            fresh.tap = None
            fresh.play(FaultScript((Fault(FaultKind.DISCONNECT, 0.0, 0.5),)))

    fresh.tap = pull
    words = ("calibrate", *port_of(fresh), "--calibration", "mine", "--use-file")
    session = start(*words)
    session.answer("Write this to the servos", "y")
    assert session.wait() == 1
    assert "is lost" in session.err and "again: it restores them first" in session.err
    until(lambda: fresh.connected and fresh.quiet, 10.0, lambda: "the port again")
    assert eeprom(fresh) != before

    checked = start("check", *port_of(fresh), "--calibration", "mine", "--no-hands")
    assert checked.wait() == 1
    assert "was broken off while it wrote the EEPROM" in checked.out

    session = start("calibrate", *port_of(fresh), "--calibration", "mine", "--use-file")
    session.answer("Write the old values back?", "y")
    session.expect("are back and verified")
    session.expect("Write this to the servos")
    assert eeprom(fresh) == before
    session.type("n")
    assert session.wait() == 1
    session = start(*words, "--yes")
    assert session.wait() == 0
    assert [servo.get("min_position_limit") for servo in fresh.emulator.servos][:2] == [796, 910]


def test_a_lost_file_is_made_again_from_the_servos(arm: EmulatedPort, folders: Path, start: Any) -> None:
    before = eeprom(arm)
    session = start("calibrate", *port_of(arm), "--calibration", "mine", "--from-servos", "--yes")
    assert session.wait() == 0
    assert (folders / "mine.json").read_text() == TWIN.read_text()
    assert eeprom(arm) == before


def test_a_file_with_a_wrap_around_is_never_written(arm: EmulatedPort, folders: Path, start: Any) -> None:
    document = json.loads(TWIN.read_text())
    document["elbow_flex"] |= {"range_min": 2, "range_max": 4093}
    folders.mkdir(parents=True)
    (folders / "mine.json").write_text(json.dumps(document))
    before = eeprom(arm)
    words = ("--calibration", "mine", "--use-file", "--accept-ranges", "--yes")
    session = start("calibrate", *port_of(arm), *words)
    assert session.wait() == 1
    assert "elbow_flex: its range is 360 degrees" in session.err
    assert eeprom(arm) == before


def test_unusual_ranges_are_written_only_if_accepted(arm: EmulatedPort, folders: Path, start: Any) -> None:
    document = json.loads(TWIN.read_text())
    document["elbow_flex"] |= {"range_min": 1500, "range_max": 2500}
    folders.mkdir(parents=True)
    (folders / "mine.json").write_text(json.dumps(document))
    words = ("calibrate", *port_of(arm), "--calibration", "mine", "--use-file", "--yes")
    session = start(*words)
    assert session.wait() == 1
    assert "--accept-ranges" in session.err
    assert start(*words, "--accept-ranges").wait() == 0
    assert arm.emulator.servos[2].get("min_position_limit") == 1500


def test_a_calibration_goes_where_lerobot_has_it_or_would_put_it(folders: Path) -> None:
    assert calibration_path("mine", leader=False) == folders / "mine.json"
    older = folders.parent / "so101_follower" / "mine.json"
    write_calibration(older, read_calibration(TWIN))
    assert calibration_path("mine", leader=False) == older
    leader = folders.parents[1] / "teleoperators" / "so_leader" / "mine.json"
    assert calibration_path("mine", leader=True) == leader
    assert calibration_path("here.json", leader=False) == Path("here.json")


# configure


def test_configure_shows_asks_writes_and_then_has_nothing_to_do(fresh: EmulatedPort, start: Any) -> None:
    before = eeprom(fresh)
    session = start("configure", *port_of(fresh), "--dry-run", "--json")
    assert session.wait() == 1
    found = {(entry["servo"], entry["register"]) for entry in json.loads(session.out)["differences"]}
    assert (6, "max_torque") in found and (1, "return_delay") in found
    session = start("configure", *port_of(fresh))
    session.answer("Write this to the servos' EEPROM?", "no")
    assert session.wait() == 1
    assert eeprom(fresh) == before
    session = start("configure", *port_of(fresh))
    session.answer("Write this to the servos' EEPROM?", "yes")
    assert session.wait() == 0
    assert "Written, read back, and locked again" in session.out
    assert fresh.emulator.servos[5].get("max_torque") == 500
    session = start("configure", *port_of(fresh), "--json")
    assert session.wait() == 0
    assert json.loads(session.out)["differences"] == []


def test_a_servo_that_confirms_nothing_is_configured(arm: EmulatedPort, start: Any) -> None:
    store(arm.emulator.servos[1], {"response_level": 0})
    session = start("configure", *port_of(arm), "--yes")
    assert session.wait() == 0
    assert arm.emulator.servos[1].get("response_level") == 1


def test_what_cannot_be_written_is_said_and_fails(arm: EmulatedPort, start: Any) -> None:
    store(arm.emulator.servos[3], {"max_voltage": 80})
    session = start("configure", *port_of(arm))
    assert session.wait() == 1
    assert "not written" in session.out and "7.4 V servo" in session.out.replace("\n", " ")


# check


def test_check_has_each_joint_turned_by_hand(arm: EmulatedPort, plant: SimplePlant, start: Any) -> None:
    session = start("check", *port_of(arm), "--calibration", "twin", "--json")
    for joint, name in enumerate(JOINT_NAMES[:-1]):
        session.expect(f"{name}: ")
        session.expect("by about 15 degrees")
        turn(arm, plant, joint, float(plant.positions[joint]) + 0.3)
        session.expect(f"direction {name}")
    session.answer("gripper: open the gripper", "")
    assert session.wait() == 0
    report = json.loads(session.out)
    outcomes = {finding["check"]: finding["outcome"] for finding in report["findings"]}
    assert report["fit"] is True
    assert outcomes["direction wrist_roll"] == "ok" and outcomes["direction gripper"] == "warning"


def test_check_names_a_joint_that_counts_the_wrong_way(
    arm: EmulatedPort, plant: SimplePlant, start: Any
) -> None:
    session = start("check", *port_of(arm), "--calibration", "twin")
    session.expect("shoulder_pan: turn the whole arm to the right")
    turn(arm, plant, 0, -0.3)
    session.expect("direction shoulder_pan: shoulder_pan reads -1")
    for name in JOINT_NAMES[1:]:
        session.answer(f"{name}: ", "")
    assert session.wait() == 1
    assert "not fit to move" in session.out


def test_check_leaves_hands_out_while_the_calibration_is_wrong(arm: EmulatedPort, start: Any) -> None:
    store(arm.emulator.servos[2], {"homing_offset": 300})
    session = start("check", *port_of(arm), "--calibration", "twin")
    assert session.wait() == 1
    assert "elbow_flex: the servo's homing offset is 300, the calibration file says 0" in session.out
    assert "left out until the errors above are mended" in session.out


# scan


def test_scan_reports_servos_and_what_is_wrong(arm: EmulatedPort, start: Any) -> None:
    store(arm.emulator.servos[4], {"id": 17})
    session = start("scan", *port_of(arm), "--ids", "0-20", "--json")
    assert session.wait() == 1
    report = json.loads(session.out)
    assert [servo["id"] for servo in report["servos"]] == [1, 2, 3, 4, 6, 17]
    assert any("no servo 5 (wrist_roll)" in problem for problem in report["problems"])
    session = start("scan", *port_of(arm), "--set-id", "17", "5", "--json")
    session.answer("Write it to the servo's EEPROM?", "y")
    assert session.wait() == 0
    assert arm.emulator.servos[4].id == 5 and arm.emulator.servos[4].get("lock") == 1


@pytest.mark.parametrize(("option", "value"), [("--baud", "9600"), ("--ids", "6-1"), ("--ids", "0-254")])
def test_wrong_usage_is_said(arm: EmulatedPort, start: Any, option: str, value: str) -> None:
    session = start("scan", *port_of(arm), option, value)
    assert session.wait() == 2
    assert f"{option} {value}" in session.err


@pytest.mark.parametrize(
    "words",
    [("scan",), ("configure",), ("check", "--calibration", "twin"), ("calibrate", "--calibration", "x")],
)
def test_a_busy_port_is_refused_and_its_holder_named(
    arm: EmulatedPort, start: Any, words: tuple[str, ...]
) -> None:
    with FeetechBus(str(arm.link)):
        session = start(words[0], *port_of(arm), *words[1:])
        assert session.wait() == 1
    assert "is in use by" in session.shown and "stop that first" in session.shown


# emulate


def test_the_emulated_arm_obeys_typed_lines_until_ctrl_c(tmp_path: Path) -> None:
    link = tmp_path / "arm"
    process = subprocess.Popen(
        [sys.executable, "-m", "chefmate", "arm", "emulate", "--new", "--link", str(link)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        assert "not configured, not calibrated" in process.stdout.readline()
        process.stdin.write("shoulder_pan 20\nnonsense\n")
        process.stdin.flush()
        lines = [process.stdout.readline() for _ in range(6)]
        assert "done\n" in lines and any("'nonsense' is unknown" in line for line in lines)
        with FeetechBus(str(link)) as bus:
            assert bus.read(1, "return_delay") == 250
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30.0)
    finally:
        process.kill()
    assert process.returncode == 0
    assert not link.exists()


def test_the_emulated_arm_ends_with_its_input(tmp_path: Path) -> None:
    link = tmp_path / "arm"
    process = subprocess.Popen(
        [sys.executable, "-m", "chefmate", "arm", "emulate", "--link", str(link)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert "its calibration is `twin`" in process.stdout.readline()
        process.communicate(timeout=30.0)  # closes its input
    finally:
        process.kill()
    assert process.returncode == 0
    assert not link.exists()


def test_a_link_that_cannot_be_made_is_an_error_of_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "chefmate", "arm", "emulate", "--link", "/proc/x"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60.0,
    )
    assert done.returncode == 1
    assert "chefmate arm: /proc/x cannot be made" in done.stderr
    assert "Traceback" not in done.stderr
