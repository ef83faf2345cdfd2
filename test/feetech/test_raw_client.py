# SPDX-License-Identifier: Apache-2.0
"""Other people's clients on the emulated servos: bytes written by hand, as a vendor SDK sends them."""

from __future__ import annotations

import os
import select
import termios
import time
import tty
from collections.abc import Iterator

import pytest

from chefmate_driver.feetech.emulator import EmulatedPort


class RawClient:
    """Opens the terminal as any serial program does; knows nothing but bytes."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(self.descriptor)
        settings = termios.tcgetattr(self.descriptor)
        settings[4] = settings[5] = termios.B1000000
        termios.tcsetattr(self.descriptor, termios.TCSANOW, settings)

    def ask(self, request: str, size: int) -> str:
        """Sends bytes (hexadecimal); returns what comes, until `size` bytes or 2 s have passed."""
        os.write(self.descriptor, bytes.fromhex(request))
        data, deadline = b"", time.monotonic() + (2.0 if size else 0.05)
        while len(data) < max(size, 1) and (left := deadline - time.monotonic()) > 0:
            if select.select([self.descriptor], [], [], left)[0]:
                data += os.read(self.descriptor, 256)
        return data.hex()


@pytest.fixture
def client(port: EmulatedPort) -> Iterator[RawClient]:
    opened = RawClient(port.path)
    yield opened
    os.close(opened.descriptor)


def test_a_ping_of_the_manual_is_answered_as_in_the_manual(client: RawClient) -> None:
    assert client.ask("ffff010201fb", 6) == "ffff010200fc"


def test_a_broadcast_ping_is_answered_by_all_in_turn(client: RawClient) -> None:
    heard = client.ask("fffffe0201fe", 36)
    assert heard == "".join(f"ffff{id:02x}0200{253 - id:02x}" for id in range(1, 7))


def test_model_number_reads_as_the_sdk_expects(client: RawClient) -> None:
    assert client.ask("ffff0404020302f0", 8) == "ffff04040009" + "03eb"


def test_a_sync_write_is_silent_and_a_sync_read_answers_in_the_order_asked(client: RawClient) -> None:
    # Goal position 2000 for servo 1, 2100 for servo 2.
    assert client.ask("fffffe0a832a0201d007023408" + "32", 0) == ""
    assert client.ask("fffffe06822a0202014a", 16) == "ffff0204003408bd" + "ffff010400d00723"


def test_a_wrong_checksum_is_ignored_and_the_next_packet_heard(client: RawClient) -> None:
    assert client.ask("ffff010201fa", 0) == ""
    assert client.ask("ffff010201fb", 6) == "ffff010200fc"


def test_a_packet_in_two_halves_is_one_packet(client: RawClient) -> None:
    os.write(client.descriptor, bytes.fromhex("ffff01"))
    assert client.ask("0201fb", 6) == "ffff010200fc"
