# SPDX-License-Identifier: Apache-2.0
"""Emulated servos that share one bus: instruction packets in, timed status packets out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from chefmate_driver.feetech.emulated_servo import SUPPLY, EmulatedServo, ServoJoint
from chefmate_driver.feetech.faults import Fault, FaultKind, Faults
from chefmate_driver.feetech.packet import BROADCAST_ID, Instruction, Packet, encode
from chefmate_driver.feetech.plant import ServoPlant


class Reply(NamedTuple):
    """One servo's answer."""

    delay: float  # s between the line falling silent and the first byte: the servo's return delay
    late: float  # s that the host gets it later than that: latency and jitter of adapter and computer
    data: bytes  # as it comes out of the cable; empty if nothing does
    size: int  # bytes that the servo sent: time on the wire, whatever became of them


class ServoEmulator:
    """Servos that share one bus."""

    def __init__(
        self, joints: Sequence[ServoJoint], plant: ServoPlant, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`joints` in the plant's order, torque off."""
        self.servos = [EmulatedServo(joint, plant, index, clock) for index, joint in enumerate(joints)]
        self.faults = Faults()
        self.lock = threading.Lock()  # for whoever looks into the servos while the port's thread runs
        self._return_delays: dict[int, int] = {}  # register 7 before a fault changed it, by place

    def answer(self, packet: Packet) -> list[Reply]:
        """Executes one instruction packet; returns what the servos put on the wire, one after the other."""
        with self.lock:
            if self.faults.active and not self.faults.hears():
                return []
            return self._answer(packet)

    def begin(self, fault: Fault) -> None:
        """A fault sets in. FaultKind.DISCONNECT is the port's own and does nothing here."""
        with self.lock:
            for place, servo in enumerate(self.servos):
                if fault.concerns(servo.id):
                    self._begin(place, servo, fault)
            self.faults.active.append(fault)

    def end(self, fault: Fault) -> None:
        """A fault is over. What it left behind (a latched overload, torque off) stays."""
        with self.lock:
            self.faults.active.remove(fault)
            for place, servo in enumerate(self.servos):
                if fault.concerns(servo.id):
                    self._end(place, servo, fault.kind)

    def _begin(self, place: int, servo: EmulatedServo, fault: Fault) -> None:
        if fault.kind is FaultKind.STUCK:
            servo.jam()
        elif fault.kind is FaultKind.OVERLOAD:
            servo.overload()
        elif fault.kind is FaultKind.UNDERVOLTAGE:
            servo.supply = fault.value
        elif fault.kind is FaultKind.BROWN_OUT:
            servo.power_off()
        elif fault.kind is FaultKind.RETURN_DELAY:
            before = servo.set_return_delay(int(fault.value))
            self._return_delays.setdefault(place, before)

    def _end(self, place: int, servo: EmulatedServo, kind: FaultKind) -> None:
        if kind is FaultKind.STUCK:
            servo.free()
        elif kind is FaultKind.UNDERVOLTAGE:
            servo.supply = SUPPLY
        elif kind is FaultKind.BROWN_OUT:
            servo.power_cycle()
        elif kind is FaultKind.RETURN_DELAY:
            servo.set_return_delay(self._return_delays.pop(place, 0))

    def _answer(self, packet: Packet) -> list[Reply]:
        code, parameters = packet.code, packet.parameters
        if code == Instruction.SYNC_READ and len(parameters) >= 2:
            address, size = parameters[0], parameters[1]
            servos = {servo.id: servo for servo in self.servos if servo.powered}
            asked = (servos[id] for id in parameters[2:] if id in servos)
            return [self._reply(servo, servo.id, servo.read(address, size)) for servo in asked]
        if code == Instruction.SYNC_WRITE and len(parameters) >= 2:
            self._sync_write(parameters[0], parameters[1], parameters[2:])
            return []
        replies = []
        answered = packet.id != BROADCAST_ID or code == Instruction.PING  # to such a ping all answer in turn
        for servo in sorted(self.servos, key=lambda servo: servo.id):
            if not servo.powered or servo.id in self.faults.silent:
                continue
            if packet.id in (servo.id, BROADCAST_ID):
                reply = self._execute(servo, code, parameters)
                if reply is not None and answered:
                    replies.append(reply)
        return replies

    def _sync_write(self, address: int, size: int, entries: bytes) -> None:
        servos = {servo.id: servo for servo in self.servos if servo.powered}
        for start in range(0, len(entries) - size, size + 1):
            id = entries[start]
            if id in servos and id not in self.faults.silent:
                servos[id].write(address, entries[start + 1 : start + 1 + size])

    def _execute(self, servo: EmulatedServo, code: int, parameters: bytes) -> Reply | None:
        id = servo.id  # the answer to a change of id comes from the old one
        if code == Instruction.PING:
            return self._reply(servo, id, b"")
        if code == Instruction.READ and len(parameters) == 2:
            return self._reply(servo, id, servo.read(parameters[0], parameters[1]))
        if code == Instruction.WRITE and parameters:
            servo.write(parameters[0], parameters[1:])
        elif code == Instruction.REG_WRITE and parameters:
            servo.register_write(parameters[0], parameters[1:])
        elif code == Instruction.ACTION:
            servo.action()
        else:
            return None  # a servo ignores what it does not know
        return self._reply(servo, id, b"") if servo.get("response_level") else None

    def _reply(self, servo: EmulatedServo, id: int, data: bytes) -> Reply:
        sent = encode(id, servo.status, data)
        return Reply(servo.return_delay, self.faults.delay(id), self.faults.apply(id, sent), len(sent))
