# SPDX-License-Identifier: Apache-2.0
"""An SO-ARM 101 of emulated servos, for the twin and for tests: plant angles and ticks meet through a
calibration.

As a process of its own, until its standard input ends: python -m chefmate_driver.arm.emulated --link /tmp/arm
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from chefmate_driver.arm.calibration import find_calibration, read_calibration
from chefmate_driver.arm.emulated_settings import set_up
from chefmate_driver.arm.model import JOINTS
from chefmate_driver.arm.units import ArmUnits
from chefmate_driver.errors import DriverError
from chefmate_driver.feetech.emulator import EmulatedPort, ServoEmulator, Tap
from chefmate_driver.feetech.errors import FeetechError
from chefmate_driver.feetech.faults import FaultScript
from chefmate_driver.feetech.plant import ServoPlant, SimplePlant

READY = "emulated servos on"  # begins the line that the process prints once a client may open the port


def emulated_arm(
    calibration: Path,
    plant: ServoPlant,
    link: Path | None = None,
    *,
    tap: Tap | None = None,
    pace: int = 0,
    spin: float = 0.0,
) -> EmulatedPort:
    """A servo bus, not yet started, in front of a plant with the arm's six joints.

    The servos hold the homing offsets and limits of the file, as after LeRobot's calibration, and the
    settings of a follower. `link`, `tap`, `pace`, `spin`: see EmulatedPort.
    """
    emulator = ServoEmulator(ArmUnits(read_calibration(calibration)).joints, plant)
    set_up(emulator)
    return EmulatedPort(emulator, link, tap=tap, pace=pace, spin=spin)


class EmulatedArmProcess:
    """The same in a process of its own, so that client and servos share no interpreter. A context manager."""

    def __init__(
        self,
        link: Path,
        *,
        calibration: str = "twin",
        pace: int = 0,
        spin: float = 0.0,
        script: FaultScript | None = None,
    ) -> None:
        """Starts it and waits until the port is there. FeetechError with what it said if it does not start.

        calibration: as the parameter `calibration`. script: played from the start.
        """
        command = [sys.executable, "-m", __name__, "--link", str(link), "--calibration", calibration]
        command += ["--pace", str(pace), "--spin", str(spin)]
        command += ["--script", script.to_json()] if script else []
        self.link = link
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self._process.stdout is not None
        said = ""
        for line in self._process.stdout:
            if line.startswith(READY):
                return
            said += line
        raise FeetechError(f"the emulated servos did not start ({self._process.wait()}): {said[-500:]}")

    def __enter__(self) -> EmulatedArmProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()  # closes its standard input


def main(words: list[str] | None = None) -> int:
    """The process."""
    parser = argparse.ArgumentParser(prog="python -m chefmate_driver.arm.emulated", description=__doc__)
    parser.add_argument("--link", type=Path, required=True, help="path under which clients find the port")
    parser.add_argument("--calibration", default="twin", help="calibration file or its id")
    parser.add_argument("--pace", type=int, default=0, help="baud rate to keep to; 0: bytes take no time")
    parser.add_argument("--spin", type=float, default=0.0, help="s before each reply to burn the core")
    parser.add_argument("--script", type=FaultScript.from_json, help="faults, as FaultScript.to_json says")
    options = parser.parse_args(words)
    plant = SimplePlant([0.0] * len(JOINTS))
    try:
        calibration = find_calibration(options.calibration)
        with emulated_arm(calibration, plant, options.link, pace=options.pace, spin=options.spin) as port:
            if options.script is not None:
                port.play(options.script)
            sys.stdout.write(f"{READY} {port.link} ({port.path})\n")
            sys.stdout.flush()
            sys.stdin.read()
    except DriverError as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
