# SPDX-License-Identifier: Apache-2.0
"""Pictures of the twin: a renderer for one camera, and the camera source that follows the shared state."""

from __future__ import annotations

import ctypes.util
import importlib
import os
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chefmate_driver.camera.frame import CameraError, CameraSettings, Capture, FrameSource, Image, Pace
from chefmate_driver.kitchen.config import KitchenError
from chefmate_driver.kitchen.shared_state import StateReader, StateSample

# What a layout changes in a model beside qpos: see scene.apply_appearance.
LOOK_FIELDS = ("mat_rgba", "light_diffuse", "light_pos", "cam_pos", "cam_quat", "body_pos")
HIDDEN_GROUP = 3  # collision shapes
STALE = 0.25  # s, a state older than this is no picture of now
FRAMEWORKS = (("egl", "EGL", "libegl1"), ("osmesa", "OSMesa", "libosmesa6"))


def import_mujoco() -> Any:
    """MuJoCo with a renderer that works without a screen: MUJOCO_GL if set, else EGL, else OSMesa.

    A software renderer (Mesa's llvmpipe) gets one thread: more threads draw a frame sooner and cost more
    processor time, and there are two cameras. Raises KitchenError when this machine has neither library.
    """
    os.environ.setdefault("LP_NUM_THREADS", "0")
    if not os.environ.get("MUJOCO_GL"):
        for backend, library, _ in FRAMEWORKS:
            if ctypes.util.find_library(library):
                os.environ["MUJOCO_GL"] = backend
                break
        else:
            packages = " or ".join(package for _, _, package in FRAMEWORKS)
            raise KitchenError(f"no library to render with: sudo apt-get install {packages}.")
    if os.environ["MUJOCO_GL"] in ("egl", "osmesa"):
        os.environ["PYOPENGL_PLATFORM"] = os.environ["MUJOCO_GL"]
    try:
        return importlib.import_module("mujoco")
    except (ImportError, RuntimeError, AttributeError) as error:
        packages = ", ".join(f"{backend} needs {package}" for backend, _, package in FRAMEWORKS)
        raise KitchenError(
            f"MUJOCO_GL={os.environ['MUJOCO_GL']} does not work ({error}): {packages}."
        ) from error


def model_bytes(model: Any) -> bytes:
    """The compiled model as MuJoCo saves it (MJB), about 2 MB."""
    mujoco = import_mujoco()
    buffer = np.empty(mujoco.mj_sizeModel(model), dtype=np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return buffer.tobytes()


def pack_look(model: Any) -> NDArray[np.float64]:
    """Light, colours, cameras and fixed bodies of a model as one vector (n,), for the shared state."""
    return np.concatenate([np.ravel(getattr(model, name)).astype(np.float64) for name in LOOK_FIELDS])


def unpack_look(model: Any, look: NDArray[np.float64]) -> None:
    """Writes what `pack_look` returned into another instance of the same model, in place."""
    at = 0
    for name in LOOK_FIELDS:
        field = getattr(model, name)
        field[:] = look[at : at + field.size].reshape(field.shape)
        at += field.size


class KitchenRenderer:
    """Renders one camera of a model. Belongs to the thread that made it (its graphics context does)."""

    def __init__(self, model: Any, camera: str, width: int, height: int) -> None:
        """model: MjModel, used as it is. width, height: pixels. Raises KitchenError: no such camera, no
        graphics.
        """
        self._mujoco = mujoco = import_mujoco()
        self.model, self._camera = model, camera
        if mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, camera) < 0:
            names = [model.camera(i).name for i in range(model.ncam)]
            raise KitchenError(f"the twin has no camera {camera!r}; it has {', '.join(names)}.")
        model.vis.global_.offwidth = max(width, model.vis.global_.offwidth)
        model.vis.global_.offheight = max(height, model.vis.global_.offheight)
        # Faces of boxes as one quad each: the same picture (0.0003 of 255 on average) in 15 % less time.
        model.vis.quality.numquads = 1
        self._data = mujoco.MjData(model)
        try:
            self._renderer = mujoco.Renderer(model, height, width)
        except Exception as error:
            # The frameworks raise what they like: OpenGL.error.*, RuntimeError, AttributeError.
            raise KitchenError(
                f"MUJOCO_GL={os.environ.get('MUJOCO_GL')} cannot render on this machine: {error}."
            ) from error
        self._option = mujoco.MjvOption()
        self._option.geomgroup[HIDDEN_GROUP] = 0
        flags = mujoco.mjtRndFlag
        for flag in (flags.mjRND_SHADOW, flags.mjRND_REFLECTION, flags.mjRND_HAZE):
            self._renderer.scene.flags[flag] = 0

    @property
    def field_of_view(self) -> float:
        """Vertical field of view, degrees."""
        return float(self.model.camera(self._camera).fovy[0])

    def render(self, qpos: NDArray[np.float64], out: Image) -> None:
        """Draws the model at qpos (nq,) into out (height, width, 3) uint8 rgb."""
        self._data.qpos[:] = qpos
        # Where everything is, and no dynamics.
        self._mujoco.mj_kinematics(self.model, self._data)
        self._mujoco.mj_camlight(self.model, self._data)
        self._renderer.update_scene(self._data, self._camera, self._option)
        self._renderer.render(out=out)

    def close(self) -> None:
        """Frees the graphics context."""
        self._renderer.close()


class KitchenSource(FrameSource):
    """A camera of a running twin. A frame's stamp is the stamp of the state that it shows.

    Where drawing takes a core for more than half of the camera's period, it rests after each picture for as
    long as that took: a slow machine has fewer pictures a second, not none of its time left for the arm.
    """

    patience = 30.0  # s, the twin starts beside its cameras

    def __init__(self, shared_memory: str, camera: str, settings: CameraSettings) -> None:
        super().__init__(f"kitchen:{shared_memory}:{camera}", settings)
        self._shared_memory, self._camera = shared_memory, camera
        self._pace = Pace(settings.rate, settings.phase)
        self._reader: StateReader | None = None
        self._renderer: KitchenRenderer | None = None
        self._state: StateSample | None = None
        self._generation = 0
        self._sequence = -1
        self._rest_until = 0.0  # s, monotonic

    def open(self) -> None:
        mujoco = import_mujoco()
        try:
            self._reader = StateReader(self._shared_memory)
            if not self._reader.alive:
                raise KitchenError(f"the twin {self._shared_memory!r} (process {self._reader.pid}) is dead.")
            model = mujoco.MjModel.from_binary_path("twin.mjb", {"twin.mjb": self._reader.model})
            size = (self.settings.width, self.settings.height)
            self._renderer = KitchenRenderer(model, self._camera, *size)
        except KitchenError as error:
            raise CameraError(str(error)) from error
        self._state = None
        self._generation = 0

    def field_of_view(self) -> float | None:
        return None if self._renderer is None else self._renderer.field_of_view

    def grab(self) -> Capture:
        if self._reader is None:
            raise CameraError(f"{self.name} is not open.")
        if (rest := self._rest_until - time.monotonic()) > 0.0:
            time.sleep(rest)
        self._pace.wait()
        deadline = time.monotonic() + STALE
        try:
            state = self._reader.read()
            while state is None or (self._state is not None and state.writes == self._state.writes):
                if time.monotonic() > deadline:
                    raise CameraError(self._why())
                time.sleep(0.002)
                state = self._reader.read()
        except KitchenError as error:
            raise CameraError(str(error)) from error
        if time.time_ns() - state.stamp > STALE * 1e9:
            raise CameraError(self._why())
        self._state = state
        self._sequence += 1
        return Capture(state.stamp, self._sequence)

    def _why(self) -> str:
        assert self._reader is not None
        what = "hangs" if self._reader.alive else "is dead"
        return (
            f"the twin {self._shared_memory!r} (process {self._reader.pid}) {what}: no state for {STALE} s."
        )

    def retrieve(self, out: Image) -> None:
        if self._reader is None or self._renderer is None or self._state is None:
            raise CameraError(f"{self.name} has no state to render.")
        if self._generation != self._reader.generation:
            unpack_look(self._renderer.model, self._reader.look)
            self._generation = self._reader.generation
        begun = time.thread_time()  # not the time for which others had the core
        self._renderer.render(self._state.qpos, out)
        drawing = time.thread_time() - begun
        if drawing > 0.5 * self.settings.picture_period:
            self._rest_until = time.monotonic() + drawing

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
        self._reader = self._renderer = self._state = None
