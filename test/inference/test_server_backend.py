# SPDX-License-Identifier: Apache-2.0
"""The server backend against an independent server: what it asks, and what it does when that is dead, slow,
restarting or answers with garbage."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from chefmate_policy.inference.backend import (
    BackendError,
    BackendSettings,
    BackendUnavailableError,
    CameraFrame,
    Chunk,
    Observation,
    create_backend,
)

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from conftest import until
from fake_server import FakeServer, array_of, modality, npy, still

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
ANGLES = (0.1, -0.2, 0.3, 0.4, -0.5, 0.6)  # rad
STOCK = {"units": "degrees", "fps": 30.0, "cameras": ["front=scene"]}
STAMP = 1000.0
BOUND = 1.0  # s that a call may take beyond its time-out on a busy machine


def observation(instruction: str = "pick up the bread") -> Observation:
    random = np.random.default_rng(3)
    images = {name: random.integers(0, 255, (48, 64, 3), dtype=np.uint8) for name in ("scene", "wrist")}
    return Observation(
        instruction=instruction,
        instruction_number=1,
        stamp=STAMP,
        stamps={},
        now=STAMP + 0.01,
        start=STAMP + 0.1,
        start_positions=np.array(ANGLES),
        joint_positions=np.array(ANGLES),
        joint_velocities=np.zeros(6),
        images={
            name: CameraFrame(STAMP, lambda image=image: image[:, :, ::-1]) for name, image in images.items()
        },
    )


def backend_at(address: str, joints: tuple[str, ...] = JOINTS, **options: Any) -> Any:
    """A loaded backend."""
    settings = BackendSettings(joints, ("scene", "wrist"), address, options=STOCK | options)
    backend = create_backend("server", settings)
    backend.load()
    return backend


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as started:
        yield started


def recovered(backend: Any) -> Chunk:
    """The first chunk, asked for as the node does."""

    def asked() -> Chunk | None:
        try:
            return backend.infer(observation())
        except BackendUnavailableError:
            return None

    return until(asked, 30.0, "a chunk")


def test_an_observation_goes_out_in_the_servers_terms_and_a_chunk_comes_back(server: FakeServer) -> None:
    chunk = recovered(backend_at(server.address))
    sent = server.observations[-1]
    assert set(sent) == {
        "video.front",
        "video.wrist",
        "state.single_arm",
        "state.gripper",
        "annotation.human.task_description",
    }
    front = array_of(sent["video.front"])
    assert front.dtype == np.uint8
    np.testing.assert_array_equal(front, observation().images["scene"].pixels[None])
    arm = array_of(sent["state.single_arm"])
    assert arm.dtype == np.float64
    np.testing.assert_allclose(arm, np.degrees([ANGLES[:5]]))
    gripper = 100.0 * (0.6 + 0.174533) / (1.74533 + 0.174533)
    np.testing.assert_allclose(array_of(sent["state.gripper"]), [[gripper]])
    assert sent["annotation.human.task_description"] == ["pick up the bread"]
    assert chunk.origin == STAMP
    np.testing.assert_allclose(chunk.times, np.arange(16) / 30.0)
    np.testing.assert_allclose(chunk.positions, np.tile(ANGLES, (16, 1)))


def test_a_server_that_says_units_and_rate_needs_no_parameters(server: FakeServer) -> None:
    server.pong |= {"fps": 20.0, "joints": [{"joint": joint, "unit": "rad"} for joint in reversed(JOINTS)]}
    server.modalities |= {"state": modality("state.all"), "action": modality("action.all", steps=8)}
    server.act = lambda seen: {"action.all": npy(np.repeat(array_of(seen["state.all"]), 8, axis=0))}
    chunk = recovered(backend_at(server.address, units="", fps=0.0, parts=["all=6"]))
    np.testing.assert_allclose(array_of(server.observations[-1]["state.all"]), [ANGLES[::-1]])
    np.testing.assert_allclose(chunk.positions, np.tile(ANGLES, (8, 1)))
    assert chunk.times[-1] == pytest.approx(7 / 20.0)


def test_parameters_may_stand_in_the_address(server: FakeServer) -> None:
    address = f"{server.address}?units=rad&fps=10&cameras=front=wrist,wrist=scene"
    settings = BackendSettings(JOINTS, ("scene", "wrist"), address)
    backend = create_backend("server", settings)
    backend.load()
    assert recovered(backend).times[1] == pytest.approx(0.1)
    assert backend.model_id == f"server:127.0.0.1:{server.port}"
    np.testing.assert_array_equal(
        array_of(server.observations[-1]["video.front"])[0], observation().images["wrist"].pixels
    )


def test_a_dead_server_is_named_within_its_time_and_found_when_it_comes() -> None:
    with FakeServer() as reserved:
        port = reserved.port
    started = time.monotonic()
    backend = backend_at(f"tcp://127.0.0.1:{port}", timeout=0.3)
    for _ in range(3):
        with pytest.raises(
            BackendUnavailableError, match=rf"policy server at tcp://127.0.0.1:{port} has not answered for \d"
        ):
            backend.infer(observation())
    assert time.monotonic() - started < 1.0 + 3 * 0.3 + BOUND
    with FakeServer(port):
        assert recovered(backend).positions.shape == (16, 6)


def test_a_slow_server_costs_the_timeout_once_and_its_late_answer_is_dropped(server: FakeServer) -> None:
    backend = backend_at(server.address, timeout=0.3)
    recovered(backend)

    def late(seen: dict[str, Any]) -> Any:
        server.go.clear()  # answers only when let go
        return {"action.single_arm": npy(np.zeros((16, 5))), "action.gripper": npy(np.zeros((16, 1)))}

    server.act = late
    started = time.monotonic()
    with pytest.raises(BackendUnavailableError, match=r"has not answered for 0.3 s$"):
        backend.infer(observation("an old instruction"))
    assert time.monotonic() - started < 0.3 + BOUND
    asked = len(server.observations)
    for _ in range(3):
        with pytest.raises(BackendUnavailableError):
            backend.infer(observation())
    server.act = still
    server.go.set()
    np.testing.assert_allclose(recovered(backend).positions, np.tile(ANGLES, (16, 1)))
    assert [seen["annotation.human.task_description"] for seen in server.observations[asked:]] == [
        ["pick up the bread"]
    ]


def test_a_restarted_server_is_asked_again_what_it_is() -> None:
    with FakeServer() as first:
        backend = backend_at(first.address, timeout=0.3)
        recovered(backend)
    with pytest.raises(BackendUnavailableError):
        backend.infer(observation())
    with FakeServer(first.port) as second:
        second.modalities["action"] = modality("action.left_arm", "action.gripper")
        with pytest.raises(BackendError, match=r"action keys action.gripper, action.left_arm"):
            recovered(backend)
        second.modalities["action"] = modality("action.single_arm", "action.gripper")
        recovered(backend)


def test_a_cancelled_question_is_not_waited_for(server: FakeServer) -> None:
    backend = backend_at(server.address, timeout=30.0)
    recovered(backend)
    server.act = lambda seen: None
    seen = len(server.observations)
    errors: list[Exception] = []

    def ask() -> None:
        try:
            backend.infer(observation())
        except BackendUnavailableError as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    until(lambda: len(server.observations) > seen, 10.0, "the question")
    backend.cancel()
    thread.join(5.0)
    assert errors and not thread.is_alive()
    server.act = still
    recovered(backend)


def header(text: str) -> dict[str, Any]:
    """An array's map with this .npy header and 8 bytes of body."""
    padded = text.ljust(117) + "\n"
    body = b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded.encode() + bytes(8)
    return {"__ndarray_class__": True, "as_npy": body}


def reply(**changes: Any) -> dict[str, Any]:
    """A good reply but for these keys (without `action.`); None takes one out."""
    good = {"single_arm": npy(np.zeros((16, 5))), "gripper": npy(np.zeros((16, 1)))} | changes
    return {f"action.{key}": value for key, value in good.items() if value is not None}


NAN = np.zeros((16, 5))
NAN[3, 2] = np.nan
GARBAGE = {
    "noise": (b"\xc1\x00hello", "answered with garbage"),
    "nothing": (b"", "answered with garbage"),
    "a pickle": (b"\x80\x04K\x05.", "answered with garbage"),
    "a number": (msgpack.packb(5), "reply is int"),
    "a list": ([1, 2], "reply is list"),
    "words": ({"error": "CUDA out of memory"}, "refuses: CUDA out of memory"),
    "objects": (
        reply(gripper=header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }")),
        "object is not",
    ),
    "a huge claim": (
        reply(gripper=header("{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999,), }")),
        "does not have 8 bytes",
    ),
    "an archive": (
        reply(gripper={"__ndarray_class__": True, "as_npy": b"PK\x03\x04" * 9}),
        "no readable .npy",
    ),
    "a missing key": (
        reply(gripper=None),
        r"lacks action.gripper; expected action.single_arm, action.gripper",
    ),
    "another key": (reply(left_leg=npy(np.zeros(16))), "unknown keys action.left_leg"),
    "a wrong width": (
        reply(single_arm=npy(np.zeros((16, 6)))),
        r"single_arm .* \(16, 6\), expected \(16, 5\)",
    ),
    "other steps": (reply(gripper=npy(np.zeros((15, 1)))), r"gripper .* \(15, 1\), expected \(16, 1\)"),
    "no steps": (reply(single_arm=npy(np.zeros((0, 5)))), "1 to 256 steps"),
    "texts": (reply(gripper=npy(np.full((16, 1), "up"))), "gripper .* expected an array of numbers"),
    "plain lists": (reply(gripper=[[0.0]] * 16), "gripper .* is list"),
    "not a number": (reply(single_arm=npy(NAN)), "single_arm .* is nan at step 3, value 2"),
    "too much": (reply(gripper=npy(np.zeros(2**19 + 1))), "has not answered"),  # above the limit of 4 MiB
}


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_is_named_and_never_becomes_a_chunk(server: FakeServer, what: str) -> None:
    answer, words = GARBAGE[what]
    backend = backend_at(server.address)
    server.act = lambda seen: answer
    with pytest.raises(BackendError, match=words):
        until(lambda: backend.infer(observation()), 10.0, "garbage")
    server.act = still
    assert recovered(backend).positions.shape == (16, 6)


def test_a_wrong_token_is_said_and_a_right_one_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHEFMATE_API_TOKEN", raising=False)
    with FakeServer(token="let me in") as server:
        with pytest.raises(BackendError, match="refuses: Unauthorized"):
            backend_at(server.address)
        recovered(backend_at(server.address, api_token="let me in"))
        monkeypatch.setenv("CHEFMATE_API_TOKEN", "let me in")
        recovered(backend_at(server.address))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"units": ""}, r"model.units to degrees or -100..100"),
        ({"fps": 0.0}, "model.fps"),
        ({"cameras": []}, r"model.cameras, for example \[front=scene\]"),
        ({"parts": ["single_arm=6"]}, "state keys state.gripper, state.single_arm; parameter model.parts"),
        ({"parts": ["single_arm=5"]}, "does not share out 6 joints"),
        ({"units": "-100..100"}, "calibration"),
        ({"timeout": 0.0}, "model.timeout"),
        ({"port": 5555}, "model.port is unknown"),
    ],
)
def test_what_does_not_fit_is_refused_at_load(
    server: FakeServer, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(BackendError, match=words):
        backend_at(server.address, **options)


@pytest.mark.parametrize("address", ["", "localhost:5555", "tcp://host", "tcp://a:99999", "ipc:///tmp/x"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(BackendError, match="tcp://host:port"):
        backend_at(address)


def test_a_token_in_the_address_is_refused() -> None:
    with pytest.raises(BackendError, match="CHEFMATE_API_TOKEN"):
        backend_at("tcp://localhost:1?api_token=x")


def test_angles_are_the_arms_whatever_the_order_of_its_joints(server: FakeServer) -> None:
    server.pong |= {"joints": [{"joint": joint, "unit": "rad"} for joint in JOINTS]}
    chunk = recovered(backend_at(server.address, JOINTS[::-1], units=""))
    np.testing.assert_allclose(array_of(server.observations[-1]["state.gripper"]), [[ANGLES[0]]])
    np.testing.assert_allclose(chunk.positions, np.tile(ANGLES, (16, 1)))
    assert math.isfinite(chunk.latency_model)
