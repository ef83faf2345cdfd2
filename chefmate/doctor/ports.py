# SPDX-License-Identifier: Apache-2.0
"""Serial ports: are they there, may they be used, by which stable name, and who else is after them?"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chefmate.doctor.finding import Finding, Machine, error, info, ok, warning

# USB ids of the adapters on servo boards for the SO-ARM: QinHeng CH343 (Waveshare, Seeed, Feetech boards) and
# CH340. Source: linux usb.ids.
SERVO_ADAPTERS = {("1a86", "55d3"): "CH343", ("1a86", "7523"): "CH340"}
BRLTTY_CLAIMS = ("1a86", "7523")  # Debian's brltty takes CH340 adapters for braille displays
GROUPS = "run: sudo usermod -aG dialout $USER, then log in again"
RULES_FILE = "/etc/udev/rules.d/99-chefmate.rules"


@dataclass(frozen=True)
class Adapter:
    """One serial device of USB. ids: vendor and product; empty strings where sysfs does not tell."""

    device: Path
    ids: tuple[str, str]
    serial: str

    @property
    def for_servos(self) -> bool:
        """True for the adapters of servo boards. Others are not opened: that resets some boards."""
        return self.ids in SERVO_ADAPTERS


def adapters(machine: Machine) -> list[Adapter]:
    """All serial devices of USB, in the order of their names."""
    devices = [path for pattern in ("ttyACM*", "ttyUSB*") for path in sorted(machine.dev.glob(pattern))]
    return [_adapter(machine, device) for device in devices]


def _adapter(machine: Machine, device: Path) -> Adapter:
    place = Path(os.path.realpath(machine.sys / "class/tty" / device.name / "device"))
    for folder in (place, *place.parents):
        if (folder / "idVendor").is_file():
            ids = (_text(folder / "idVendor"), _text(folder / "idProduct"))
            return Adapter(device, ids, _text(folder / "serial"))
    return Adapter(device, ("", ""), "")


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def ports_to_probe(machine: Machine) -> list[tuple[str, bool]]:
    """Paths of the servo buses to look into, and whether each is a leader's."""
    named = [(port, leader) for port, leader in ((machine.port, False), (machine.leader, True)) if port]
    return named or [(str(found.device), False) for found in adapters(machine) if found.for_servos]


def check_ports(machine: Machine) -> Iterator[Finding]:
    """Ports that exist, and permission to use them."""
    for port in (machine.port, machine.leader):
        if port and not os.path.exists(port):
            there = ", ".join(str(found.device) for found in adapters(machine)) or "none"
            yield error(
                "port",
                f"{port} does not exist (serial devices here: {there})",
                "plug the arm in; ls /dev/serial/by-id",
            )
    found = adapters(machine)
    if not found and not machine.port and not machine.leader:
        yield info("port", "no USB serial adapter: only the twin can be used", "plug the arm's adapter in")
    for adapter in found:
        name = SERVO_ADAPTERS.get(adapter.ids, "serial adapter")
        if os.access(adapter.device, os.R_OK | os.W_OK):
            yield ok("permission", f"{adapter.device} ({name}) may be used")
        else:
            yield error("permission", f"{adapter.device} ({name}) may not be opened by this user", GROUPS)
    for port in (machine.port, machine.leader):
        if port and os.path.exists(port) and not os.access(port, os.R_OK | os.W_OK):
            yield error("permission", f"{port} may not be opened by this user", GROUPS)


def check_names(machine: Machine) -> Iterator[Finding]:
    """A name that stays when the adapter is plugged in elsewhere, and programs that take such adapters."""
    for adapter in adapters(machine):
        if not adapter.for_servos:
            continue
        names = stable_names(machine, adapter.device)
        if names:
            yield ok("udev", f"{adapter.device} keeps the name {names[0]}")
        else:
            yield warning(
                "udev",
                f"{adapter.device} has no name that stays: after unplugging it may get another number",
                f"echo '{rule(adapter)}' | sudo tee -a {RULES_FILE} && sudo udevadm control --reload && "
                "sudo udevadm trigger",
            )
        if adapter.ids == BRLTTY_CLAIMS and _rule_with(machine, r"brltty", "7523"):
            yield warning(
                "udev", f"brltty takes {adapter.device} for a braille display", "run: sudo apt remove brltty"
            )
        if _running(machine, "ModemManager") and not _rule_with(
            machine, "ID_MM_DEVICE_IGNORE", adapter.ids[0]
        ):
            yield warning(
                "udev",
                f"ModemManager tries out {adapter.device} as a modem for some seconds after it is plugged in",
                f"echo '{rule(adapter)}' | sudo tee -a {RULES_FILE} && sudo udevadm control --reload && "
                "sudo udevadm trigger",
            )


def stable_names(machine: Machine, device: Path) -> list[str]:
    """Links to a device: udev's own by-id ones, and those of a rule."""
    places = [machine.dev / "serial" / "by-id", machine.dev]
    links = [
        link for place in places if place.is_dir() for link in sorted(place.iterdir()) if link.is_symlink()
    ]
    real = os.path.realpath(device)
    return [str(link) for link in links if link != device and os.path.realpath(link) == real]


def rule(adapter: Adapter) -> str:
    """A udev rule that names this adapter /dev/chefmate_arm and keeps ModemManager away."""
    match = f'SUBSYSTEM=="tty", ATTRS{{idVendor}}=="{adapter.ids[0]}", ATTRS{{idProduct}}=="{adapter.ids[1]}"'
    if adapter.serial:
        match += f', ATTRS{{serial}}=="{adapter.serial}"'
    return f'{match}, SYMLINK+="chefmate_arm", ENV{{ID_MM_DEVICE_IGNORE}}="1"'


def _rule_with(machine: Machine, name: str, value: str) -> bool:
    """Whether one line of a udev rule file has both words, or its file is called by the first."""
    for folder in machine.rules:
        for file in sorted(folder.glob("*.rules")) if folder.is_dir() else []:
            text = file.read_text(errors="replace")
            lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
            if any(
                re.search(name, line if name.isupper() else file.name) and value in line for line in lines
            ):
                return True
    return False


def _running(machine: Machine, program: str) -> bool:
    return any(_text(folder / "comm") == program for folder in machine.proc.glob("[0-9]*"))
