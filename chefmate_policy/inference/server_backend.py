# SPDX-License-Identifier: Apache-2.0
"""A policy server as a backend: an Isaac-GR00T N1.5 server, or `chefmate serve`, at tcp://host:port.

The server is asked what its keys are when it is first heard, and again whenever it was silent, since another
one may stand there then. In which units it counts joints and how far apart its actions are, the protocol does
not say: `chefmate serve` tells us, for others the parameters must.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
from numpy.typing import NDArray

from chefmate_policy.errors import PolicyError
from chefmate_policy.inference.backend import (
    BackendError,
    BackendSettings,
    BackendUnavailableError,
    Chunk,
    Observation,
)
from chefmate_policy.inference.options import camera_map, options_of, read_calibration
from chefmate_policy.inference.server_client import NoAnswerError, PolicyClient
from chefmate_policy.inference.server_protocol import LANGUAGE, Modality
from chefmate_policy.units import JointUnit, JointUnits, UnitError, so101_units

__all__ = ["TOKEN_VARIABLE", "ServerBackend", "ServerOptions"]

Array = NDArray[np.float64]

TOKEN_VARIABLE = "CHEFMATE_API_TOKEN"
ADDRESS = re.compile(r"tcp://(\[[0-9a-fA-F:]+\]|[\w.-]+):([1-9]\d{0,4})")
FIRST_PATIENCE = 1.0  # s that configuring waits for the server's first word
PING_WAIT = 0.05  # s that an inference waits for a server that was silent
MOST_STEPS = 256  # of a reply; GR00T N1.5 gives 16
PROGRESS = "action.task_progress"  # an optional channel of the reference, which is no joint


@dataclass(frozen=True)
class ServerOptions:
    """The node's parameters `model.*` that this backend knows; also as tcp://host:port?units=degrees&fps=30."""

    api_token: str = ""  # the server's; empty: the environment's CHEFMATE_API_TOKEN, if any
    timeout: float = 1.0  # s from asking to the reply; below the node's inference_limit
    units: str = ""  # of the body joints: degrees, -100..100, rad; empty: as the server says
    fps: float = 0.0  # Hz at which actions follow each other; 0: as the server says
    calibration: str = ""  # LeRobot's calibration file of this arm; -100..100 needs it
    cameras: tuple[str, ...] = ()  # server's camera=input, for example front=scene; empty: equal names
    parts: tuple[str, ...] = ("single_arm=5", "gripper=1")  # keys of state and action, and joints of each

    @classmethod
    def of(cls, given: Mapping[str, Any], query: str) -> ServerOptions:
        """From the node's parameters and the address's query. Raises BackendError."""
        values: dict[str, Any] = {}
        for name, value in parse_qsl(query, keep_blank_values=True):
            values[name] = value.split(",") if name in ("cameras", "parts") else value
        if "api_token" in values:
            raise BackendError(
                f"an address is shown and recorded, so it may hold no api_token; set {TOKEN_VARIABLE}."
            )
        options = options_of(cls, values | dict(given))
        if not 0.05 <= options.timeout <= 60.0:
            raise BackendError(f"parameter model.timeout is {options.timeout:g} s, not within 0.05 to 60.")
        if not 0.0 <= options.fps <= 1000.0:
            raise BackendError(f"parameter model.fps is {options.fps:g} Hz, not within 0 to 1000.")
        return options


@dataclass(frozen=True)
class Part:
    """One key of state and action, and which joints (of the server's vector) it holds."""

    key: str
    joints: slice


class ServerBackend:
    """See the module."""

    needs_images = True
    needs_joint_states = True
    needs_expert_state = False

    def __init__(self, settings: BackendSettings) -> None:
        self._settings = settings
        self._address = settings.checkpoint.partition("?")[0].rstrip("/")
        self._given_up = threading.Event()
        self._client: PolicyClient | None = None
        self._silent = True  # the server is to be greeted before it is asked

    @property
    def awaited(self) -> str:
        """Whom a chunk is awaited from, for people."""
        return f"policy server at {self._address}"

    @property
    def model_id(self) -> str:
        """server: and its address."""
        return f"server:{self._address.removeprefix('tcp://') or 'nothing'}"

    def load(self) -> None:
        """Looks whether the server is there. One that is silent is no error: it may come later.

        Raises:
            BackendError: address or parameters are wrong, or the server that is there does not fit.
        """
        address = ADDRESS.fullmatch(self._address)
        if not address or int(address[2]) > 65535:
            raise BackendError(
                f"checkpoint {self._settings.checkpoint!r} is no address of a policy server; give"
                " tcp://host:port, for example tcp://localhost:5555."
            )
        self._options = ServerOptions.of(self._settings.options, urlsplit(self._settings.checkpoint).query)
        self._parts = parts_of(self._options.parts, len(self._settings.joints))
        token = self._options.api_token or os.environ.get(TOKEN_VARIABLE, "")
        self._client = PolicyClient(self._address, token, self._given_up.is_set)
        try:
            self._greet(
                self._client, FIRST_PATIENCE, time.monotonic() + FIRST_PATIENCE + self._options.timeout
            )
        except BackendUnavailableError:
            self._silent = True  # said with each inference, by name

    def infer(self, observation: Observation) -> Chunk:
        """One chunk from the server, on the observation's clock.

        Raises:
            BackendUnavailableError: no answer in time.
            BackendError: the server refuses, answers with garbage, or does not fit.
        """
        if self._client is None:
            raise BackendError("the server's address is not loaded.")
        self._given_up.clear()
        started = time.perf_counter()
        deadline = time.monotonic() + self._options.timeout
        if self._silent:
            self._greet(self._client, min(PING_WAIT, self._options.timeout), deadline)
        request = self._request(observation)
        prepared = time.perf_counter()
        reply = self._asked(self._client, "get_action", request, deadline)
        values = action_values(reply, self._parts, len(self._settings.joints))
        positions = np.empty_like(values)
        positions[:, self._order] = self._units.radians(values)
        return Chunk(
            origin=observation.stamp,
            times=np.arange(len(values), dtype=np.float64) / self._fps,
            positions=positions,
            latency_preprocess=prepared - started,
            latency_model=time.perf_counter() - prepared,
        )

    def cancel(self) -> None:
        """Ends the wait for a reply that will not count."""
        self._given_up.set()

    def close(self) -> None:
        """Drops the connection."""
        if self._client is not None:
            self._client.close()
        self._client = None

    def _asked(self, client: PolicyClient, endpoint: str, data: Any, deadline: float) -> Any:
        try:
            return client.ask(endpoint, data, deadline)
        except NoAnswerError as error:
            self._silent = True
            raise BackendUnavailableError(str(error)) from error
        except PolicyError as error:
            self._silent = True
            raise BackendError(str(error)) from error

    def _greet(self, client: PolicyClient, patience: float, deadline: float) -> None:
        """Learns who is there. Raises BackendUnavailableError and BackendError."""
        try:
            told = client.ping(patience)
        except PolicyError as error:
            raise BackendError(str(error)) from error
        if told is None:
            raise BackendUnavailableError(client.silence())
        self._fit(told, self._asked(client, "get_modality_config", None, deadline))
        self._silent = False

    def _fit(self, told: Any, modalities: Any) -> None:
        """Takes over what the server says of itself. Raises BackendError naming what does not fit."""
        keys = {kind: modality_keys(modalities, kind, self._address) for kind in ("video", "state", "action")}
        for kind in ("state", "action"):
            wanted = {f"{kind}.{part.key}" for part in self._parts}
            offered = set(keys[kind]) - {PROGRESS}
            if wanted != offered:
                raise BackendError(
                    f"policy server at {self._address} has the {kind} keys {', '.join(sorted(offered))};"
                    f" parameter model.parts says {', '.join(sorted(wanted))}."
                )
        cameras = tuple(key.removeprefix("video.") for key in keys["video"])
        self._inputs = camera_map(cameras, self._settings.cameras, self._options.cameras, "policy server")
        self._language = (modality_keys(modalities, "language", self._address) or (LANGUAGE,))[0]
        told = told if isinstance(told, Mapping) else {}
        self._fps = self._options.fps or positive(told.get("fps"))
        if not self._fps:
            raise BackendError(
                f"policy server at {self._address} does not say how far apart its actions are; set parameter"
                " model.fps to the rate of its training data (LeRobot's default is 30)."
            )
        try:
            self._units = JointUnits(self._table(told))
            self._order = self._units.order(self._settings.joints)
        except UnitError as error:
            raise BackendError(f"policy server at {self._address}: {error}") from error

    def _table(self, told: Mapping[Any, Any]) -> tuple[JointUnit, ...]:
        """Joints and units of the server's vectors; without the server's word, in the node's order."""
        if self._options.units:
            calibration = read_calibration(self._options.calibration)
            return so101_units(self._settings.joints, self._options.units, calibration)
        entries = told.get("joints")
        if not entries:
            raise BackendError(
                f"policy server at {self._address} does not say in which units its joints are; set parameter"
                " model.units to degrees or -100..100 (LeRobot: use_degrees true or false), or rad."
            )
        if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
            raise BackendError(f"policy server at {self._address} names its joints as {str(entries)[:80]}.")
        return tuple(JointUnit.from_dict(entry) for entry in entries)

    def _request(self, observation: Observation) -> dict[str, Any]:
        values = self._units.values(np.asarray(observation.joint_positions, np.float64)[self._order])
        request: dict[str, Any] = {
            f"video.{camera}": observation.images[source].pixels[None]
            for camera, source in self._inputs.items()
        }
        request |= {f"state.{part.key}": values[None, part.joints] for part in self._parts}
        return request | {self._language: [observation.instruction]}


def positive(value: Any) -> float:
    """A positive finite number that came from outside, else 0."""
    number = float(value) if isinstance(value, (int, float)) else 0.0
    return number if 0.0 < number < float("inf") else 0.0


def parts_of(entries: tuple[str, ...], joints: int) -> tuple[Part, ...]:
    """Keys of the state and action vectors, of entries key=count. Raises BackendError."""
    parts, at = [], 0
    for entry in entries:
        found = re.fullmatch(r"\s*([\w.]+)\s*=\s*([1-9]\d?)\s*", entry)
        if not found:
            raise BackendError(f"parameter model.parts: {entry!r} must be key=number of joints.")
        parts.append(Part(found[1], slice(at, at + int(found[2]))))
        at += int(found[2])
    if at != joints or len({part.key for part in parts}) != len(parts):
        raise BackendError(f"parameter model.parts: {', '.join(entries)} does not share out {joints} joints.")
    return tuple(parts)


def modality_keys(modalities: Any, kind: str, address: str) -> tuple[str, ...]:
    """Keys of one kind. Raises BackendError: the answer to get_modality_config is none."""
    modality = modalities.get(kind) if isinstance(modalities, Mapping) else None
    if modality is None and kind == "language" and isinstance(modalities, Mapping):
        return ()
    if not isinstance(modality, Modality):
        raise BackendError(
            f"policy server at {address} has no {kind} in its get_modality_config: it is no N1.5 server."
        )
    return modality.modality_keys


def action_values(reply: Any, parts: tuple[Part, ...], joints: int) -> Array:
    """(T, joints) of a reply to get_action, in the server's units and order.

    Raises BackendError naming the key that is missing, unknown, of a wrong shape or not finite.
    """
    if not isinstance(reply, Mapping):
        raise BackendError(f"the server's reply is {type(reply).__name__}, expected a map of actions.")
    wanted = [f"action.{part.key}" for part in parts]
    missing = [key for key in wanted if key not in reply]
    extra = sorted(str(key)[:60] for key in reply if key not in (*wanted, PROGRESS))
    if missing or extra:
        raise BackendError(
            "the server's reply"
            + (f" lacks {', '.join(missing)}" if missing else "")
            + (" and" if missing and extra else "")
            + (f" has the unknown keys {', '.join(extra[:8])}" if extra else "")
            + f"; expected {', '.join(wanted)}."
        )
    steps = np.shape(reply[wanted[0]])[:1]
    if not steps or not 1 <= steps[0] <= MOST_STEPS:
        raise BackendError(
            f"{wanted[0]} of the server's reply has shape {np.shape(reply[wanted[0]])}: 1 to {MOST_STEPS}"
            " steps are let in."
        )
    values = np.empty((steps[0], joints))
    for key, part in zip(wanted, parts, strict=True):
        values[:, part.joints] = _part_values(key, reply[key], steps[0], part.joints.stop - part.joints.start)
    return values


def _part_values(key: str, given: Any, steps: int, width: int) -> Array:
    if not isinstance(given, np.ndarray) or given.dtype.kind not in "iuf":
        kind = given.dtype if isinstance(given, np.ndarray) else type(given).__name__
        raise BackendError(f"{key} of the server's reply is {kind}, expected an array of numbers.")
    shapes = ((steps, width), (steps,)) if width == 1 else ((steps, width),)
    if given.shape not in shapes:
        raise BackendError(f"{key} of the server's reply has shape {given.shape}, expected {shapes[0]}.")
    values = given.astype(np.float64).reshape(steps, width)
    if not np.all(np.isfinite(values)):
        row, column = (int(index) for index in np.argwhere(~np.isfinite(values))[0])
        raise BackendError(
            f"{key} of the server's reply is {values[row, column]} at step {row}, value {column}."
        )
    return values
