# SPDX-License-Identifier: Apache-2.0
"""Random bytes against the decoder, and broken decoders against the fuzzing."""

from __future__ import annotations

import random

import pytest

from chefmate_driver.arm.calibration import read_calibration
from chefmate_driver.arm.units import ArmUnits
from chefmate_driver.feetech.emulated_bus import ServoEmulator
from chefmate_driver.feetech.fuzz import fuzz
from chefmate_driver.feetech.packet import Packet, PacketParser
from chefmate_driver.feetech.plant import SimplePlant
from chefmate_ros.share import share_file

TWIN = share_file("config", "calibration", "twin.json")


def test_no_input_crashes_the_decoder_or_gets_a_wrong_value_accepted() -> None:
    figures = fuzz(20_000, seed=1)
    assert figures.violations == []
    assert figures.inputs == 20_000
    assert figures.accepted > 20_000
    assert figures.refused_positions > 1_000


class Trusting(PacketParser):
    """Believes checksums unseen."""

    def feed(self, data: bytes) -> list[Packet]:
        mended = bytearray(data)
        for start in range(len(mended) - 20):
            if mended[start : start + 2] == b"\xff\xff" and mended[start + 3] == 17:
                mended[start + 20] = ~sum(mended[start + 2 : start + 20]) & 0xFF
        return super().feed(bytes(mended))


class Forgetful(PacketParser):
    """Loses what does not arrive in one piece."""

    def feed(self, data: bytes) -> list[Packet]:
        self._buffer.clear()
        return super().feed(data)


class Crashing(PacketParser):
    """Does not expect noise."""

    def feed(self, data: bytes) -> list[Packet]:
        if data and data[0] != 0xFF and not self._buffer:
            raise ValueError("no header")
        return super().feed(data)


@pytest.mark.parametrize(
    ("parser", "finding"),
    [(Trusting, "not in the input"), (Forgetful, "were not accepted"), (Crashing, "raised ValueError")],
)
def test_fuzzing_finds_a_broken_parser(parser: type[PacketParser], finding: str) -> None:
    figures = fuzz(2_000, parser=parser)
    assert figures.violation_count > 20
    assert any(finding in text for text in figures.violations)


def test_fuzzing_finds_a_driver_that_takes_any_position() -> None:
    figures = fuzz(500, measurement=lambda feedback: True)
    assert "for a measurement" in figures.violations[0]


def test_no_instruction_crashes_the_emulated_servos() -> None:
    emulator = ServoEmulator(ArmUnits(read_calibration(TWIN)).joints, SimplePlant([0.0] * 6))
    generator = random.Random(2)
    codes = (1, 2, 3, 4, 5, 6, 0x82, 0x83, 0x55)
    for _ in range(3_000):
        parameters = generator.randbytes(generator.randrange(30))
        for reply in emulator.answer(Packet(generator.randrange(8), generator.choice(codes), parameters)):
            assert reply.data[:2] == b"\xff\xff"
