# SPDX-License-Identifier: Apache-2.0
"""Replies that come after their request was given up: told apart by what cannot be theirs, never believed."""

from __future__ import annotations

import time

import pytest

from chefmate_driver.arm.setup.scan import scan
from chefmate_driver.feetech.bus import FeetechBus
from chefmate_driver.feetech.emulator import EmulatedPort
from chefmate_driver.feetech.errors import ServoMissingError
from chefmate_driver.feetech.faults import Fault, FaultKind
from chefmate_driver.feetech.outstanding import MOST, Outstanding
from chefmate_driver.feetech.registers import FEEDBACK_ADDRESS, FEEDBACK_SIZE

IDS = [1, 2, 3, 4, 5, 6]
TIMEOUT = 0.02  # s
# One byte each, and different from each other.
BYTES = ("id", "present_voltage", "present_temperature", "torque_enable", "lock", "baud_rate")
WORDS = ("homing_offset", "min_position_limit", "max_position_limit", "model_number")


def slow(port: EmulatedPort, seconds: float, *ids: int) -> Fault:
    fault = Fault(FaultKind.LATENCY, ids=ids, amount=seconds)
    port.emulator.begin(fault)
    return fault


@pytest.mark.parametrize("latency", [0.022, 0.03, 0.038, 0.05])
def test_no_reply_is_taken_for_another_registers_however_late_it_is(
    bus: FeetechBus, port: EmulatedPort, latency: float
) -> None:
    right = {name: bus.read(1, name) for name in BYTES + WORDS}
    bus.reply_timeout = TIMEOUT
    slow(port, latency)
    answers = 0
    for name in (BYTES + WORDS) * 2:
        try:
            assert bus.read(1, name) == right[name], name
            answers += 1
        except ServoMissingError as error:
            assert "answers later than 20 ms; raise `reply_timeout`" in str(error)
    assert bus.counters[1].late > 0
    assert answers > 0  # a repeated request is answered by the first one's late reply


def test_a_repeated_requests_second_reply_is_not_taken_for_the_next_registers(
    bus: FeetechBus, port: EmulatedPort
) -> None:
    temperature = bus.read(1, "present_temperature")
    bus.reply_timeout = 0.1
    fault = slow(port, 0.15)
    assert bus.read(1, "id") == 1  # the first reply, upon the second request
    port.emulator.end(fault)
    assert bus.read(1, "present_temperature") == temperature != 1


def test_what_is_asked_to_be_sure_is_not_answered_by_an_earlier_same_request(
    bus: FeetechBus, port: EmulatedPort
) -> None:
    bus.reply_timeout, bus.retries = 0.1, 0
    fault = slow(port, 0.15)
    with pytest.raises(ServoMissingError):
        bus.read(3, "torque_limit")
    port.emulator.end(fault)
    bus.sync_write("torque_limit", {3: 321})
    assert bus.read(3, "torque_limit") == 321


def test_a_cycles_reads_wait_for_no_late_reply(bus: FeetechBus, port: EmulatedPort) -> None:
    bus.reply_timeout = 0.5
    fault = slow(port, 0.1, 4)
    deadline = time.monotonic() + 0.05
    assert 4 not in bus.sync_read_block(FEEDBACK_ADDRESS, FEEDBACK_SIZE, IDS, deadline=deadline)
    port.emulator.end(fault)
    began = time.monotonic()
    block = bus.sync_read_block(40, 10, [4])[4]
    assert time.monotonic() - began < 0.4
    assert block == bus.read_block(4, 40, 10)
    assert bus.counters[4].late == 1


def test_a_servo_that_never_answers_is_not_waited_for_twice(bus: FeetechBus, port: EmulatedPort) -> None:
    bus.reply_timeout, bus.retries = 0.1, 0
    port.emulator.faults.silent = {2}
    with pytest.raises(ServoMissingError):
        bus.read(2, "id")
    with pytest.raises(ServoMissingError):
        bus.read(2, "lock")  # looks for late replies, in vain
    began = time.monotonic()
    with pytest.raises(ServoMissingError):
        bus.read(2, "id")
    assert time.monotonic() - began < 0.19
    port.emulator.faults.silent = set()
    bus.retries = 1
    assert bus.read(2, "id") == 2


def test_a_scan_over_a_slow_adapter_finds_each_servo_once(bus: FeetechBus, port: EmulatedPort) -> None:
    bus.reply_timeout = TIMEOUT
    slow(port, 0.03)
    assert bus.scan(range(1, 9)) == IDS
    found = scan(bus, range(1, 9))
    assert [servo.id for servo in found] == IDS
    assert not any(servo.duplicate for servo in found)


def test_a_late_reply_proves_older_ones_past_and_nothing_else() -> None:
    owed = Outstanding()
    owed.ask(1, 15, "feedback")
    owed.ask(1, 10, "torque")
    owed.ask(1, 15, "feedback")
    assert owed.doubtful(1, 10, "lock")
    assert not owed.doubtful(1, 10, "torque")
    assert not owed.doubtful(2, 10, "lock")
    assert owed.arrived(1, 15)
    assert owed.doubtful(1, 10, "lock")  # was asked after the feedback that came
    assert owed.arrived(1, 15)
    assert not owed  # and before this one
    assert not owed.arrived(1, 10)


def test_what_is_owed_is_bounded() -> None:
    owed = Outstanding()
    for number in range(3 * MOST):
        owed.ask(1, 1, number)
    for _ in range(MOST):
        assert owed.arrived(1, 1)
    assert not owed
