# SPDX-License-Identifier: Apache-2.0
"""The bus against emulated servos on a real pty."""

from __future__ import annotations

import os
import select
import sys
import threading
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chefmate_driver.arm.calibration import read_calibration
from chefmate_driver.arm.emulated import emulated_arm
from chefmate_driver.arm.units import ArmUnits
from chefmate_driver.feetech.bus import FeetechBus
from chefmate_driver.feetech.emulator import EmulatedPort
from chefmate_driver.feetech.errors import (
    BusLostError,
    BusPortBusyError,
    BusProtocolError,
    FeetechError,
    PortNotFoundError,
    RegisterError,
    ServoMissingError,
)
from chefmate_driver.feetech.packet import BROADCAST_ID, Instruction, StatusBit, encode
from chefmate_driver.feetech.plant import MAX_SPEED, SimplePlant
from chefmate_driver.feetech.registers import FEEDBACK_ADDRESS, FEEDBACK_SIZE, decode_feedback
from chefmate_ros.share import share_file

IDS = [1, 2, 3, 4, 5, 6]
TWIN = share_file("config", "calibration", "twin.json")
ZERO = {joint.id: joint.zero for joint in ArmUnits(read_calibration(TWIN)).joints}  # ticks at 0 rad


def reaches(condition: Callable[[], bool], timeout: float = 3.0) -> bool:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_all_servos_answer_a_scan_and_name_their_model(bus: FeetechBus) -> None:
    bus.reply_timeout = 0.005
    assert bus.scan(range(1, 12)) == IDS
    bus.reply_timeout = 0.5
    assert bus.sync_read("model_number", IDS) == dict.fromkeys(IDS, 777)


def test_nothing_moves_while_torque_is_off(bus: FeetechBus) -> None:
    bus.sync_write("goal_position", dict.fromkeys(IDS, 2100))
    assert bus.read(1, "goal_position") == 2100
    assert not reaches(lambda: bus.read(1, "present_position") != 2048, 0.2)


def test_torque_on_moves_to_the_goal_within_the_speed_limit(bus: FeetechBus, plant: SimplePlant) -> None:
    bus.write(2, "goal_speed", 200)  # 200 step/s = 0.307 rad/s
    bus.write(2, "goal_position", 2248)
    began = time.monotonic()
    bus.write(2, "torque_enable", 1)
    assert reaches(lambda: abs(bus.read(2, "present_position") - 2248) <= 1)
    assert time.monotonic() - began > 0.9
    assert reaches(lambda: bus.read(2, "present_speed") == 0)
    assert plant.positions[1] == pytest.approx(200 / 651.74, abs=0.01)
    assert MAX_SPEED > 4.0


def test_goals_are_clamped_to_the_servos_own_limits(bus: FeetechBus) -> None:
    low = bus.read(3, "min_position_limit")
    bus.write(3, "goal_position", 0)
    bus.write(3, "torque_enable", 1)
    assert reaches(lambda: abs(bus.read(3, "present_position") - low) <= 2)


def test_feedback_of_six_servos_comes_in_one_exchange(bus: FeetechBus, port: EmulatedPort) -> None:
    before = port.requests
    blocks = bus.sync_read_block(FEEDBACK_ADDRESS, FEEDBACK_SIZE, IDS)
    assert port.requests == before + 1
    for id in IDS:
        feedback = decode_feedback(blocks[id])
        assert abs(feedback.position - ZERO[id]) <= 1
        assert 115 <= feedback.voltage <= 125
        assert 20 <= feedback.temperature <= 40
        assert feedback.status == 0


def test_load_and_temperature_rise_under_load(
    port: EmulatedPort, bus: FeetechBus, plant: SimplePlant
) -> None:
    plant.enabled[0] = True
    servo = port.emulator.servos[0]
    with port.emulator.lock:
        plant._profile.setpoint[0] = 0.2  # the joint is held back: the set-point runs away from it
        plant._profile.target[0] = 0.2
        plant._lag = 1e9
        servo._warmed -= 120.0  # two minutes ago
    assert bus.read(1, "present_load") > 500
    assert bus.read(1, "present_temperature") > 30
    assert bus.read(1, "present_current") > 100
    assert bus.read(1, "present_voltage") < 121


def test_homing_offset_shifts_the_present_position(bus: FeetechBus) -> None:
    present = bus.read(4, "present_position")
    with bus.eeprom([4]):
        bus.write(4, "homing_offset", 100)
    assert bus.read(4, "present_position") == present - 100


def test_eeprom_is_kept_over_a_power_cycle_only_while_unlocked(bus: FeetechBus, port: EmulatedPort) -> None:
    bus._serial.write(encode(4, Instruction.WRITE, bytes((13, 65))))  # as a client that does not unlock first
    with bus.eeprom([5]):
        bus.write(5, "max_temperature", 65)
    bus.write(5, "torque_enable", 1)
    with port.emulator.lock:
        for servo in port.emulator.servos:
            servo.power_cycle()
    assert bus.read(4, "max_temperature") == 70
    assert bus.read(5, "max_temperature") == 65
    assert bus.read(5, "torque_enable") == 0


def test_reg_write_waits_for_action(bus: FeetechBus) -> None:
    bus._exchange(encode(1, Instruction.REG_WRITE, b"\x2a\x10\x08"), {1: 0})
    assert bus.read(1, "goal_position") != 0x0810
    bus._serial.write(encode(BROADCAST_ID, Instruction.ACTION))
    assert bus.read(1, "goal_position") == 0x0810


def test_read_only_registers_are_refused_here_and_ignored_there(bus: FeetechBus) -> None:
    with pytest.raises(RegisterError, match="read-only"):
        bus.write(1, "present_position", 5)
    with pytest.raises(RegisterError, match="cannot hold 70000"):
        bus.write(1, "goal_speed", 70000)


def test_status_bits_come_with_the_data(bus: FeetechBus, port: EmulatedPort) -> None:
    port.emulator.servos[5].faults = StatusBit.OVERLOAD
    assert bus.read(6, "present_position") > 0
    assert bus.status[6] == StatusBit.OVERLOAD
    assert bus.status.get(5, 0) == 0


def test_an_overheated_servo_switches_itself_off(bus: FeetechBus, port: EmulatedPort) -> None:
    bus.write(6, "torque_enable", 1)
    port.emulator.servos[5].temperature = 75.0
    assert bus.read(6, "status") == StatusBit.TEMPERATURE
    assert bus.read(6, "torque_enable") == 0


def test_a_silent_servo_is_named_and_counted_while_the_others_answer(
    bus: FeetechBus, port: EmulatedPort
) -> None:
    bus.reply_timeout = 0.01
    port.emulator.faults.silent = {3}
    assert sorted(bus.sync_read_block(FEEDBACK_ADDRESS, FEEDBACK_SIZE, IDS)) == [1, 2, 4, 5, 6]
    assert bus.errors == {3: 3}
    assert bus.failures == 1
    with pytest.raises(ServoMissingError, match="no answer from servo 3 at 1000000 baud"):
        bus.ping(3)


def test_a_dead_bus_costs_a_control_cycle_one_timeout_and_a_patient_read_all(
    bus: FeetechBus, port: EmulatedPort
) -> None:
    bus.reply_timeout = 0.01
    port.emulator.faults.silent = set(IDS)
    assert bus.sync_read_block(FEEDBACK_ADDRESS, FEEDBACK_SIZE, IDS) == {}
    assert bus.errors == dict.fromkeys(IDS, 1)
    with pytest.raises(ServoMissingError, match="1, 2, 3, 4, 5, 6"):
        bus.sync_read("present_position", IDS)
    assert bus.errors == dict.fromkeys(IDS, 4)


@pytest.mark.parametrize("fault", ["drop", "corrupt"])
def test_bounded_retries_ride_out_a_bad_cable(bus: FeetechBus, port: EmulatedPort, fault: str) -> None:
    bus.reply_timeout, bus.retries = 0.01, 8
    setattr(port.emulator.faults, fault, 0.2)
    for _ in range(30):
        positions = bus.sync_read("present_position", IDS)
        assert all(abs(positions[id] - ZERO[id]) <= 1 for id in IDS)
    assert sum(bus.errors.values()) > 5


@contextmanager
def servo_that_always_says(reply: bytes) -> Iterator[FeetechBus]:
    """A bus on which every request gets the same reply."""
    master, slave = os.openpty()
    tty.setraw(slave)

    def serve() -> None:
        while os.read(master, 4096) != b"end":
            os.write(master, reply)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with FeetechBus(os.ttyname(slave), reply_timeout=0.05, retries=1) as bus:
            yield bus
            bus._serial.write(b"end")
            thread.join()
    finally:
        os.close(master)
        os.close(slave)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (encode(2, 0, b"\x01\x02"), "wrong_id"),
        (encode(1, 0, b"\x01"), "corrupt"),
        (encode(1, 0), "corrupt"),
        (encode(1, 0, b"\x01\x02")[:-1] + b"\x00", "corrupt"),
        (encode(1, 0, b"\x01\x02")[:5], "corrupt"),
    ],
    ids=["another id", "too short", "empty", "wrong checksum", "half"],
)
def test_a_reply_that_does_not_fit_the_request_is_not_taken(reply: bytes, kind: str) -> None:
    with servo_that_always_says(reply) as bus:
        with pytest.raises(BusProtocolError, match="none is a reply of servo 1"):
            bus.read(1, "present_position")
        assert bus.errors == {1: 2}
        assert bus.error_kinds[1][kind] == 2
        assert bus.failures == 1


def test_a_fitting_reply_is_taken() -> None:
    with servo_that_always_says(encode(1, 0x20, b"\x01\x02")) as bus:
        assert bus.read(1, "present_position") == 0x0201
        assert bus.status[1] == 0x20


def test_bytes_that_are_no_replies_are_called_so(tmp_path: Path) -> None:
    master, slave = os.openpty()
    stop = threading.Event()

    def chatter() -> None:
        while not stop.wait(0.002):
            os.write(master, b"NMEA,\xff\x00\x7f$")
            os.set_blocking(master, False)
            try:
                os.read(master, 100)
            except BlockingIOError:
                pass

    thread = threading.Thread(target=chatter)
    thread.start()
    try:
        with (
            FeetechBus(os.ttyname(slave), retries=1) as bus,
            pytest.raises(BusProtocolError, match="none is a reply"),
        ):
            bus.ping(1)
    finally:
        stop.set()
        thread.join()
        os.close(master)
        os.close(slave)


def test_a_missing_port_is_named() -> None:
    with pytest.raises(PortNotFoundError, match="/dev/no-such-port does not exist"):
        FeetechBus("/dev/no-such-port")


def test_a_file_is_no_port(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(FeetechError, match="cannot be opened as a serial port"):
        FeetechBus(str(file))


def test_a_second_process_is_told_who_holds_the_port(
    bus: FeetechBus, port: EmulatedPort, start_process: Callable
) -> None:
    code = f"from chefmate_driver.feetech.bus import FeetechBus; FeetechBus({str(port.link)!r})"
    second = start_process(["python", "-c", code])
    assert second.wait() != 0
    assert "BusPortBusyError" in second.output
    assert f"in use by process {os.getpid()} ({sys.executable.split('/')[-1]}" in second.output.replace(
        os.path.dirname(sys.executable) + "/", ""
    )


def test_a_second_bus_in_this_process_is_refused(bus: FeetechBus, port: EmulatedPort) -> None:
    with pytest.raises(BusPortBusyError, match="this process itself"):
        FeetechBus(str(port.link))


def test_the_port_is_free_again_after_close(port: EmulatedPort) -> None:
    for _ in range(2):
        with FeetechBus(str(port.link), reply_timeout=0.1) as bus:
            assert bus.ping(1) == 0


def test_a_vanished_port_is_lost_not_silent(bus: FeetechBus, port: EmulatedPort) -> None:
    assert bus.ping(1) == 0
    port.close()
    with pytest.raises(BusLostError, match="is lost"):
        for _ in range(3):
            bus.sync_read("present_position", IDS)
            bus.ping(1)


def test_bytes_that_arrive_just_after_an_empty_read_are_no_lost_port(
    bus: FeetechBus, port: EmulatedPort, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = os.read

    def too_early(descriptor: int, size: int) -> bytes:
        monkeypatch.setattr(os, "read", read)
        os.write(port._master, b"x")
        assert select.select([descriptor], [], [], 5.0)[0]
        return b""

    with port.emulator.lock:  # the port's thread reads nothing meanwhile
        monkeypatch.setattr(os, "read", too_early)
        assert bus._serial.read(0.0) == b""
    assert bus.ping(1) == 0


def test_the_link_appears_whole_and_disappears_with_the_port(tmp_path: Path, plant: SimplePlant) -> None:
    link = tmp_path / "servos"
    link.symlink_to("/dev/pts/no-such-terminal")  # left by a killed emulator
    with emulated_arm(TWIN, plant, link) as port:
        assert os.readlink(link) == port.path
        with pytest.raises(BusPortBusyError, match="already belongs to a running servo emulator"):
            emulated_arm(TWIN, plant, link).start()
        assert os.readlink(link) == port.path
    assert not link.is_symlink()


def test_a_file_in_the_links_place_is_left_alone(tmp_path: Path, plant: SimplePlant) -> None:
    link = tmp_path / "servos"
    link.write_text("mine")
    with pytest.raises(FeetechError, match="is no symbolic link"):
        emulated_arm(TWIN, plant, link).start()
    assert link.read_text() == "mine"


def test_garbage_before_a_request_does_not_silence_the_emulator(bus: FeetechBus) -> None:
    bus._serial.write(b"\xff\xff\x01\xf0 half a packet that never ends")
    assert reaches(lambda: 1 in bus._exchange(bytes.fromhex("ffff010201fb"), {1: 0}), 1.0)


def test_replies_stay_fast_beside_a_busy_thread(bus: FeetechBus) -> None:
    """The twin's physics shares the emulator's process."""
    stop = threading.Event()
    bus.reply_timeout = 5.0

    def burn() -> None:
        while not stop.is_set():
            sum(range(500))

    thread = threading.Thread(target=burn)
    thread.start()
    try:
        times = []
        for _ in range(100):
            began = time.perf_counter()
            assert len(bus.sync_read_block(FEEDBACK_ADDRESS, FEEDBACK_SIZE, IDS)) == 6
            times.append(time.perf_counter() - began)
    finally:
        stop.set()
        thread.join()
    # This client shares the interpreter too, so it waits for its own turns on top; Python's default interval
    # of 5 ms would make it 15 ms and more.
    assert sorted(times)[50] < 0.005
