# SPDX-License-Identifier: Apache-2.0
"""What the arm does and why, without ROS and without a bus.

The state is derived from a few facts (is the bus there, is there a fault, is torque on, is the e-stop
latched, what moves), so no combination can contradict another. docs/arm.md has the table of transitions and
what torque does in each.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto

import numpy as np
from numpy.typing import NDArray

from chefmate_driver.arm.errors import TrajectoryRejectedError, TransitionError
from chefmate_driver.arm.model import GRIPPER
from chefmate_driver.arm.protection import Stage, Verdict
from chefmate_driver.arm.safety import MIN_OVERRIDE, SafetyFilter
from chefmate_driver.arm.teleoperation import Leader
from chefmate_driver.arm.trajectory import Motion, Trajectory, slow_move

Vector = NDArray[np.float64]
ARRIVED = 2e-3  # rad, about a servo tick; the last command is this near to a trajectory's end
SETTLED_SPEED = 0.05  # rad/s, a measured arm slower than this has stopped
SETTLE_TIME = 0.5  # s, longest wait for it after an e-stop
# After an e-stop the goal moves to the measured pose if the two differ by more: what pushes against an
# obstacle lets go, what merely sags under its weight stays.
PUSHING = 0.05  # rad
UNLOADED = 0.0007  # rad, half a servo tick: two ticks are full torque of a stiff servo
# What gives way pushes back, so a protected joint is settled again and again until nothing pushes; under a
# weight it creeps meanwhile, by a few ticks each time at most.
UNLOADINGS, UNLOADING_PAUSE = 20, 0.05  # times; s, for the arm to give way
RELEASE_MARGIN = 3.0  # s beyond the computed time of the park move before a release
WELL = Verdict(Stage.NORMAL, 1.0, (), "", 1.0)


class ArmState(str, Enum):
    """As in chefmate_msgs/ArmHealth."""

    UNPOWERED = "UNPOWERED"
    READY = "READY"
    HOLDING = "HOLDING"
    FOLLOWING = "FOLLOWING"
    BRAKING = "BRAKING"
    TELEOPERATED = "TELEOPERATED"
    FAULT = "FAULT"
    ESTOPPED = "ESTOPPED"


class _Mode(Enum):
    HOLD = auto()
    FOLLOW = auto()
    BRAKE = auto()
    SETTLE = auto()  # e-stop, protection: brake is over, the goal goes to the measured pose
    TELEOP = auto()


_STATE_OF_MODE = {
    _Mode.HOLD: ArmState.HOLDING,
    _Mode.FOLLOW: ArmState.FOLLOWING,
    _Mode.BRAKE: ArmState.BRAKING,
    _Mode.SETTLE: ArmState.BRAKING,
    _Mode.TELEOP: ArmState.TELEOPERATED,
}
_GIVING_WAY = (_Mode.HOLD, _Mode.FOLLOW, _Mode.TELEOP)  # modes that end when a joint does not follow
LEFT_HOLDING = "the servos held torque already, left so by an earlier node; their goals are kept"
SHADOW = "shadow mode: execute is false, trajectories are checked and not followed"


def why_aborted(state: ArmState, reason: str) -> str:
    """Why a trajectory that neither runs nor waits any more was not followed to its end."""
    if reason:
        return f"the arm is {state.value}: {reason}"
    if state is ArmState.FOLLOWING:
        return "replaced by another trajectory"
    if state is ArmState.READY:
        return "torque was switched off"
    return f"given up: the arm is {state.value}"


def goals_to_hold(position: Vector, goals: Vector, holds: NDArray[np.bool_]) -> Vector:
    """Goals with which an arm stays as it is, rad (6,): where it is.

    A servo that holds torque already keeps its own goal if that is near, so that nothing sags; and the
    gripper's in any case, since it squeezes something, and keeps it.

    position, goals: rad (6,), of joints and servos. holds: which servos hold torque (6,).
    """
    near = np.abs(goals - position) < PUSHING
    near[GRIPPER] = True
    return np.where(near & holds, goals, position)


class ArmController:
    """Decides each cycle's goal. Not thread-safe: the loop serialises access. Times are s on one monotonic
    clock."""

    def __init__(
        self,
        safety: SafetyFilter,
        *,
        lease: float,
        execute: bool = True,
        leader: Leader | None = None,
        slow_speed: float = 0.8,
        park_path: Sequence[Sequence[float]] = (),
    ) -> None:
        """lease: s without a heartbeat after which a leased trajectory is given up. execute False: nothing
        moves. leader: whom teleoperation follows. slow_speed: rad/s of moves that the arm makes by itself.
        park_path: way-points, rad (5,) each, to the pose from which torque off drops nothing."""
        self.safety, self.lease, self.execute = safety, lease, execute
        self.leader = leader or Leader(0.25, slow_speed)
        self.slow_speed, self.park_path = slow_speed, park_path
        self.verdict = WELL  # newest word of the protection
        self.blind = ""  # which servo does not answer; empty: all do
        self.let_go = False  # True: torque has to go off now, the arm is parked or cannot be
        self.active = False  # False: the lifecycle node is not active, trajectories are refused
        self.leaving = False  # True: the node ends, only its own parking moves the arm
        self.rejected = 0  # trajectories refused since start
        self.connected = False  # every servo answers
        self.torque = False
        self.fault = ""
        self.estop = ""  # reason of the latched e-stop; empty: not latched
        self.policy_state = ""  # newest state that the policy reported
        self.measured: Vector = np.zeros(6)  # rad
        self.measured_velocity: Vector = np.zeros(6)  # rad/s
        self._why = "" if execute else SHADOW
        self._mode = _Mode.HOLD
        self._motion: Motion | None = None
        self._waiting: Trajectory | None = None
        self._heartbeat = -np.inf
        self._driving = False  # the policy's newest status says that its trajectories are to be followed
        self._pause_began = -np.inf  # s, when it last left off driving
        self._pause_awaited = "the start of the node"  # until the policy pauses, its trajectories are refused
        self._settle_from = self._settle_until = 0.0
        self._settle_target: Vector | None = None
        self._unloadings = 0
        self._park_until: float | None = None  # s, end of the park move before a release; None: not begun

    @property
    def state(self) -> ArmState:
        """State for the outside."""
        if self.fault:
            return ArmState.FAULT
        if not self.connected:
            return ArmState.UNPOWERED
        if self.estop:
            return ArmState.ESTOPPED
        return _STATE_OF_MODE[self._mode] if self.torque else ArmState.READY

    @property
    def reason(self) -> str:
        """Why it holds or is at fault; empty while all is well."""
        if self._mode is _Mode.TELEOP:
            return self.leader.waits_for
        protecting = self.verdict.reason if self.verdict.stage >= Stage.HOLD else ""
        return self.fault or self.estop or self.blind or protecting or self._why

    @property
    def estop_does(self) -> str:
        """What a latched e-stop means in the present state, and what ends it."""
        ends = "arm/estop_release clears it"
        if self.fault:
            return (
                f"the arm is at fault ({self.fault}), so nothing is written to the servos any more: they "
                f"hold what they were told last, arm/torque false lets go; {ends}"
            )
        if not self.connected:
            return f"no servos are connected; {ends}"
        if not self.torque:
            return f"torque is off, so nothing moves; {ends}"
        return f"braking, then holding; {ends}"

    @property
    def speed_override(self) -> float:
        """Share of the speed limits in force: what the owner allows, times what the protection leaves."""
        return self.safety.speed_override * self.safety.slowdown

    @property
    def at_rest(self) -> bool:
        """True if nothing is commanded to move and the arm does not."""
        return self._mode is _Mode.HOLD and float(np.abs(self.measured_velocity).max()) < SETTLED_SPEED

    def grips(self, gap: float) -> bool:
        """True if something keeps the gripper from its goal by more than `gap`, rad: it holds it."""
        return abs(float(self.safety.position[GRIPPER] - self.measured[GRIPPER])) > gap

    def carries(self, trajectory: Trajectory) -> bool:
        """True while this trajectory runs or waits for its start."""
        running = self._motion is not None and self._motion.trajectory is trajectory
        return running or self._waiting is trajectory

    def update(self, position: Vector, velocity: Vector, dt: float = 0.0) -> None:
        """A complete measurement: rad, rad/s, `dt` s after the one before; 0: it is the first."""
        self.measured, self.measured_velocity = position, velocity
        if self.torque and dt > 0.0:
            self.safety.observe(position, dt)

    def connect(self, position: Vector, goals: Vector, torque: bool, partly: str = "") -> None:
        """Every servo answers. A fault stays until torque is switched.

        partly: what is to be said if only some servos hold.

        torque: the servos hold already (an earlier node left them so): their own goals, rad, become the
        reference (see `goals_to_hold`), and nothing is written.
        """
        self.connected, self.blind = True, ""
        self.update(position, np.zeros(6))
        self.torque = torque and not self.fault
        self.safety.reset(goals_to_hold(position, goals, np.full(6, self.torque)))
        self._clear(LEFT_HOLDING if self.torque else partly)

    def lose(self, reason: str) -> None:
        """The bus or a servo is gone: nothing more is sent, the servos hold their last goal on their own."""
        self.connected = False
        self.fail(reason)

    def disconnect(self) -> None:
        """The port is given back on purpose. The servos keep their torque; a latched e-stop stays, and so
        does a fault: only `arm/torque` ends it."""
        self.connected = self.torque = self.leaving = False
        self._clear("")

    def leave(self, reason: str) -> None:
        """The node ends: brakes, and takes nothing from outside any more. `move_slowly` still parks."""
        self.leaving = True
        self.brake(reason)

    def activate(self) -> None:
        """Trajectories are taken from now on, the policy's only after a pause. Nothing moves by that."""
        self.active = True
        self._pause_awaited = "the activation of the arm"

    def fail(self, reason: str) -> None:
        """A fault: nothing more is sent until torque is switched by hand."""
        self.fault = reason
        self.torque = self.let_go = False
        self.blind = ""
        self._clear(self._why)

    def check_torque_on(self) -> None:
        """Raises TransitionError where torque cannot be switched on."""
        if not self.execute:
            raise TransitionError(f"torque is left as it is: {SHADOW}")
        if not self.connected:
            raise TransitionError(f"the servos do not answer: {self.reason or 'not connected'}")

    def torque_on(self, position: Vector) -> None:
        """Torque is on and the servos' goals are `position`, rad. Clears a fault and a release of the
        protection. Nothing moves by that."""
        self.fault = ""
        self.torque = True
        self.verdict, self.let_go, self._park_until = WELL, False, None
        self._scale_speed()
        self._pause_awaited = "torque was switched on"
        self.safety.reset(position)
        self._clear("")

    def torque_off(self) -> None:
        """Torque is off, the arm is limp. Clears a fault, not the e-stop."""
        self.fault = ""
        self.torque = self.let_go = False
        self._clear("")

    def accept(self, trajectory: Trajectory, now: float) -> None:
        """Takes over a trajectory, at its start time. TrajectoryRejectedError if the state forbids it.

        It replaces the one that runs (and one that waits) at once, unless it starts in the future: then it
        waits. A leased one also waits, for as long as the lease, while the policy's newest status is not a
        driving one: chunk and status come on two topics, so the chunk may overtake the status sent before it.
        """
        self._check_may_move()
        if self.leaving:
            raise TrajectoryRejectedError("the arm node ends")
        if self._mode is _Mode.TELEOP:
            raise TrajectoryRejectedError("the arm is TELEOPERATED; end that with arm/teleop first")
        if trajectory.leased:
            if self._pause_awaited:
                raise TrajectoryRejectedError(
                    f"waiting for a new instruction or a pause of the policy after {self._pause_awaited}"
                )
            self._heartbeat = now
        if not self.execute:
            return
        if trajectory.start > now or (trajectory.leased and not self._driving):
            self._waiting = trajectory
        else:
            self._waiting = None
            self._begin(trajectory, now)

    def reject(self) -> None:
        """Counts a trajectory that was refused."""
        self.rejected += 1

    def move_slowly(self, waypoints: Sequence[Sequence[float]], speed: float, now: float) -> float:
        """Starts an internal one-shot trajectory from a standing arm; returns its duration, s.
        TransitionError.

        waypoints: rad (5,) each, the joints before the gripper, which keeps its goal and what it holds.
        """
        try:
            self._check_may_move()
        except TrajectoryRejectedError as error:
            raise TransitionError(str(error)) from error
        if not self.execute or not self.torque:
            raise TransitionError(SHADOW if not self.execute else "torque is off; call arm/torque first")
        if self._mode is not _Mode.HOLD:
            raise TransitionError(f"the arm is {self.state.value}; wait until it holds")
        return self._move_slowly(waypoints, speed, now)

    def engage(self, now: float) -> None:
        """The arm follows its leader from now on, after a slow ramp to the leader's pose. What runs is given
        up. TransitionError."""
        try:
            self._check_may_move()
        except TrajectoryRejectedError as error:
            raise TransitionError(str(error)) from error
        if not self.execute or self.leaving:
            raise TransitionError("the arm node ends" if self.leaving else SHADOW)
        if self.leader.stale(now):
            age = self.leader.age(now)
            heard = f"for {age:.2f} s" if np.isfinite(age) else "yet"
            limit = self.leader.age_limit
            raise TransitionError(
                f"nothing fresh on teleop/joint_command {heard} (limit {limit:g} s); start the leader first"
            )
        if self._mode is _Mode.TELEOP:
            return
        self._waiting = self._motion = None
        self._pause_awaited = "teleoperation"
        self.leader.begin(self.safety.position)
        self._mode, self._why = _Mode.TELEOP, ""

    def disengage(self, reason: str) -> None:
        """Ends teleoperation, if there is one: brakes, holds, and gives `reason`."""
        if self._mode is _Mode.TELEOP:
            self._brake(f"teleoperation ended: {reason}")

    def protect(self, verdict: Verdict) -> None:
        """The protection's newest word: slows, holds, or parks and then asks to `let_go`."""
        before, self.verdict = self.verdict.stage, verdict
        self._scale_speed()
        if verdict.stage < Stage.HOLD or before >= Stage.HOLD:
            return
        self._waiting = None
        if self._mode in (_Mode.FOLLOW, _Mode.HOLD, _Mode.TELEOP) and self.torque:
            self._brake(verdict.reason)

    def heartbeat(self, driving: bool, state: str, now: float) -> None:
        """The policy said what it does, `state`; a driving one keeps its lease, any other ends it at once.

        Which leased trajectory starts after a pause: one that comes after the status that ends the pause, or
        one that waits for that status and is not older than the pause.
        """
        self.policy_state = state
        if driving:
            self._heartbeat = now
            waiting = self._waiting
            if not self._driving and waiting is not None and waiting.start < self._pause_began:
                self._drop_leased()
            self._driving = True
            return
        if self._driving or self._pause_awaited:
            self._pause_began = now
        self._driving, self._pause_awaited = False, ""
        self._drop_leased()
        if self._motion is not None and self._motion.leased:
            self._brake(f"policy lease ended: the policy is {state}")

    def latch_estop(self, reason: str) -> None:
        """From now on: brake, hold the measured pose, refuse everything until `release_estop`."""
        if not self.estop:
            self.estop = reason
        self._waiting = None
        if self._mode in (_Mode.FOLLOW, _Mode.HOLD, _Mode.TELEOP) and self.torque:
            self._brake(self._why)

    def release_estop(self) -> None:
        """Clears the latch. Nothing moves by that, and the policy's trajectories are refused until it has
        paused."""
        if self.estop:
            self._pause_awaited = "the release of the e-stop"
        self.estop = ""

    def lose_sight(self, reason: str) -> None:
        """A servo does not answer, `reason` says which (empty: all do): brakes, and nothing moves until it
        answers."""
        if reason and not self.blind:
            self.brake(reason)
        self.blind = reason

    def brake(self, reason: str) -> None:
        """Stops whatever moves, within the acceleration limits, and forgets what waits."""
        self._waiting = None
        self.disengage(reason)
        if self._mode is _Mode.FOLLOW:
            self._brake(reason)

    def step(self, now: float, dt: float) -> Vector | None:
        """The goal to send in this cycle, rad (6,), or None if the servos' goals stand. `dt`: s since the
        last step."""
        if not (self.connected and self.torque and self.execute) or self.fault:
            return None
        self._start_waiting(now)
        if self.safety.blocked and self._mode in _GIVING_WAY:
            self._brake(self.safety.blocked)
        if self.verdict.stage is Stage.RELEASE:
            self._release(now)
        if self._mode is _Mode.FOLLOW:
            return self._follow(now, dt)
        if self._mode is _Mode.TELEOP:
            return self._track(now, dt)
        if self._mode is _Mode.BRAKE:
            return self._slow_down(now, dt)
        if self._mode is _Mode.SETTLE:
            return self._settle(now, dt)
        return None

    def _check_may_move(self) -> None:
        state = self.state
        if not self.active:
            raise TrajectoryRejectedError("the arm node is not active")
        if state in (ArmState.FAULT, ArmState.ESTOPPED, ArmState.UNPOWERED):
            raise TrajectoryRejectedError(f"the arm is {state.value}: {self.reason or 'not connected'}")
        if self.execute and state is ArmState.READY:
            raise TrajectoryRejectedError("torque is off; call arm/torque first")
        if self.verdict.stage >= Stage.HOLD:
            raise TrajectoryRejectedError(f"the arm is protected: {self.verdict.reason}")
        if self.blind:
            raise TrajectoryRejectedError(f"the arm does not move blindly: {self.blind}")

    def _scale_speed(self) -> None:
        self.safety.slowdown = max(self.verdict.speed, MIN_OVERRIDE)

    def _move_slowly(self, waypoints: Sequence[Sequence[float]], speed: float, now: float) -> float:
        whole = [[*waypoint, float(self.safety.position[GRIPPER])] for waypoint in waypoints]
        trajectory = slow_move(whole, self.safety.position, speed * self.speed_override, now)
        self._waiting = None
        self._begin(trajectory, now)
        return float(trajectory.times[-1] - now)

    def _release(self, now: float) -> None:
        """Parks first where the arm may move, in bounded time; then torque has to go. Not while a servo is
        silent: it comes back, or the silence becomes a fault."""
        if self.blind:
            return
        if self._mode is _Mode.HOLD and self._park_until is None and self.park_path and not self.estop:
            self._park_until = now + RELEASE_MARGIN
            self._park_until += self._move_slowly(self.park_path, self.slow_speed, now)
        elif self._mode is _Mode.HOLD:
            self.let_go = True
        elif self._mode is _Mode.FOLLOW and self._park_until is not None and now > self._park_until:
            self._brake(self.verdict.reason)

    def _track(self, now: float, dt: float) -> Vector:
        if self.leader.stale(now):
            age, limit = self.leader.age(now), self.leader.age_limit
            self.disengage(f"the leader is silent for {age:.2f} s (limit {limit:g} s)")
            return self._slow_down(now, dt)
        safety = self.safety
        return safety.step(self.leader.reference(now, dt, safety.position, self.speed_override), dt)

    def _start_waiting(self, now: float) -> None:
        trajectory = self._waiting
        if trajectory is None:
            return
        if trajectory.leased and now - self._heartbeat > self.lease:
            self._waiting = None
            if self._mode is _Mode.HOLD:
                self._why = self._silence(now)
        elif now >= trajectory.start and (self._driving or not trajectory.leased):
            self._waiting = None
            self._begin(trajectory, now)

    def _drop_leased(self) -> None:
        if self._waiting is not None and self._waiting.leased:
            self._waiting = None

    def _silence(self, now: float) -> str:
        said = f", the policy last said {self.policy_state}" if self.policy_state else ""
        return f"policy lease ended: no heartbeat for {now - self._heartbeat:.2f} s{said}"

    def _begin(self, trajectory: Trajectory, now: float) -> None:
        self._motion = Motion(trajectory, now, self.safety.position, self.safety.velocity)
        self._mode, self._why = _Mode.FOLLOW, ""

    def _follow(self, now: float, dt: float) -> Vector:
        motion = self._motion
        assert motion is not None
        if motion.leased and now - self._heartbeat > self.lease:
            self._drop_leased()
            self._brake(self._silence(now))
            return self._slow_down(now, dt)
        command = self.safety.step(motion.sample(now), dt)
        if now >= motion.end and self.safety.still:
            target = np.clip(motion.target, self.safety.limits.lower, self.safety.limits.upper)
            blocked = np.abs(command - target).max() > ARRIVED
            self._stand(f"stopped by the safety filter: {self.safety.reason}" if blocked else "")
        return command

    def _brake(self, reason: str) -> None:
        self._motion, self._mode, self._why = None, _Mode.BRAKE, reason
        self._settle_until, self._settle_target = 0.0, None

    def _slow_down(self, now: float, dt: float) -> Vector:
        command = self.safety.brake(dt)
        if self.safety.still:
            if self.estop or self.verdict.stage >= Stage.HOLD or self.safety.blocked:
                self._mode, self._settle_until = _Mode.SETTLE, now + SETTLE_TIME
                self._settle_from, self._unloadings = 0.0, 0
            else:
                self._stand(self._why)
        return command

    def _settle(self, now: float, dt: float) -> Vector | None:
        if self.blind:  # where it is now is not known, and a servo that is back may be limp
            self._settle_until, self._settle_target = now + SETTLE_TIME, None
            return None if self.safety.still else self.safety.brake(dt)
        if self._settle_target is None:
            moving = np.abs(self.measured_velocity).max() > SETTLED_SPEED
            if now < self._settle_from or (moving and now < self._settle_until):
                return None
            target = self.safety.position.copy()
            # A protected joint is in trouble now: with a stiff servo a smaller error is full torque, too.
            protected = self.verdict.stage >= Stage.HOLD
            pushing = np.abs(self.measured - target) > (UNLOADED if protected else PUSHING)
            pushing[GRIPPER] = False  # what it holds stays held
            self._settle_target = np.where(pushing, self.measured, target)
            self._unloadings = self._unloadings + 1 if protected and pushing.any() else UNLOADINGS
        command = self.safety.step(self._settle_target, dt)
        if self.safety.still and self._unloadings < UNLOADINGS:
            self._settle_target, self._settle_from = None, now + UNLOADING_PAUSE
            self._settle_until = now + SETTLE_TIME
        elif self.safety.still:
            self._stand(self._why)
        return command

    def _clear(self, reason: str) -> None:
        """Nothing runs and nothing waits any more."""
        self._waiting = None
        self._stand(reason)

    def _stand(self, reason: str) -> None:
        """What ran has ended; what waits for its start still waits."""
        self._motion, self._mode = None, _Mode.HOLD
        self._why = reason if self.execute else SHADOW
