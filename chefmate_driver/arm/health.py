# SPDX-License-Identifier: Apache-2.0
"""arm/health and /diagnostics, from what the loop knows."""

from __future__ import annotations

from dataclasses import dataclass

from builtin_interfaces.msg import Time
from chefmate_msgs.msg import ArmHealth, NamedCount, ServoHealth
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from chefmate_driver.arm.controller import ArmController, ArmState
from chefmate_driver.arm.loop import ArmLoop
from chefmate_driver.arm.model import GRIPPER
from chefmate_driver.arm.protection import Stage
from chefmate_driver.arm.servos import servo_state
from chefmate_driver.arm.settings import Severity
from chefmate_driver.arm.timing import HISTOGRAM_EDGES
from chefmate_driver.arm.units import ArmUnits
from chefmate_driver.feetech.packet import status_text

HOT = 60.0  # degree Celsius; the servo's own limit is 70
SLOW_SHARE = 0.95  # of the wanted loop rate, below which a warning is due
OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


@dataclass(frozen=True)
class Background:
    """What /diagnostics says beside the arm's health."""

    port: str
    rate: float  # Hz, that the parameter asks for
    publishers: int  # on the trajectory topic
    refusals: tuple[str, str, int] = (
        "",
        "",
        0,
    )  # newest trajectory's, newest leader's command's, their number


def time_message(nanoseconds: int) -> Time:
    """Wall time as a message."""
    return Time(sec=nanoseconds // 1_000_000_000, nanosec=nanoseconds % 1_000_000_000)


def health_message(controller: ArmController, loop: ArmLoop | None, units: ArmUnits | None) -> ArmHealth:
    """The arm's state and each servo's, as far as they are known."""
    message = ArmHealth()
    message.state, message.reason = controller.state.value, controller.reason
    message.estop, message.active = bool(controller.estop), controller.active
    message.rejected_trajectories = controller.rejected
    message.filter_interventions = controller.safety.interventions
    message.interventions = [
        NamedCount(name=name, count=count) for name, count in controller.safety.counts.items()
    ]
    message.protection, message.protection_reason = controller.verdict.stage.name, controller.verdict.reason
    message.speed_scale = controller.speed_override
    if loop is None or units is None:
        return message
    snapshot = loop.snapshot
    message.header.stamp = time_message(snapshot.stamp)
    message.torque = bool(snapshot.torque) and all(snapshot.torque.values())
    message.gripper_torque_limit = snapshot.torque_limit.get(units.ids[GRIPPER], 0.0)
    message.cycles, message.bus_errors = snapshot.cycles, snapshot.bus_errors
    message.missed_cycles, message.wanted_rate = loop.grid.missed, loop.grid.rate
    message.loop_rate, message.lateness_p50, message.lateness_p99 = loop.grid.statistics()
    message.black_box = loop.black_box.newest if loop.black_box is not None else ""
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


def diagnostics_message(
    name: str,
    health: ArmHealth,
    controller: ArmController,
    loop: ArmLoop | None,
    background: Background,
    now: int,
) -> DiagnosticArray:
    """What /diagnostics says. name: of the node. now: ns, wall clock."""
    statuses = [
        _state(name, health, loop),
        _bus(name, health, loop, background),
        _timing(name, health, loop),
        _commands(name, health, controller, background),
        _protection(name, health, loop),
        *(_servo(name, servo, loop) for servo in health.servos),
    ]
    array = DiagnosticArray(status=statuses)
    array.header.stamp = time_message(now)
    return array


def _status(name: str, level: bytes, message: str, **values: object) -> DiagnosticStatus:
    return DiagnosticStatus(
        name=name,
        level=level,
        message=message,
        hardware_id="so_arm_101",
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
    )


def _state(name: str, health: ArmHealth, loop: ArmLoop | None) -> DiagnosticStatus:
    level = OK
    if health.state == ArmState.FAULT.value:
        level = ERROR
    elif health.reason or health.state in (ArmState.ESTOPPED.value, ArmState.UNPOWERED.value):
        level = WARN
    text = f"{health.state}: {health.reason}" if health.reason else health.state
    return _status(
        f"{name}: state",
        level,
        text if health.active else f"{text} (the node is not active)",
        active=health.active,
        torque=health.torque,
        estop=health.estop,
        black_box=(loop.black_box.problem if loop is not None and loop.black_box is not None else "")
        or health.black_box,
    )


def _bus(name: str, health: ArmHealth, loop: ArmLoop | None, background: Background) -> DiagnosticStatus:
    slow = (
        health.state != ArmState.UNPOWERED.value and 0.0 < health.loop_rate < SLOW_SHARE * health.wanted_rate
    )
    text = f"{health.loop_rate:.1f} of {health.wanted_rate:g} Hz" if slow else "ok"
    if loop is not None and loop.slow_bus:
        slow, text = True, loop.slow_bus
    return _status(
        f"{name}: bus",
        WARN if slow else OK,
        text,
        port=background.port,
        cycles=health.cycles,
        errors=health.bus_errors,
        torque_limits_restored=loop.torque.restored if loop is not None else 0,
    )


def _timing(name: str, health: ArmHealth, loop: ArmLoop | None) -> DiagnosticStatus:
    counts = loop.grid.histogram if loop is not None else [0] * (len(HISTOGRAM_EDGES) + 1)
    edges = [f"lateness_up_to_{edge * 1e3:g}_ms" for edge in HISTOGRAM_EDGES]
    edges.append(f"lateness_over_{HISTOGRAM_EDGES[-1] * 1e3:g}_ms")
    report = loop.inspection.timing if loop is not None and loop.inspection is not None else None
    return _status(
        f"{name}: timing",
        OK,
        f"{health.loop_rate:.1f} Hz, lateness p99 {health.lateness_p99 * 1e3:.2f} ms",
        wanted_rate=health.wanted_rate,
        loop_rate=f"{health.loop_rate:.1f}",
        missed_cycles=health.missed_cycles,
        stalls=loop.hearing.stalls if loop is not None else 0,
        longest_stall=f"{loop.hearing.longest_stall:.3f}" if loop is not None else "",
        lateness_p50=f"{health.lateness_p50:.6f}",
        lateness_p99=f"{health.lateness_p99:.6f}",
        bus_cycle=f"{report.cycle:.6f}" if report is not None else "",
        holdable_rate=f"{report.holdable_rate:.0f}" if report is not None else "",
        bus_delays=report.text if report is not None else "",
        scheduling=loop.scheduling if loop is not None else "",
        **dict(zip(edges, counts, strict=True)),
    )


def _commands(
    name: str, health: ArmHealth, controller: ArmController, background: Background
) -> DiagnosticStatus:
    many = background.publishers > 1
    trajectory, teleop, refused = background.refusals
    return _status(
        f"{name}: trajectories",
        WARN if many else OK,
        f"{background.publishers} publishers on the trajectory topic: only one should drive"
        if many
        else "ok",
        publishers=background.publishers,
        rejected=health.rejected_trajectories,
        last_rejection=trajectory,
        rejected_leader_commands=refused,
        last_leader_rejection=teleop,
        filter_interventions=health.filter_interventions,
        filter_shaped=controller.safety.shaped,
        **{f"filter: {entry.name}": entry.count for entry in health.interventions},
    )


def _protection(name: str, health: ArmHealth, loop: ArmLoop | None) -> DiagnosticStatus:
    level = {Stage.NORMAL.name: OK, Stage.SLOW.name: WARN}.get(health.protection, ERROR)
    protection = loop.protection if loop is not None else None
    return _status(
        f"{name}: protection",
        level,
        health.protection_reason or "ok",
        stage=health.protection,
        speed_scale=f"{health.speed_scale:.2f}",
        gripper_torque_limit=f"{health.gripper_torque_limit:.3f}",
        **({f"entered {stage}": count for stage, count in protection.counts.items()} if protection else {}),
    )


def _servo(name: str, servo: ServoHealth, loop: ArmLoop | None) -> DiagnosticStatus:
    faults = status_text(servo.status)
    inspection = loop.inspection if loop is not None else None
    difference = inspection.of_joint(servo.name, Severity.WARNING) if inspection is not None else ""
    notes = inspection.of_joint(servo.name, Severity.NOTE) if inspection is not None else ""
    if not servo.present:
        level, text = ERROR, "does not answer"
    elif faults:
        level, text = ERROR, f"reports {faults}"
    elif servo.temperature >= HOT:
        level, text = WARN, f"hot: {servo.temperature:.0f} degrees Celsius"
    elif difference:
        level, text = WARN, difference
    else:
        level, text = OK, "ok"
    kinds = loop.snapshot.error_kinds.get(servo.id, {}) if loop is not None else {}
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
        settings="; ".join(filter(None, (difference, notes))) or "as expected",
        **{f"errors: {kind}": count for kind, count in kinds.items()},
    )
