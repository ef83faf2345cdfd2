# SPDX-License-Identifier: Apache-2.0
"""Which serial port the arm is on, where the user named none."""

from __future__ import annotations

import os
from pathlib import Path

from chefmate_driver.arm.errors import ArmError
from chefmate_driver.feetech.ports import BY_ID

DEVICES = Path("/dev")
PATTERNS = ("ttyACM*", "ttyUSB*")  # names that Linux gives USB serial adapters


def serial_ports(by_id: Path = BY_ID, devices: Path = DEVICES) -> list[str]:
    """USB serial ports, each once, under the name by which it is found again where there is one."""
    stable = sorted(by_id.iterdir()) if by_id.is_dir() else []
    found = {os.path.realpath(link): str(link) for link in reversed(stable)}
    for pattern in PATTERNS:
        for device in sorted(devices.glob(pattern)):
            found.setdefault(os.path.realpath(device), str(device))
    return sorted(found.values())


def the_only_port(ports: list[str]) -> str:
    """The port, if there is exactly one. ArmError says which there are."""
    if not ports:
        raise ArmError("no USB serial port is there: plug the arm's adapter in, or name the port with --port")
    if len(ports) > 1:
        raise ArmError(f"there are several serial ports; name the arm's with --port: {', '.join(ports)}")
    return ports[0]
