# SPDX-License-Identifier: Apache-2.0
"""Parameters of the arm node as data: name, default, range, description. config/arm.yaml holds each one
explicitly."""

from __future__ import annotations

from chefmate_ros.parameters import Parameter

# The joints before the gripper, which stays as it is: what it holds is not dropped on the way.
# Folded: lift and elbow rest at their ends. In the twin torque off then moves no joint by more than 0.03 rad.
PARK_POSE = [0.0, -1.72, 1.66, 0.9, 0.0]
# Gripper near the base and above the table, out of the scene camera's way.
HOME_POSE = [0.0, -1.45, 1.10, 1.15, 0.048]

PARAMETERS: tuple[Parameter, ...] = (
    Parameter("autostart", True, "Configure and activate by itself; false: wait for lifecycle services."),
    Parameter("port", "/dev/ttyACM0", "Serial port of the servo bus (a link to a pty in the twin)."),
    Parameter("baudrate", 1_000_000, "Speed of the bus, bit/s.", (38_400, 1_000_000)),
    Parameter("port_timeout", 0.0, "How long configure waits for port and servos, s.", (0.0, 600.0)),
    Parameter("reply_timeout", 0.02, "Silence after which a servo's reply counts as lost, s.", (0.001, 0.5)),
    Parameter("retries", 2, "How often a request on the bus is repeated.", (0, 5)),
    Parameter("answer_timeout", 0.5, "Silence of a servo after which it is a fault, s.", (0.05, 5.0)),
    Parameter("calibration", "", "LeRobot calibration: path of the JSON file, or its id."),
    Parameter("rate", 100.0, "Control cycles and joint_states per second, Hz.", (20.0, 250.0)),
    Parameter("health_rate", 10.0, "arm/health per second, Hz.", (1.0, 50.0)),
    Parameter("velocity_limits", [2.0, 2.0, 2.5, 3.0, 4.0, 4.0], "Largest speed of each joint, rad/s."),
    Parameter(
        "acceleration_limits",
        [10.0, 10.0, 12.0, 20.0, 30.0, 40.0],
        "Largest acceleration of each joint, also of every stop, rad/s^2.",
    ),
    Parameter(
        "workspace_floor",
        0.0,
        "Height of the table over the foot of the base, m; every part of the arm stays above.",
        (-0.5, 0.5),
    ),
    Parameter("self_clearance", 0.005, "Room that stays between the arm and its own body, m.", (0.0, 0.05)),
    Parameter("self_collision", True, "False: the arm's own body is not watched."),
    Parameter(
        "following_limits",
        [0.12, 0.25],
        "Lag of a joint behind its command that slows, then stops the arm, rad.",
    ),
    Parameter("following_lag", 0.1, "A moving joint may besides lag by this times its speed, s.", (0.0, 0.5)),
    Parameter("speed_override", 1.0, "Share of the speed limits in force.", (0.1, 1.0), live=True),
    Parameter("execute", True, "False is shadow mode: everything is checked, no goal is ever written."),
    Parameter("lease", 0.25, "Silence of the policy after which its trajectory is given up, s.", (0.05, 2.0)),
    Parameter("teleop_timeout", 0.25, "Age of a leader's command that ends teleoperation, s.", (0.05, 2.0)),
    Parameter(
        "realtime_priority", 40, "SCHED_FIFO priority of the control loop, where permitted; 0: none.", (0, 99)
    ),
    Parameter("torque_on_start", False, "Switch torque on when activated, holding the pose found."),
    Parameter(
        "park_on_shutdown",
        True,
        "Park and switch torque off when ended by a signal while active; a second signal ends that.",
        live=True,
    ),
    Parameter("home_pose", HOME_POSE, "Where arm/home goes, rad, the five joints before the gripper."),
    Parameter("park_pose", PARK_POSE, "Where arm/park goes by way of home_pose, rad, five joints."),
    Parameter(
        "slow_speed", 0.8, "Fastest joint of arm/home, arm/park and of engagement, rad/s.", (0.05, 2.0)
    ),
    Parameter(
        "black_box_folder", "", "Where faults and e-stops are written; empty: black_box in ROS's log folder."
    ),
    Parameter("black_box_files", 20, "Files kept there, the oldest go; 0: none is written.", (0, 1000)),
    # Protection of the servos: docs/safety.md.
    Parameter(
        "supply_voltage", 12.0, "Nominal supply, V: 12, or 5 to 7.4 for the low-voltage STS3215.", (4.5, 14.0)
    ),
    Parameter(
        "temperature_limits",
        [55.0, 60.0, 65.0],
        "Temperature of a servo that slows, holds, releases, degree Celsius; the servo itself stops at 70.",
    ),
    Parameter(
        "current_limits",
        [1.5, 2.0, 2.4],
        "Average current of a servo that slows, holds, releases, A; stall is 2.7.",
    ),
    Parameter("current_time", 2.0, "Time constant of that average, s.", (0.2, 30.0)),
    Parameter(
        "overload", 0.7, "Load that counts as overload, share of full duty; the servo's is 0.8.", (0.2, 1.0)
    ),
    Parameter(
        "overload_times",
        [0.5, 1.0, 8.0],
        "Time in overload that slows, holds, releases, s; the servo's own is 2.",
    ),
    Parameter(
        "protection_speed", 0.3, "Share of the speed limits just before the protection holds.", (0.1, 1.0)
    ),
    Parameter(
        "grip_torque", 0.5, "Gripper's torque limit while it closes or opens, share of stall.", (0.05, 1.0)
    ),
    Parameter("grip_hold_torque", 0.22, "Load of the gripper in a long hold, share of stall.", (0.05, 1.0)),
    Parameter("grip_hold_current", 0.6, "Current of the gripper in a long hold, A.", (0.05, 2.7)),
    Parameter(
        "grip_least_torque", 0.15, "The gripper's torque limit never sinks below, of stall.", (0.05, 1.0)
    ),
    Parameter(
        "grip_patience", 0.3, "Time of pushing before the gripper's torque limit sinks, s.", (0.0, 5.0)
    ),
)
