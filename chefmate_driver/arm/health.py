# SPDX-License-Identifier: Apache-2.0
"""arm/health and /diagnostics, from what the loop knows."""

from __future__ import annotations

from builtin_interfaces.msg import Time
from chefmate_msgs.msg import ArmHealth, ServoHealth
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from chefmate_driver.arm.controller import ArmController, ArmState
from chefmate_driver.arm.loop import ArmLoop
from chefmate_driver.arm.servos import servo_state
from chefmate_driver.arm.units import ArmUnits
from chefmate_driver.feetech.packet import status_text

HOT = 60.0  # degree Celsius; the servo's own limit is 70
SLOW_SHARE = 0.95  # of the wanted loop rate, below which a warning is due


def time_message(nanoseconds: int) -> Time:
    """Wall time as a message."""
    return Time(sec=nanoseconds // 1_000_000_000, nanosec=nanoseconds % 1_000_000_000)


def health_message(controller: ArmController, loop: ArmLoop | None, units: ArmUnits | None) -> ArmHealth:
    """The arm's state and each servo's, as far as they are known."""
    message = ArmHealth()
    message.state, message.reason = controller.state.value, controller.reason
    message.estop = bool(controller.estop)
    message.rejected_trajectories = controller.rejected
    message.filter_interventions = controller.safety.interventions
    if loop is None or units is None:
        return message
    snapshot = loop.snapshot
    message.header.stamp = time_message(snapshot.stamp)
    message.torque = bool(snapshot.torque) and all(snapshot.torque.values())
    message.cycles, message.bus_errors = snapshot.cycles, snapshot.bus_errors
    message.loop_rate, message.lateness_p50, message.lateness_p99 = loop.grid.statistics()
    for joint in units.joints:
        servo = ServoHealth(name=joint.name, id=joint.id)
        servo.present = joint.id in snapshot.answered
        servo.torque_enabled = snapshot.torque.get(joint.id, False)
        servo.errors = snapshot.errors.get(joint.id, 0)
        servo.status = snapshot.status.get(joint.id, 0)
        if joint.id in snapshot.feedback:
            state = servo_state(snapshot.feedback[joint.id])
            servo.temperature, servo.voltage = state.temperature, state.voltage
            servo.current, servo.load = state.current, state.load
        message.servos.append(servo)
    return message


def _status(name: str, level: bytes, message: str, **values: object) -> DiagnosticStatus:
    return DiagnosticStatus(
        name=name,
        level=level,
        message=message,
        hardware_id="so_arm_101",
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
    )


def _servo_status(name: str, servo: ServoHealth) -> DiagnosticStatus:
    faults = status_text(servo.status)
    if not servo.present:
        level, text = DiagnosticStatus.ERROR, "does not answer"
    elif faults:
        level, text = DiagnosticStatus.ERROR, f"reports {faults}"
    elif servo.temperature >= HOT:
        level, text = DiagnosticStatus.WARN, f"hot: {servo.temperature:.0f} degrees Celsius"
    else:
        level, text = DiagnosticStatus.OK, "ok"
    return _status(
        f"{name}: servo {servo.id} {servo.name}",
        level,
        text,
        temperature=f"{servo.temperature:.0f}",
        voltage=f"{servo.voltage:.1f}",
        current=f"{servo.current:.2f}",
        load=f"{servo.load:.3f}",
        torque=servo.torque_enabled,
        errors=servo.errors,
    )


def diagnostics_message(
    name: str, health: ArmHealth, *, port: str, rate: float, publishers: int, rejection: str, now: int
) -> DiagnosticArray:
    """What /diagnostics says. publishers: on the trajectory topic. rejection: reason of the newest refused
    trajectory."""
    level = DiagnosticStatus.OK
    if health.state == ArmState.FAULT.value:
        level = DiagnosticStatus.ERROR
    elif health.reason or health.state in (ArmState.ESTOPPED.value, ArmState.UNPOWERED.value):
        level = DiagnosticStatus.WARN
    text = f"{health.state}: {health.reason}" if health.reason else health.state
    slow = health.state != ArmState.UNPOWERED.value and 0.0 < health.loop_rate < SLOW_SHARE * rate
    statuses = [
        _status(
            f"{name}: state",
            level,
            text,
            torque=health.torque,
            estop=health.estop,
            filter_interventions=health.filter_interventions,
        ),
        _status(
            f"{name}: bus",
            DiagnosticStatus.WARN if slow else DiagnosticStatus.OK,
            f"{health.loop_rate:.1f} of {rate:g} Hz" if slow else "ok",
            port=port,
            cycles=health.cycles,
            errors=health.bus_errors,
            loop_rate=f"{health.loop_rate:.1f}",
            lateness_p50=f"{health.lateness_p50:.6f}",
            lateness_p99=f"{health.lateness_p99:.6f}",
        ),
        _status(
            f"{name}: trajectories",
            DiagnosticStatus.WARN if publishers > 1 else DiagnosticStatus.OK,
            f"{publishers} publishers on the trajectory topic: only one should drive"
            if publishers > 1
            else "ok",
            publishers=publishers,
            rejected=health.rejected_trajectories,
            last_rejection=rejection,
        ),
        *(_servo_status(name, servo) for servo in health.servos),
    ]
    array = DiagnosticArray(status=statuses)
    array.header.stamp = time_message(now)
    return array
