# SPDX-License-Identifier: Apache-2.0
"""`chefmate serve`: a checkpoint for N1.5 clients. The client here is raw ZMQ and msgpack."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq

import chefmate.serve
from chefmate_policy.inference import server_backend, server_protocol

sys.path.insert(0, str(Path(__file__).resolve().parent))
from fake_server import array_of, npy
from small_checkpoint import write_small_checkpoint

CENTRE = (5.0, -10.0, 15.0, 20.0, -25.0, 40.0)
TOKEN = "let me in"


class RawClient:
    """Asks as the protocol says, with patience."""

    def __init__(self, address: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.REQ)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVTIMEO, 30_000)
        self._socket.connect(address)

    def say(self, *parts: bytes) -> Any:
        self._socket.send_multipart(parts)
        return msgpack.unpackb(self._socket.recv())

    def ask(self, endpoint: str, **more: Any) -> Any:
        return self.say(msgpack.packb({"endpoint": endpoint, **more}))

    def close(self) -> None:
        self._socket.close(0)
        self._context.term()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "checkpoint"
    return write_small_checkpoint(folder, cameras=("front", "wrist"), centre=CENTRE, resolution=(64, 48))


class Served:
    """One `chefmate serve` process and the address that it has told."""

    def __init__(
        self, start: Callable[..., Any], checkpoint: Path, *options: str, **environment: str
    ) -> None:
        command = ["python", "-m", "chefmate", "serve", str(checkpoint), "--port", "0", *options]
        self.process = start(command, env={"CHEFMATE_API_TOKEN": "", **environment})
        self.process.until_output(", for ", timeout=90.0)
        self.address = next(
            line.split(" at ")[1].split(",")[0] for line in self.process.lines if " at " in line
        )


@pytest.fixture
def client() -> Iterator[Callable[[str], RawClient]]:
    made: list[RawClient] = []

    def make(address: str) -> RawClient:
        made.append(RawClient(address))
        return made[-1]

    yield make
    for each in made:
        each.close()


def observation(**changes: Any) -> dict[str, Any]:
    """What an SO-100 client sends; None takes a key out."""
    frame = np.random.default_rng(5).integers(0, 255, (1, 48, 64, 3), dtype=np.uint8)
    known = {
        "video.front": npy(frame),
        "video.wrist": npy(frame[:, ::-1]),
        "state.single_arm": npy(np.array([CENTRE[:5]])),
        "state.gripper": npy(np.array([CENTRE[5:]])),
        "annotation.human.task_description": ["pick up the bread"],
    }
    for key, value in changes.items():
        known[key.replace("__", ".")] = value
    return {key: value for key, value in known.items() if value is not None}


def test_an_independent_client_is_served_on_localhost_and_cannot_kill(
    start_process: Callable[..., Any], checkpoint: Path, client: Callable[[str], RawClient]
) -> None:
    served = Served(start_process, checkpoint, "--seed", "3")
    assert served.address.startswith("tcp://127.0.0.1:")
    raw = client(served.address)
    assert raw.ask("ping")["status"] == "ok"
    modalities = raw.ask("get_modality_config")
    assert "action.single_arm" in modalities["action"]["as_json"]
    actions = raw.ask("get_action", data=observation())
    assert set(actions) == {"action.single_arm", "action.gripper"}
    arm, gripper = (array_of(actions[f"action.{key}"]) for key in ("single_arm", "gripper"))
    assert arm.shape == (16, 5) and gripper.shape == (16, 1)
    assert np.abs(arm - CENTRE[:5]).max() < 60.0
    again = raw.ask("get_action", data=observation())
    np.testing.assert_array_equal(array_of(again["action.single_arm"]), arm)
    other = raw.ask("get_action", data=observation(annotation__human__task_description=["drop the cheese"]))
    assert np.abs(array_of(other["action.single_arm"]) - arm).max() > 1e-6

    assert "kill is refused" in raw.ask("kill")["error"]
    for bad, words in BAD:
        reply = raw.say(*bad) if isinstance(bad, tuple) else raw.ask("get_action", data=bad)
        assert words in reply["error"]
    assert raw.ask("ping")["status"] == "ok"

    backend = server_backend.ServerBackend(
        server_backend.BackendSettings(
            JOINTS, ("scene", "wrist"), served.address, options={"cameras": ["front=scene"]}
        )
    )
    backend.load()  # units and rate come from the server
    assert served.process.stop() == 0


JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
BAD: list[tuple[Any, str]] = [
    (observation(video__front=None), "missing video.front"),
    (observation(video__top=[1]), "unknown video.top"),
    (observation(video__front=npy(np.zeros((1, 20, 30, 3), np.uint8))), "30x20"),
    (observation(video__front=npy(np.zeros((1, 48, 64, 3)))), "expected uint8"),
    (observation(state__gripper=npy(np.zeros((1, 2)))), "expected numbers (1, 1)"),
    (observation(state__gripper=npy(np.array([[np.inf]]))), "not finite"),
    (observation(annotation__human__task_description=None), "0 annotations"),
    (observation(annotation__human__task_description="bread"), "expected a list of one text"),
    (5, "data is int"),
    ((b"\xc1",), "no msgpack message"),
    ((msgpack.packb([1]),), "the request is list"),
    ((msgpack.packb({"endpoint": "reset"}),), "endpoint 'reset' is unknown"),
    ((b"a", b"b"), "2 parts"),
]


def test_with_a_token_all_endpoints_need_it_and_kill_ends_the_server(
    start_process: Callable[..., Any], checkpoint: Path, client: Callable[[str], RawClient], tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    served = Served(start_process, checkpoint, "--token-file", str(file))
    raw = client(served.address)
    for endpoint in ("ping", "get_modality_config", "get_action", "kill"):
        assert "Unauthorized" in raw.ask(endpoint)["error"]
        assert "Unauthorized" in raw.ask(endpoint, api_token="let me out")["error"]
        assert "Unauthorized" in raw.ask(endpoint, api_token=5)["error"]
    assert raw.ask("ping", api_token=TOKEN)["status"] == "ok"
    assert raw.ask("kill", api_token=TOKEN)["status"] == "ok"
    assert served.process.wait() == 0
    assert TOKEN not in served.process.output


def test_wrong_options_are_refused_before_the_checkpoint_is_loaded(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from chefmate.cli import main

    assert main(["serve", "nowhere", "--port", "99999"]) == 2
    assert main(["serve", "nowhere", "--token-file", str(tmp_path / "none")]) == 2
    (tmp_path / "empty").write_text("\n")
    assert main(["serve", "nowhere", "--token-file", str(tmp_path / "empty")]) == 2
    assert main(["serve", str(tmp_path / "nowhere")]) == 1
    words = capsys.readouterr().err
    assert all(part in words for part in ("--port 99999", "cannot be read", "is empty", "does not exist"))


def test_front_door_and_client_agree_on_names() -> None:
    assert chefmate.serve.TOKEN_VARIABLE == server_backend.TOKEN_VARIABLE
    assert chefmate.serve.DEFAULT_PORT == server_protocol.DEFAULT_PORT
