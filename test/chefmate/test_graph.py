# SPDX-License-Identifier: Apache-2.0
"""graph.py: what the arguments become, and that bringup.launch.py starts the same."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import yaml

from chefmate import graph
from chefmate.errors import ArgumentError, WorkspaceError
from chefmate_policy.sequencer.recipes import RecipeError

ROOT = Path(__file__).parents[2]
REAL_ARM = {
    "arm": "/dev/ttyACM0",
    "scene_camera": "v4l2:0",
    "wrist_camera": "v4l2:2",
    "calibration": "arm.json",
    "policy": "my_policy.backend:Backend",
}


def names(nodes: list[graph.Node]) -> list[str]:
    return [node.name for node in nodes]


def by_name(nodes: list[graph.Node], name: str) -> graph.Node:
    return next(node for node in nodes if node.name == name)


def test_default_graph_is_the_twin_with_every_node() -> None:
    assert names(graph.describe({}, ROOT)) == [
        "kitchen",
        "arm",
        "scene_camera",
        "wrist_camera",
        "policy",
        "perception",
        "sequencer",
        "robot_state_publisher",
    ]


def test_twin_and_real_arm_differ_by_the_port_only() -> None:
    twin = dict(by_name(graph.describe({}, ROOT, run="x"), "arm").parameters)
    real = dict(by_name(graph.describe(REAL_ARM, ROOT), "arm").parameters)
    assert twin.keys() == real.keys()
    assert real["port"] == "/dev/ttyACM0"
    differing = {key for key in twin if twin[key] != real[key]}
    assert differing == {"port", "port_timeout", "calibration", "torque_on_start", "park_on_shutdown"}
    assert "kitchen" not in names(graph.describe(REAL_ARM, ROOT))


def test_supervision_follows_the_design() -> None:
    nodes = graph.describe({"record": "bag", "rviz": "true"}, ROOT)
    assert {node.name for node in nodes if node.required} == {"kitchen", "arm", "policy"}
    assert {"scene_camera", "wrist_camera", "perception", "sequencer"} <= {n.name for n in nodes if n.respawn}
    commanding = [node.stop_order for node in nodes if node.name in ("policy", "sequencer")]
    assert all(order < by_name(nodes, "arm").stop_order for order in commanding)
    assert by_name(nodes, "arm").stop_order < by_name(nodes, "kitchen").stop_order


def test_two_runs_on_one_machine_share_nothing() -> None:
    one, two = (by_name(graph.describe({}, ROOT, run=run), "kitchen").parameters for run in ("1", "2"))
    assert one["port"] != two["port"]
    assert one["shared_memory"] != two["shared_memory"]


def test_a_leader_arm_brings_its_node_and_never_ends_the_graph() -> None:
    assert "teleop" not in names(graph.describe({}, ROOT))
    leader = {"teleop": "/dev/leader", "teleop_calibration": "my_leader"}
    node = by_name(graph.describe(leader, ROOT), "teleop")
    assert dict(node.parameters) == {"port": "/dev/leader", "calibration": "my_leader"}
    assert node.respawn and not node.required


def test_a_checkpoint_drives_through_the_local_backend(tmp_path: Path) -> None:
    for policy, checkpoint in ((str(tmp_path), str(tmp_path)), ("nvidia/GR00T-N1.5-3B",) * 2):
        parameters = by_name(graph.describe({"policy": policy}, ROOT), "policy").parameters
        assert (parameters["backend"], parameters["checkpoint"]) == ("local", checkpoint)
    expert = graph.describe({"policy": "expert"}, ROOT)
    assert "checkpoint" not in by_name(expert, "policy").parameters


def test_a_policy_that_comes_along_is_called_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "policies" / "cook"
    folder.mkdir(parents=True)
    monkeypatch.setattr(
        graph,
        "share_places",
        lambda *parts: [tmp_path.joinpath("nowhere", *parts), tmp_path.joinpath(*parts)],
    )
    with pytest.raises(ArgumentError, match="'cook' is neither expert, nor a policy that comes along"):
        graph.describe({"policy": "cook"}, ROOT)
    (folder / "config.json").write_text("{}")
    parameters = by_name(graph.describe({"policy": "cook"}, ROOT), "policy").parameters
    assert (parameters["backend"], parameters["checkpoint"]) == ("local", str(folder))
    with pytest.raises(ArgumentError, match="policy:=cook has seen the twin's pictures only"):
        graph.describe({**REAL_ARM, "policy": "cook"}, ROOT)


def test_the_default_policy_is_there() -> None:
    assert graph.policy_parameters(graph.DEFAULT_POLICY)["backend"] in ("expert", "local")


def test_an_address_drives_through_the_server_backend() -> None:
    address = "tcp://gpu:5555?units=degrees&fps=30"
    parameters = by_name(graph.describe({"policy": address}, ROOT), "policy").parameters
    assert (parameters["backend"], parameters["checkpoint"]) == ("server", address)


def test_shadow_mode_reaches_arm_and_policy() -> None:
    nodes = graph.describe({"execute": "false"}, ROOT)
    assert by_name(nodes, "arm").parameters["execute"] is False
    assert by_name(nodes, "policy").parameters["execute"] is False


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"amr": "twin"}, "unknown argument 'amr'"),
        ({"execute": "maybe"}, "not one of true, false"),
        ({"seed": "one"}, "seed"),
        ({"seed": "-1"}, "whole number from 0"),
        ({"seed": "99999999999999999999"}, "whole number from 0"),
        ({"policy": "nowhere"}, "nor the folder or hub id"),
        ({"record": "/"}, "exists already"),
        ({"scene_camera": "bogus"}, "not a source"),
        ({"workcell": "nowhere.yaml"}, "not a file"),
        ({"speed": "1.5"}, "0.1 and 1.0"),
        ({"teleop": "/dev/leader"}, "needs teleop_calibration"),
        ({"namespace": "left arm"}, "ROS name"),
        ({"arm": "/dev/ttyACM0"}, "scene_camera must be given"),
        ({**REAL_ARM, "policy": "expert"}, "cannot drive a real arm"),
    ],
)
def test_bad_argument_is_named(values: dict[str, str], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        graph.describe(values, ROOT)


def test_a_recipe_is_looked_at_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    own = tmp_path / "chefmate" / "recipes"
    own.mkdir(parents=True)
    (own / "mine.yml").write_text("steps:\n- ingredient: bred\n  instruction: x\n")
    with pytest.raises(ArgumentError, match=r"unknown recipe 'nope'; known are: cheese_sandwich, mine, "):
        graph.describe({"recipe": "nope"}, ROOT)
    with pytest.raises(RecipeError, match=r"mine\.yml:2: ingredient: 'bred'"):
        graph.describe({"recipe": "mine"}, ROOT)
    sequencer = by_name(graph.describe({"recipe": "cheese_sandwich"}, ROOT), "sequencer")
    assert sequencer.parameters["recipe"] == "cheese_sandwich" and sequencer.parameters["workcell"] == ""


def test_the_table_says_which_ingredients_a_recipe_may_name(tmp_path: Path) -> None:
    table = tmp_path / "table.yaml"
    text = (ROOT / "config" / "workcell_twin.yaml").read_text().replace("\n  cheese:\n", "\n  gouda:\n")
    table.write_text(text)
    with pytest.raises(RecipeError, match=r"'cheese' is none .*gouda.*table\.yaml"):
        graph.describe({"recipe": "cheese_sandwich", "workcell": str(table)}, ROOT)
    sequencer = by_name(graph.describe({"workcell": str(table)}, ROOT), "sequencer")
    assert sequencer.parameters["workcell"] == str(table)


def test_every_parameter_that_the_graph_sets_stands_in_the_config_files() -> None:
    for node in graph.describe({"record": "bag", "teleop": "port", "teleop_calibration": "leader"}, ROOT):
        known: set[str] = set()
        for file in node.parameter_files:
            (tree,) = yaml.safe_load(Path(file).read_text()).values()
            known |= set(tree["ros__parameters"])
        assert set(node.parameters) <= known or not node.parameter_files, node.name


class Recorded:
    """Stands in for a class of launch: remembers how it was built."""

    def __init__(self, *positional: Any, **named: Any) -> None:
        self.positional, self.named = positional, named


def load_launch_file(monkeypatch: pytest.MonkeyPatch) -> tuple[types.ModuleType, dict[str, type]]:
    """bringup.launch.py with recording stand-ins for launch, which PyPI does not have."""
    kinds = {
        name: type(name, (Recorded,), {})
        for name in (
            "LaunchDescription",
            "LaunchContext",
            "DeclareLaunchArgument",
            "LogInfo",
            "OpaqueFunction",
            "Shutdown",
            "EnvironmentVariable",
            "LaunchConfiguration",
            "Node",
        )
    }
    kinds["LaunchConfiguration"].perform = lambda self, context: context[self.positional[0]]  # type: ignore[attr-defined]
    for module in ("launch", "launch.actions", "launch.substitutions", "launch_ros", "launch_ros.actions"):
        stub = types.ModuleType(module)
        vars(stub).update(kinds)
        monkeypatch.setitem(sys.modules, module, stub)
    vars(sys.modules["launch_ros"])["actions"] = sys.modules["launch_ros.actions"]
    spec = importlib.util.spec_from_file_location("bringup", ROOT / "launch" / "bringup.launch.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, kinds


def test_launch_file_declares_the_arguments_of_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    module, kinds = load_launch_file(monkeypatch)
    (entities,) = module.generate_launch_description().positional
    declared = [entity for entity in entities if isinstance(entity, kinds["DeclareLaunchArgument"])]
    assert [entity.positional[0] for entity in declared] == list(graph.DEFAULTS)
    for entity, argument in zip(declared, graph.ARGUMENTS, strict=True):
        assert entity.named["default_value"] == argument.default
        assert entity.named["description"] == argument.description
        assert entity.named.get("choices", []) == list(argument.choices)


@pytest.mark.parametrize(
    "values", [{}, {"execute": "false", "namespace": "left"}, REAL_ARM, {"record": "bag"}]
)
def test_launch_file_starts_the_nodes_of_the_graph(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str]
) -> None:
    module, _ = load_launch_file(monkeypatch)
    started = module.start_graph({**graph.DEFAULTS, **values})
    expected = [
        node
        for node in graph.describe(values, module_share(module))
        if not node.ros_only or module.installed(node.package)
    ]
    assert [action.named["name"] for action in started] == names(expected)
    for action, node in zip(started, expected, strict=True):
        named = action.named
        assert (named["package"], named["executable"], named["namespace"]) == (
            node.package,
            node.executable,
            node.namespace,
        )
        assert named["parameters"] == [*node.parameter_files, dict(node.parameters)]
        for field in ("arguments", "ros_arguments", "remappings"):
            assert named[field] == list(getattr(node, field))
        assert named["respawn"] == node.respawn
        assert bool(named["on_exit"]) == node.required
        assert named["additional_env"] == dict(node.environment)
        assert named["prefix"] == (f"nice -n {node.niceness}" if node.niceness else None)


def test_launch_says_what_to_install_for_rviz(monkeypatch: pytest.MonkeyPatch) -> None:
    module, _ = load_launch_file(monkeypatch)
    monkeypatch.setattr(module, "installed", lambda package: package == "chefmate")
    with pytest.raises(WorkspaceError, match=r"rviz:=true needs rviz2.*apt install ros-\w+-rviz2"):
        module.start_graph({**graph.DEFAULTS, "rviz": "true"})
    started = [action.named["name"] for action in module.start_graph(dict(graph.DEFAULTS))]
    assert "arm" in started and "robot_state_publisher" not in started


@pytest.mark.parametrize(
    ("shutting_down", "code", "failed"), [(True, 1, False), (False, 0, False), (False, -9, True)]
)
def test_a_required_node_that_was_told_to_end_is_no_failure_of_the_launch(
    monkeypatch: pytest.MonkeyPatch, shutting_down: bool, code: int, failed: bool
) -> None:
    """A terminal's ctrl-C reaches the nodes before launch, so one may have ended in order already."""
    module, kinds = load_launch_file(monkeypatch)
    event = types.SimpleNamespace(returncode=code)
    context = types.SimpleNamespace(is_shutdown=shutting_down, locals=types.SimpleNamespace(event=event))
    if failed:
        with pytest.raises(RuntimeError, match="arm ended"):
            module.end_graph(context, "arm")
    else:
        ended = module.end_graph(context, "arm")
        assert [type(action) for action in ended] == ([] if shutting_down else [kinds["Shutdown"]])


@pytest.mark.parametrize(
    ("values", "rate"),
    [
        ({"policy": "expert"}, 10.0),
        ({"policy": "expert", "image_rate": "0"}, 0.0),
        ({"policy": "kitchen"}, 10.0),
        (REAL_ARM, 0.0),
        ({**REAL_ARM, "policy": "nvidia/GR00T-N1.5-3B"}, 0.0),
    ],
)
def test_cameras_of_the_twin_draw_fewer_pictures(values: dict[str, str], rate: float) -> None:
    nodes = graph.describe(values, ROOT)
    assert {n.parameters["image_rate"] for n in nodes if n.executable == "camera_node"} == {rate}


def test_the_arm_goes_back_between_attempts_of_a_learned_policy_alone() -> None:
    expert, kitchen = (
        by_name(graph.describe({"policy": p}, ROOT), "sequencer") for p in ("expert", "kitchen")
    )
    assert expert.parameters["return_time"] == 0.0 and "return_time" not in kitchen.parameters


def module_share(module: types.ModuleType) -> Path:
    return Path(module.get_package_share_directory("chefmate"))
