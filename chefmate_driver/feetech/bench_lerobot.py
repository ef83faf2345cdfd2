# SPDX-License-Identifier: Apache-2.0
"""The bus bench's cycle through LeRobot's own Feetech bus class. Run by a Python that has LeRobot:

python bench_lerobot.py PORT SECONDS

Prints one JSON document: version, s of each cycle, and s of each cycle of its public calls alone (positions
read, goals written: less than the full block). Imports nothing of this package.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import sys
import time
from itertools import pairwise
from typing import Any

NAMES = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
# Address and size of what the block of registers 56 to 70 holds; the SDK hands out 1, 2 or 4 bytes at a time.
FIELDS = ((56, 2), (58, 2), (60, 2), (62, 1), (63, 1), (65, 1), (66, 1), (69, 2))


def main(port: str, seconds: float) -> int:
    """Measures and prints."""
    lerobot = importlib.import_module("lerobot.motors")
    unit = lerobot.MotorNormMode.RANGE_M100_100
    motors = {name: lerobot.Motor(id, "sts3215", unit) for id, name in enumerate(NAMES, 1)}
    bus = importlib.import_module("lerobot.motors.feetech").FeetechMotorsBus(port, motors)
    bus.connect()
    ids = [motor.id for motor in motors.values()]
    bus.sync_write("Goal_Position", bus.sync_read("Present_Position", normalize=False), normalize=False)

    def whole() -> None:
        # Its public sync_read takes one register; this is what that does, with the whole block.
        bus._setup_sync_reader(ids, 56, 15)
        error = bus.sync_reader.txRxPacket()
        if error != 0:
            raise RuntimeError(f"sync read of registers 56-70: {bus.packet_handler.getTxRxResult(error)}")
        block: dict[str, list[int]] = {
            name: [bus.sync_reader.getData(motor.id, *field) for field in FIELDS]
            for name, motor in motors.items()
        }
        bus.sync_write("Goal_Position", {name: row[0] for name, row in block.items()}, normalize=False)

    def public() -> None:
        bus.sync_write("Goal_Position", bus.sync_read("Present_Position", normalize=False), normalize=False)

    figures: dict[str, Any] = {"version": importlib.metadata.version("lerobot")}
    figures["cycles"] = _times(whole, seconds)
    figures["public_cycles"] = _times(public, seconds)
    bus.disconnect(disable_torque=False)
    print(json.dumps(figures))
    return 0


def _times(work: Any, seconds: float) -> list[float]:
    starts = [time.perf_counter()]
    while starts[-1] - starts[0] < seconds:
        work()
        starts.append(time.perf_counter())
    return [end - start for start, end in pairwise(starts)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2])))
