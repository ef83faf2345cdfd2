# SPDX-License-Identifier: Apache-2.0
"""What the twin costs: physics steps per second, time per rendered frame, real-time factor with everything
on.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chefmate_driver.arm.calibration import find_calibration
from chefmate_driver.camera.frame import CameraSettings
from chefmate_driver.feetech.bus import FeetechBus
from chefmate_driver.kitchen.config import KitchenError
from chefmate_driver.kitchen.render import KitchenRenderer, KitchenSource, import_mujoco

CAMERAS = ("scene", "wrist")
CAMERA_RATE = 30.0  # Hz
BUS_RATE = 100.0  # Hz
SERVOS = (1, 2, 3, 4, 5, 6)
FEEDBACK = (56, 15)  # address and size of the registers that the arm reads in each cycle
SWING = 0.3  # rad, of the arm while it is measured


@dataclass(frozen=True)
class TwinFigures:
    """steps_per_second: physics alone, on one core; the arm moves, slices stand in the tray. timestep: s.

    render_ms: median ms per 640x480 frame by camera, alone. renderer: graphics library and its driver. Then
    with everything on (physics, servo bus at 100 Hz, both cameras at 30 Hz) for `seconds`: real_time_factor,
    bus_ms (median and 99th percentile of one read of six servos), frames drawn by camera, cpu_percent of one
    core for all processes together.
    """

    steps_per_second: float
    timestep: float
    render_ms: dict[str, float]
    renderer: str
    seconds: float
    real_time_factor: float
    bus_ms: tuple[float, float]
    frames: dict[str, int]
    cpu_percent: float
    cores: int

    def as_json(self) -> dict[str, Any]:
        """Plain values for a JSON document."""
        return asdict(self)

    def as_text(self) -> str:
        """A few lines for people."""
        frames = ", ".join(f"{name} {ms:.1f} ms" for name, ms in self.render_ms.items())
        drawn = ", ".join(f"{name} {count / self.seconds:.1f} Hz" for name, count in self.frames.items())
        return "\n".join(
            (
                f"physics alone      {self.steps_per_second:,.0f} steps/s of {1e3 * self.timestep:g} ms "
                f"({self.steps_per_second * self.timestep:.0f} times real time)",
                f"one 640x480 frame  {frames} ({self.renderer})",
                f"everything on      real-time factor {self.real_time_factor:.3f}, {drawn},",
                f"                   bus read p50 {self.bus_ms[0]:.2f} ms, p99 {self.bus_ms[1]:.2f} ms,",
                f"                   {self.cpu_percent:.0f} % of one core ({self.cores} cores here)",
            )
        )


def measure(seconds: float = 8.0, progress: Callable[[str], None] = lambda text: None) -> TwinFigures:
    """Measures the twin on this machine, without ROS. seconds: of the part with everything on.

    progress: called with what is measured next. Raises DriverError when something is missing.
    """
    import_mujoco()
    from chefmate_driver.kitchen.world import World

    world = World()
    progress("physics")
    steps_per_second = _physics(world)
    progress("cameras")
    render_ms = {camera: _frame_ms(world.model, camera, world.data.qpos) for camera in CAMERAS}
    progress(f"everything on, {seconds:g} s")
    factor, bus, frames, cpu = _everything(seconds)
    return TwinFigures(
        steps_per_second=steps_per_second,
        timestep=world.config.timestep,
        render_ms=render_ms,
        renderer=_renderer_name(),
        seconds=seconds,
        real_time_factor=factor,
        bus_ms=bus,
        frames=frames,
        cpu_percent=cpu,
        cores=os.cpu_count() or 1,
    )


def _physics(world: Any, seconds: float = 2.0) -> float:
    rest = world.joint_positions
    start, steps = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        world.set_joint_targets((rest + SWING * math.sin(2.0 * elapsed)).tolist())
        world.step(20)
        steps += 20
    return steps / elapsed


def _frame_ms(model: Any, camera: str, qpos: Any, frames: int = 60) -> float:
    renderer = KitchenRenderer(model, camera, 640, 480)
    image = np.empty((480, 640, 3), dtype=np.uint8)
    times = []
    for _ in range(frames):
        start = time.perf_counter()
        renderer.render(qpos, image)
        times.append(time.perf_counter() - start)
    renderer.close()
    return float(np.median(times)) * 1e3


def _renderer_name() -> str:
    return f"MUJOCO_GL={os.environ.get('MUJOCO_GL', '')}"


def _everything(
    seconds: float,
) -> tuple[float, tuple[float, float], dict[str, int], float]:
    from chefmate_driver.kitchen.live import LiveTwin
    from chefmate_driver.kitchen.world import World

    name = f"bench.{os.getpid()}"
    with tempfile.TemporaryDirectory() as folder:
        port = Path(folder) / "port"
        twin = LiveTwin(World(), port, name, find_calibration("twin"))
        workers = [
            subprocess.Popen(
                [sys.executable, "-m", __name__, *words, str(seconds)], stdout=subprocess.PIPE, text=True
            )
            for words in (*(("camera", name, camera) for camera in CAMERAS), ("bus", str(port)))
        ]
        before, begun = _processor_time(), time.monotonic()
        answers = [worker.communicate(timeout=seconds + 60.0)[0] for worker in workers]
        used, figures = _processor_time() - before, twin.figures()
        wall = time.monotonic() - begun
        twin.close()
    for worker, words in zip(workers, ("scene camera", "wrist camera", "servo bus"), strict=True):
        if worker.returncode:
            raise KitchenError(f"the benchmark's {words} process failed with status {worker.returncode}.")
    frames = {camera: int(answer) for camera, answer in zip(CAMERAS, answers, strict=False)}
    p50, p99 = (float(word) for word in answers[-1].split())
    return figures.simulated / (figures.simulated + figures.dropped), (p50, p99), frames, 100.0 * used / wall


def _processor_time() -> float:
    """s of this process and its ended children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _camera_worker(name: str, camera: str, seconds: float) -> None:
    source = KitchenSource(name, camera, CameraSettings(rate=CAMERA_RATE, phase=0.5 * CAMERAS.index(camera)))
    source.open()
    end, frames = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        source.read()
        frames += 1
    source.close()
    print(frames)


def _bus_worker(port: str, seconds: float) -> None:
    times = []
    with FeetechBus(port) as bus:
        for id in SERVOS:
            bus.write(id, "torque_enable", 1)
        home = bus.sync_read("present_position", SERVOS)
        begun = time.monotonic()
        ticks = SWING * 2048 / math.pi
        for cycle in range(int(seconds * BUS_RATE)):
            start = time.perf_counter()
            bus.sync_read_block(*FEEDBACK, SERVOS)
            times.append(time.perf_counter() - start)
            swing = round(ticks * math.sin(cycle / 50.0))
            bus.sync_write("goal_position", {id: goal + swing for id, goal in home.items()})
            time.sleep(max(0.0, begun + (cycle + 1) / BUS_RATE - time.monotonic()))
    p50, p99 = (1e3 * float(v) for v in np.quantile(times, (0.5, 0.99)))
    print(p50, p99)


def _main(words: list[str]) -> None:
    if words[0] == "camera":
        _camera_worker(words[1], words[2], float(words[3]))
    else:
        _bus_worker(words[1], float(words[2]))


if __name__ == "__main__":
    _main(sys.argv[1:])
