# SPDX-License-Identifier: Apache-2.0
"""Each fault of the emulator on the wire: what the bus makes of it, and that it ends."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chefmate_driver.arm.calibration import read_calibration
from chefmate_driver.arm.emulated import emulated_arm
from chefmate_driver.arm.servos import ArmServos
from chefmate_driver.arm.units import ArmUnits
from chefmate_driver.feetech.bus import FeetechBus
from chefmate_driver.feetech.emulator import EmulatedPort
from chefmate_driver.feetech.errors import BusLostError, FeetechError, PortNotFoundError, ServoMissingError
from chefmate_driver.feetech.faults import AMOUNTS, Fault, FaultKind, FaultScript
from chefmate_driver.feetech.packet import Instruction, StatusBit, encode
from chefmate_driver.feetech.plant import SimplePlant
from chefmate_driver.feetech.registers import FEEDBACK_ADDRESS, FEEDBACK_SIZE, decode_feedback
from chefmate_ros.share import share_file

IDS = [1, 2, 3, 4, 5, 6]
TWIN = share_file("config", "calibration", "twin.json")
SHORT = 0.02  # s of reply timeout where replies are meant to be missing


def until(condition: Callable[[], Any], timeout: float, what: str) -> Any:
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout:g} s: {what}")
        time.sleep(0.005)
    return value


def begin(port: EmulatedPort, kind: FaultKind, *ids: int, amount: float | None = None) -> Fault:
    fault = Fault(kind, ids=ids, amount=amount)
    port.emulator.begin(fault)
    return fault


def read_all(bus: FeetechBus) -> dict[int, bytes]:
    return bus.sync_read_block(FEEDBACK_ADDRESS, FEEDBACK_SIZE, IDS)


@pytest.mark.parametrize(
    ("kind", "amount", "counter"),
    [
        (FaultKind.LOST_REPLIES, 1.0, "lost"),
        (FaultKind.HALF_PACKET, 1.0, "corrupt"),
        (FaultKind.DROPPED_BYTES, 0.3, "corrupt"),
        (FaultKind.CORRUPTED_BYTES, 0.3, "corrupt"),
        (FaultKind.WRONG_ID, 1.0, "wrong_id"),
    ],
)
def test_a_spoilt_reply_is_counted_by_servo_and_kind_and_never_taken(
    bus: FeetechBus, port: EmulatedPort, kind: FaultKind, amount: float, counter: str
) -> None:
    bus.reply_timeout = SHORT
    fault = begin(port, kind, 4, amount=amount)
    assert sorted(read_all(bus)) == [1, 2, 3, 5, 6]
    counts = bus.counters[4].as_dict()
    assert counts.pop("retries") == bus.retries
    assert counts.pop(counter) == 1 + bus.retries
    assert not any(counts.values())
    assert bus.errors == {4: 3}
    assert bus.totals.failed == 3
    port.emulator.end(fault)
    bus.reply_timeout = 0.5
    assert sorted(read_all(bus)) == IDS
    assert bus.errors == {4: 3}


@pytest.mark.parametrize(
    "kind", [FaultKind.HALF_PACKET, FaultKind.DROPPED_BYTES, FaultKind.CORRUPTED_BYTES, FaultKind.WRONG_ID]
)
def test_retries_ride_out_spoilt_replies_and_no_wrong_value_gets_through(
    bus: FeetechBus, port: EmulatedPort, kind: FaultKind
) -> None:
    right = bus.sync_read("homing_offset", IDS)
    bus.reply_timeout, bus.retries = SHORT, 12
    begin(port, kind, amount=0.02 if AMOUNTS[kind].meaning.startswith("share of reply bytes") else 0.2)
    for _ in range(25):
        assert bus.sync_read("homing_offset", IDS) == right
    assert port.emulator.faults.counts[kind] > 5
    assert bus.totals.retries >= port.emulator.faults.counts[kind] // 2


def test_lost_commands_are_asked_again(bus: FeetechBus, port: EmulatedPort) -> None:
    bus.reply_timeout, bus.retries = SHORT, 12
    begin(port, FaultKind.LOST_COMMANDS, amount=0.5)
    for _ in range(10):
        assert bus.read(3, "model_number") == 777
    assert bus.counters[3].lost == port.emulator.faults.counts[FaultKind.LOST_COMMANDS] > 0


@pytest.mark.parametrize(
    ("kind", "amount", "least"),
    [
        (FaultKind.LATENCY, 0.02, 0.02),
        (FaultKind.USB_QUANTISATION, 0.05, 0.0),
        (FaultKind.RETURN_DELAY, 250.0, 6 * 0.0005),
    ],
)
def test_slow_replies_are_waited_for(
    bus: FeetechBus, port: EmulatedPort, kind: FaultKind, amount: float, least: float
) -> None:
    begin(port, kind, amount=amount)
    for _ in range(3):
        began = time.monotonic()
        assert sorted(read_all(bus)) == IDS
        assert time.monotonic() - began >= least
    assert bus.errors == {}


def test_usb_frames_put_replies_on_a_grid(bus: FeetechBus, port: EmulatedPort) -> None:
    frame = 0.05
    begin(port, FaultKind.USB_QUANTISATION, amount=frame)
    phases = []
    for _ in range(9):
        read_all(bus)
        phases.append(time.monotonic() % frame)
    assert sorted(phases)[4] < 0.4 * frame


def test_jitter_is_within_its_bound_and_follows_the_seed() -> None:
    from chefmate_driver.feetech.faults import Faults

    def delays(seed: int) -> list[float]:
        faults = Faults(active=[Fault(FaultKind.JITTER, amount=0.004)])
        faults.random.seed(seed)
        return [faults.delay(1) for _ in range(50)]

    assert delays(3) == delays(3) != delays(4)
    assert 0.0 <= min(delays(3)) < max(delays(3)) <= 0.004


def test_a_reply_that_comes_too_late_is_not_taken_for_another_registers(
    bus: FeetechBus, port: EmulatedPort
) -> None:
    bus.reply_timeout, bus.retries = 0.15, 0
    goals = bus.sync_read("goal_position", IDS)
    begun = begin(port, FaultKind.LATENCY, 2, amount=0.2)
    with pytest.raises(ServoMissingError):
        bus.read(2, "model_number")
    port.emulator.end(begun)
    assert bus.read(2, "goal_position") == goals[2] != 777
    assert bus.counters[2].late == 1


def test_two_servos_of_one_id_are_found_by_a_probe(bus: FeetechBus, port: EmulatedPort) -> None:
    bus.reply_timeout = 0.1
    assert bus.probe(3).present
    assert not bus.probe(3).duplicate
    fault = begin(port, FaultKind.DUPLICATE_ID, 3)
    assert bus.probe(3, pings=8).duplicate
    assert not bus.probe(4).duplicate
    assert not bus.probe(9).present
    port.emulator.end(fault)
    assert not bus.probe(3).duplicate


def test_two_servos_of_one_id_show_in_the_counts(bus: FeetechBus, port: EmulatedPort) -> None:
    bus.reply_timeout = SHORT
    begin(port, FaultKind.DUPLICATE_ID, 3)
    for _ in range(12):
        read_all(bus)
    assert bus.counters[3].duplicate + bus.counters[3].late > 0
    assert bus.counters[3].corrupt > 0
    assert not any(bus.counters[id].duplicate for id in IDS if id != 3)


def test_two_servos_that_contradict_are_not_believed(bus: FeetechBus, port: EmulatedPort) -> None:
    bus.reply_timeout, bus.retries = SHORT, 0
    begin(port, FaultKind.DUPLICATE_ID, 3)
    for _ in range(30):
        assert 3 not in bus.sync_read_block(31, 2, IDS)
    assert bus.counters[3].duplicate + bus.counters[3].late > 3
    assert bus.counters[3].corrupt > 3


def test_a_block_read_waits_for_nothing_beyond_its_deadline(bus: FeetechBus, port: EmulatedPort) -> None:
    bus.reply_timeout = 2.0
    fault = begin(port, FaultKind.LATENCY, 5, amount=1.0)
    began = time.monotonic()
    blocks = bus.sync_read_block(FEEDBACK_ADDRESS, FEEDBACK_SIZE, IDS, deadline=began + 0.2)
    assert time.monotonic() - began < 0.9
    assert sorted(blocks) == [1, 2, 3, 4]
    port.emulator.end(fault)
    until(lambda: bus.ping(5) == 0, 20.0, "an answer")


def test_a_jammed_servo_stays_pushes_and_latches_an_overload(
    bus: FeetechBus, port: EmulatedPort, plant: SimplePlant
) -> None:
    with bus.eeprom([2]):
        bus.write(2, "protection_time", 20)  # 0.2 s
    before = bus.read(2, "present_position")
    bus.write(2, "torque_enable", 1)
    fault = begin(port, FaultKind.STUCK, 2)
    bus.write(2, "goal_position", before + 200)

    def feedback():  # type: ignore[no-untyped-def]
        return decode_feedback(bus.read_block(2, FEEDBACK_ADDRESS, FEEDBACK_SIZE))

    pushing = until(lambda: (seen := feedback()).load > 800 and seen, 20.0, "load of a jammed servo")
    assert abs(pushing.position - before) <= 1
    assert pushing.current > 200  # 1.3 A
    until(lambda: feedback().status & StatusBit.OVERLOAD, 20.0, "the overload latch")
    assert bus.read(2, "torque_enable") == 0
    assert bus.status[2] == StatusBit.OVERLOAD
    port.emulator.end(fault)
    assert feedback().status == StatusBit.OVERLOAD  # latched
    bus.write(2, "torque_enable", 1)
    assert feedback().status == 0
    until(lambda: abs(feedback().position - before - 200) <= 2, 20.0, "the goal, once free")


def test_an_overload_switches_torque_off_until_it_is_written(bus: FeetechBus, port: EmulatedPort) -> None:
    bus.sync_write("torque_enable", dict.fromkeys(IDS, 1))
    assert bus.read(6, "torque_enable") == 1
    fault = begin(port, FaultKind.OVERLOAD, 6)
    port.emulator.end(fault)
    assert bus.sync_read("torque_enable", IDS) == {1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 6: 0}
    assert bus.status == {1: 0, 2: 0, 3: 0, 4: 0, 5: 0, 6: int(StatusBit.OVERLOAD)}
    bus.write(6, "torque_enable", 1)
    assert bus.ping(6) == 0
    assert bus.read(6, "torque_enable") == 1


def test_low_supply_sets_the_voltage_bit_and_the_reading(bus: FeetechBus, port: EmulatedPort) -> None:
    fault = begin(port, FaultKind.UNDERVOLTAGE, 1)
    assert bus.read(1, "present_voltage") == 35
    assert bus.status[1] == StatusBit.VOLTAGE
    port.emulator.end(fault)
    assert bus.read(1, "present_voltage") > 110
    assert bus.status[1] == 0


def test_a_brown_out_silences_and_then_leaves_torque_off_and_ram_as_in_eeprom(
    bus: FeetechBus, port: EmulatedPort
) -> None:
    bus.write(5, "torque_enable", 1)
    bus.write(5, "torque_limit", 400)
    fault = begin(port, FaultKind.BROWN_OUT, 5)
    bus.reply_timeout = SHORT
    with pytest.raises(ServoMissingError, match="no answer from servo 5"):
        bus.ping(5)
    port.emulator.end(fault)
    bus.reply_timeout = 0.5
    assert bus.read(5, "torque_enable") == 0
    assert bus.read(5, "torque_limit") == 1000


def test_a_disconnected_port_is_lost_and_comes_back_under_its_link(port: EmulatedPort) -> None:
    link = str(port.link)
    with FeetechBus(link, reply_timeout=0.5) as bus:
        bus.write(1, "torque_enable", 1)
        port.play(FaultScript((Fault(FaultKind.DISCONNECT, duration=0.3),)))
        with pytest.raises(BusLostError, match="is lost"):
            until(lambda: bus.ping(1) and False, 20.0, "the loss")
    assert not os.path.lexists(link)
    with pytest.raises(PortNotFoundError):
        FeetechBus(link)
    until(lambda: os.path.lexists(link), 20.0, "the link")
    with FeetechBus(link, reply_timeout=0.5) as bus:
        assert bus.read(1, "torque_enable") == 1  # the servos had their supply all along
    assert [event.began for event in port.events] == [True, False]
    assert port.quiet
    assert port.events[1].time - port.events[0].time >= 0.3
    assert sorted(os.listdir(os.path.dirname(link))) == [".servos.lock", "servos"]


def test_a_script_begins_and_ends_its_faults_on_time(bus: FeetechBus, port: EmulatedPort) -> None:
    script = FaultScript(
        (
            Fault(FaultKind.LOST_REPLIES, 0.2, 0.3, (1,)),
            Fault(FaultKind.UNDERVOLTAGE, 0.0, 0.1, (2,), 3.0),
        )
    )
    began = time.monotonic()
    port.play(script)
    until(lambda: port.quiet and len(port.events) == 4, 20.0, "the end of the script")
    kinds = [(event.fault.kind, event.began) for event in port.events]
    assert kinds == [
        (FaultKind.UNDERVOLTAGE, True),
        (FaultKind.UNDERVOLTAGE, False),
        (FaultKind.LOST_REPLIES, True),
        (FaultKind.LOST_REPLIES, False),
    ]
    assert all(event.time - began >= due for event, due in zip(port.events, (0, 0.1, 0.2, 0.5), strict=True))
    assert sorted(read_all(bus)) == IDS


def test_scripts_survive_json_and_follow_their_seed() -> None:
    for kind in FaultKind:
        script = FaultScript.random(5, kind)
        assert script == FaultScript.random(5, kind)
        assert script != FaultScript.random(6, kind)
        assert FaultScript.from_json(script.to_json()) == script
    forever = FaultScript((Fault(FaultKind.LATENCY),), 9)
    assert FaultScript.from_json(forever.to_json()) == forever
    with pytest.raises(FeetechError, match="no fault script"):
        FaultScript.from_json('{"faults": [{"kind": "gremlins"}], "seed": 1}')


def test_the_tap_sees_every_byte_before_the_servos_do(bus: FeetechBus, port: EmulatedPort) -> None:
    seen: list[tuple[float, bytes]] = []
    port.tap = lambda when, data: seen.append((when, data))
    request = encode(1, Instruction.WRITE, b"\x2a\x00\x08")
    began = time.monotonic()
    bus._serial.write(b"\xff\x00garbage" + request)
    bus.ping(2)
    stream = b"".join(data for _, data in seen)
    assert stream == b"\xff\x00garbage" + request + encode(2, Instruction.PING)
    assert all(began <= when <= time.monotonic() for when, _ in seen)


def test_a_paced_wire_takes_the_bytes_own_time(tmp_path: Path, plant: SimplePlant) -> None:
    link = tmp_path / "slow"
    with (
        emulated_arm(TWIN, plant, link, pace=50_000),
        FeetechBus(str(link), 50_000, reply_timeout=0.5) as bus,
    ):
        for _ in range(3):
            began = time.monotonic()
            read_all(bus)
            assert time.monotonic() - began >= 140 * 10 / 50_000
        began = time.monotonic()
        for _ in range(10):
            bus.sync_write("goal_position", dict.fromkeys(IDS, 2048))
        bus.ping(1)  # its bytes wait until those before them have left
        assert time.monotonic() - began >= (10 * 26 + 12) * 10 / 50_000


def test_an_impossible_position_is_counted_and_not_taken(bus: FeetechBus, port: EmulatedPort) -> None:
    servos = ArmServos(bus, ArmUnits(read_calibration(TWIN)))
    assert sorted(servos.feedback()) == IDS
    sick = port.emulator.servos[3]
    sick._present = lambda radians: 5000  # type: ignore[method-assign]
    assert sorted(servos.feedback()) == [1, 2, 3, 5, 6]
    assert servos.implausible == {4: 5000}
    assert bus.counters[4].implausible == 1
