# SPDX-License-Identifier: Apache-2.0
"""Makes a whole bag of one whose recorder was killed or whose disk was full.

    python -m chefmate_policy.data.recovery BROKEN_FOLDER NEW_FOLDER

Such an MCAP file lacks its index and its last second or so; everything before is there. Format:
mcap.dev/spec, records of opcode (1 byte), length (8 bytes, little endian) and content.
"""

from __future__ import annotations

import argparse
import struct
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from rosbags.interfaces import Connection
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.metadata import parse_qos
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from chefmate_policy.data.bag import VERSION
from chefmate_policy.data.message_types import RecordingError

MAGIC = b"\x89MCAP0\r\n"
SCHEMA, CHANNEL, MESSAGE, CHUNK = 0x03, 0x04, 0x05, 0x06


def recover(broken: Path, folder: Path) -> int:
    """Copies every whole message of a bag without index into a new bag.

    Args:
        broken: folder with one .mcap file, or that file.
        folder: of the new bag; must not exist.

    Returns:
        Number of messages.

    Raises:
        RecordingError: no MCAP file there, a compressed one, or the new folder exists.
    """
    file = _file_of(broken)
    if folder.exists():
        raise RecordingError(f"{folder} exists already; give the recovered bag a new folder.")
    writer = Writer(folder, version=VERSION, storage_plugin=StoragePlugin.MCAP)
    with file.open("rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            raise RecordingError(f"{file} is no MCAP file.")
        with writer:
            count = _copy(stream, writer)
    return count


def _copy(stream: BinaryIO, writer: Writer) -> int:
    schemas: dict[int, tuple[str, str]] = {}
    connections: dict[int, Connection] = {}
    count = 0
    for opcode, content in _records(stream):
        if opcode == SCHEMA:
            number, name, _, definition = _schema(content)
            schemas[number] = (name, definition)
        elif opcode == CHANNEL:
            channel, schema, topic, qos = _channel(content)
            if channel not in connections:
                name, definition = schemas[schema]
                connections[channel] = _connect(writer, topic, name, definition, qos)
        elif opcode == MESSAGE:
            channel, _, stamp, _ = struct.unpack_from("<HIQQ", content)
            writer.write(connections[channel], stamp, content[22:])
            count += 1
    return count


def _file_of(path: Path) -> Path:
    files = [path] if path.is_file() else sorted(path.glob("*.mcap"))
    if len(files) != 1:
        raise RecordingError(f"{path} must be, or hold, one .mcap file; it holds {len(files)}.")
    return files[0]


def _connect(writer: Writer, topic: str, name: str, definition: str, qos: str) -> Connection:
    types = get_typestore(Stores.EMPTY)
    types.register(get_types_from_msg(definition, name))
    return writer.add_connection(topic, name, typestore=types, offered_qos_profiles=parse_qos(qos))


def _records(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Opcode and content of each whole record, those inside chunks too."""
    while len(head := stream.read(9)) == 9:
        opcode, length = struct.unpack("<BQ", head)
        content = stream.read(length)
        if opcode == CHUNK:
            yield from _records(_inside(content))
        elif len(content) == length and opcode in (SCHEMA, CHANNEL, MESSAGE):
            yield opcode, content
        if len(content) < length:
            return


def _inside(chunk: bytes) -> BinaryIO:
    """The records of a chunk, which may be cut off."""
    if len(chunk) < 32:
        return BytesIO()
    (length,) = struct.unpack_from("<I", chunk, 28)
    if length:
        compression = chunk[32 : 32 + length].decode()
        raise RecordingError(f"chunks compressed with {compression} cannot be recovered here.")
    return BytesIO(chunk[40:])


def _strings(content: bytes, offset: int, count: int) -> tuple[list[str], int]:
    found = []
    for _ in range(count):
        (length,) = struct.unpack_from("<I", content, offset)
        found.append(content[offset + 4 : offset + 4 + length].decode())
        offset += 4 + length
    return found, offset


def _schema(content: bytes) -> tuple[int, str, str, str]:
    """Number, name, encoding and definition."""
    (name, encoding, definition), _ = _strings(content, 2, 3)
    return struct.unpack_from("<H", content)[0], name, encoding, definition


def _channel(content: bytes) -> tuple[int, int, str, str]:
    """Number, schema's number, topic and offered QoS profiles."""
    channel, schema = struct.unpack_from("<HH", content)
    (topic, _), offset = _strings(content, 4, 2)
    (length,) = struct.unpack_from("<I", content, offset)
    words, _ = _strings(content, offset + 4, 2) if length else (["", ""], 0)
    return channel, schema, topic, words[1] if words[0] == "offered_qos_profiles" else ""


def main(arguments: list[str] | None = None) -> int:
    """Command line; exit status 1 with a message where nothing can be recovered."""
    parser = argparse.ArgumentParser(description="Makes a whole bag of one whose recorder was killed.")
    parser.add_argument("broken", type=Path, help="folder of the broken bag")
    parser.add_argument("folder", type=Path, help="folder of the new bag")
    given = parser.parse_args(arguments)
    try:
        print(f"{recover(given.broken, given.folder)} messages in {given.folder}")
    except RecordingError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
