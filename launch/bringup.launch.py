# SPDX-License-Identifier: Apache-2.0
"""Brings up the graph of chefmate/graph.py: kitchen (twin), arm, cameras, policy, perception, sequencer."""

from pathlib import Path

import launch_ros.actions
from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction, Shutdown
from launch.substitutions import EnvironmentVariable, LaunchConfiguration

from chefmate import graph


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            *[declare(argument) for argument in graph.ARGUMENTS],
            LogInfo(msg=["ROS_DOMAIN_ID=", EnvironmentVariable("ROS_DOMAIN_ID", default_value="0")]),
            OpaqueFunction(function=start_graph),
        ]
    )


def declare(argument: graph.Argument) -> DeclareLaunchArgument:
    """One launch argument."""
    choices = {"choices": list(argument.choices)} if argument.choices else {}
    return DeclareLaunchArgument(
        argument.name, default_value=argument.default, description=argument.description, **choices
    )


def start_graph(context: LaunchContext) -> list[launch_ros.actions.Node]:
    """The nodes for the arguments as given."""
    values = {name: LaunchConfiguration(name).perform(context) for name in graph.DEFAULTS}
    share = Path(get_package_share_directory("chefmate"))
    actions = []
    for node in graph.describe(values, share):
        if installed(node.package):
            actions.append(action(node))
        else:
            graph.leave_out(node)
    return actions


def action(node: graph.Node) -> launch_ros.actions.Node:
    """One node of the graph as launch starts it."""
    return launch_ros.actions.Node(
        package=node.package,
        executable=node.executable,
        name=node.name,
        namespace=node.namespace,
        parameters=[*node.parameter_files, dict(node.parameters)],
        remappings=list(node.remappings),
        ros_arguments=list(node.ros_arguments),
        arguments=list(node.arguments),
        additional_env=dict(node.environment),
        respawn=node.respawn,
        respawn_delay=1.0,
        on_exit=[OpaqueFunction(function=end_graph, args=[node.name])] if node.required else None,
        output="screen",
        emulate_tty=True,
        prefix=f"nice -n {node.niceness}" if node.niceness else None,
    )


def end_graph(context: LaunchContext, name: str) -> list[Shutdown]:
    """A required node ended, which ends the graph: with a failure (exit code 1), unless it was told to. A
    terminal's ctrl-C goes to every node, and the first may have ended before launch has heard of it."""
    if context.is_shutdown:
        return []
    if context.locals.event.returncode != 0:
        raise RuntimeError(f"{name} ended; the graph cannot go on without it")
    return [Shutdown(reason=f"{name} ended")]


def installed(package: str) -> bool:
    """True where the package can be found."""
    try:
        get_package_share_directory(package)
    except PackageNotFoundError:
        return False
    return True
