# SPDX-License-Identifier: Apache-2.0
"""Names, owners and settings of serial ports."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import pytest

from chefmate_driver.feetech.adapter import LatencyMode, adapter_latency
from chefmate_driver.feetech.bus import FeetechBus
from chefmate_driver.feetech.emulator import EmulatedPort
from chefmate_driver.feetech.ports import stable_name

NOBODY = 65534
TIOCGEXCL = 0x80045440  # asm-generic/ioctls.h; Python's termios lacks it
# Imports first: the ordinary user need not be able to read this installation.
OPEN = """
import os, sys
from chefmate_driver.feetech.bus import FeetechBus
os.setgroups([]), os.setgid(int(sys.argv[2])), os.setuid(int(sys.argv[2]))
FeetechBus(sys.argv[1])
"""


@pytest.fixture
def as_nobody(port: EmulatedPort) -> Callable[[], str]:
    """Function that opens the port as an ordinary user, and returns what that said on standard error."""
    if os.getuid() != 0:
        pytest.skip("only root can become another, ordinary user")
    os.chmod(port.path, 0o666)

    def open_port() -> str:
        done = subprocess.run(
            [sys.executable, "-c", OPEN, port.path, str(NOBODY)], capture_output=True, text=True, timeout=60
        )
        return done.stderr

    return open_port


def test_an_ordinary_user_is_told_which_process_of_another_user_locks_the_port(
    as_nobody: Callable[[], str], port: EmulatedPort
) -> None:
    with FeetechBus(port.path, reply_timeout=0.5):
        said = as_nobody()
    assert "BusPortBusyError" in said
    assert f"is in use by process {os.getpid()} (" in said
    assert as_nobody() == ""


def test_an_exclusive_terminal_is_busy_for_an_ordinary_user(
    as_nobody: Callable[[], str], port: EmulatedPort
) -> None:
    """As set by FeetechBus on a real port, and by programs that lock nothing. Root passes it."""
    descriptor = os.open(port.path, os.O_RDWR | os.O_NOCTTY)
    fcntl.ioctl(descriptor, termios.TIOCEXCL)
    try:
        said = as_nobody()
    finally:
        fcntl.ioctl(descriptor, termios.TIOCNXCL)
        os.close(descriptor)
    assert "BusPortBusyError" in said
    assert f"{port.path} is in use by another process" in said
    assert f"sudo fuser -v {port.path}" in said


def test_the_bus_makes_a_real_port_exclusive_and_is_named_to_an_ordinary_user(
    as_nobody: Callable[[], str], port: EmulatedPort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chefmate_driver.feetech.serial_port.PTYS", "/none")  # take the pty for a real port
    with FeetechBus(port.path, reply_timeout=0.5) as bus:
        said = as_nobody()
        flag = struct.unpack("i", fcntl.ioctl(bus._serial._descriptor, TIOCGEXCL, b"\0" * 4))[0]
    assert flag == 1
    assert "BusPortBusyError" in said
    assert f"is in use by process {os.getpid()} (" in said


def test_no_permission_comes_with_the_group_to_join(as_nobody: Callable[[], str], port: EmulatedPort) -> None:
    os.chmod(port.path, 0o600)
    said = as_nobody()
    assert f"no permission to open {port.path}; run: sudo usermod -aG dialout $USER" in said


def test_the_stable_name_is_udevs_link_to_the_same_device(tmp_path: Path) -> None:
    folder = tmp_path / "by-id"
    folder.mkdir()
    (folder / "usb-1a86_USB_Single_Serial_58FA-if00").symlink_to("/dev/tty")
    (folder / "usb-other").symlink_to("/dev/null")
    assert stable_name("/dev/tty", folder) == str(folder / "usb-1a86_USB_Single_Serial_58FA-if00")
    assert stable_name("/dev/ttyACM77", folder) == "/dev/ttyACM77"
    assert stable_name("/dev/tty", tmp_path / "none") == "/dev/tty"
    named = str(tmp_path / "so101_follower")
    assert stable_name(named, folder) == named


def test_the_bus_says_how_its_adapter_hands_over_bytes(bus: FeetechBus) -> None:
    assert (bus.latency.driver, bus.latency.mode, bus.latency.timer) == ("pty", LatencyMode.NONE, None)
    assert not bus.latency.slow
    assert "has no low-latency mode" in bus.latency.text


def test_a_slow_latency_timer_is_named_with_the_command(tmp_path: Path, port: EmulatedPort) -> None:
    name = Path(port.path).name
    device = tmp_path / "class/tty" / name / "device"
    device.mkdir(parents=True)
    (device / "latency_timer").write_text("16\n")
    with FeetechBus(port.path, reply_timeout=0.5) as bus:
        found = adapter_latency(bus._serial._descriptor, port.path, tmp_path)
    assert found.timer == 16
    assert found.slow
    assert f"echo 1 | sudo tee {device}/latency_timer" in found.text
