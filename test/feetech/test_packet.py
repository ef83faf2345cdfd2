# SPDX-License-Identifier: Apache-2.0
"""Packets as bytes: encoding against hand-made packets, and a parser that survives anything."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chefmate_driver.feetech.errors import RegisterError
from chefmate_driver.feetech.packet import (
    Instruction,
    Packet,
    PacketParser,
    encode,
    encode_sync_read,
    encode_sync_write,
    status_text,
)
from chefmate_driver.feetech.registers import REGISTERS, TABLE_SIZE, decode_feedback, register, speed_unit

PACKETS = st.builds(
    Packet, id=st.integers(0, 253), code=st.integers(0, 255), parameters=st.binary(max_size=40)
)


@pytest.mark.parametrize(
    ("made", "wire"),
    [
        # The manual's own examples: ping of servo 1, and a read of two bytes from register 56.
        (encode(1, Instruction.PING), "ffff010201fb"),
        (encode(1, Instruction.READ, b"\x38\x02"), "ffff0104023802be"),
        # Write 2048 to register 42 of servo 1.
        (encode(1, Instruction.WRITE, b"\x2a\x00\x08"), "ffff0105032a0008c4"),
        (encode_sync_read(0x38, 0x08, [1, 2]), "fffffe068238080102" + "36"),
    ],
)
def test_packets_match_the_protocol_manual(made: bytes, wire: str) -> None:
    body = bytes.fromhex(wire)[2:-1]
    assert made[:-1] == bytes.fromhex(wire)[:-1]
    assert made[-1] == (~sum(body)) & 0xFF


def test_sync_write_packs_each_servo_behind_its_id() -> None:
    packet = encode_sync_write(42, {1: b"\x00\x08", 2: b"\x34\x12"})
    assert packet[2:5] == bytes((0xFE, 2 * 3 + 4, 0x83))
    assert packet[5:-1] == bytes((42, 2, 1, 0x00, 0x08, 2, 0x34, 0x12))


def test_sync_write_of_unequal_lengths_is_refused() -> None:
    with pytest.raises(ValueError, match="equally long"):
        encode_sync_write(42, {1: b"\x00\x08", 2: b"\x34"})


@given(st.lists(PACKETS, min_size=1, max_size=5), st.lists(st.integers(1, 30), min_size=1, max_size=20))
def test_parser_finds_packets_however_the_stream_is_cut(packets: list[Packet], cuts: list[int]) -> None:
    stream = b"".join(encode(packet.id, packet.code, packet.parameters) for packet in packets)
    parser, found = PacketParser(), []
    while stream:
        cut = cuts[len(found) % len(cuts)]
        found += parser.feed(stream[:cut])
        stream = stream[cut:]
    assert found == packets
    assert parser.discarded == parser.corrupt == parser.pending == 0


@settings(max_examples=300)
@given(st.binary(max_size=60), PACKETS)
def test_parser_finds_a_packet_after_any_garbage(garbage: bytes, packet: Packet) -> None:
    parser = PacketParser()
    # Garbage may look like the start of a long packet: enough good packets complete and refute it.
    good = encode(packet.id, packet.code, packet.parameters)
    found = parser.feed(garbage + good + bytes(300) + good)
    assert found[-1] == packet


def test_a_flipped_byte_costs_only_its_own_packet() -> None:
    good = encode(3, 0, b"\x01\x02")
    bad = bytearray(good)
    bad[5] ^= 0x10
    parser = PacketParser()
    assert parser.feed(bytes(bad) + good) == [Packet(3, 0, b"\x01\x02")]
    assert parser.corrupt == 1


def test_finish_finds_what_a_wrong_length_swallowed() -> None:
    first, second = encode(1, 0, b"\x01\x02"), encode(2, 0, b"\x03\x04")
    wrong = bytearray(first)
    wrong[3] = 200
    parser = PacketParser()
    assert parser.feed(bytes(wrong) + second) == []
    assert parser.finish() == [Packet(2, 0, b"\x03\x04")]
    assert parser.pending == 0


def test_registers_do_not_overlap() -> None:
    owner: dict[int, str] = {}
    for entry in REGISTERS.values():
        for address in range(entry.address, entry.address + entry.size):
            assert address < TABLE_SIZE
            assert address not in owner, f"{entry.name} and {owner.get(address)} share {address}"
            owner[address] = entry.name


@given(st.sampled_from([entry for entry in REGISTERS.values() if entry.sign_bit]), st.data())
def test_signed_registers_survive_a_round_trip(entry, data) -> None:  # type: ignore[no-untyped-def]
    limit = (1 << entry.sign_bit) - 1
    value = data.draw(st.integers(-limit, limit))
    assert entry.decode(entry.encode(value)) == value


@pytest.mark.parametrize(
    ("name", "value", "wire"),
    [
        ("homing_offset", -100, 0x864),
        ("present_load", -500, 0x5F4),
        ("goal_position", -1, 0x8001),
        ("present_speed", 7, 7),
    ],
)
def test_signs_are_magnitude_and_bit(name: str, value: int, wire: int) -> None:
    assert int.from_bytes(register(name).encode(value), "little") == wire


def test_values_that_do_not_fit_are_refused_with_the_range() -> None:
    with pytest.raises(RegisterError, match=r"homing_offset .* cannot hold -2048: it takes -2047\.\.2047"):
        register("homing_offset").encode(-2048)
    with pytest.raises(RegisterError, match="torque_enable"):
        register("torque_enable").encode(-1)
    with pytest.raises(RegisterError, match="no register named 'goal'"):
        register("goal")


def test_feedback_block_agrees_with_the_register_table() -> None:
    block = bytes(range(0x81, 0x81 + 15))
    feedback = decode_feedback(block)
    for name, value in (
        ("present_position", feedback.position),
        ("present_speed", feedback.speed),
        ("present_load", feedback.load),
        ("present_voltage", feedback.voltage),
        ("present_temperature", feedback.temperature),
        ("status", feedback.status),
        ("present_current", feedback.current),
    ):
        entry = register(name)
        assert entry.decode(block[entry.address - 56 :]) == value, name


def test_speed_unit_follows_phase_bit_2() -> None:
    assert speed_unit(0b0000_1100) == 1.0
    assert speed_unit(0b0000_1000) == 50.0


def test_status_bits_have_names_and_bit_4_is_no_fault() -> None:
    assert status_text(0b0010_0101) == "voltage, temperature, overload"
    assert status_text(0b0001_0000) == ""
