# SPDX-License-Identifier: Apache-2.0
"""EEPROM written as a whole or not at all, with the old values on disk meanwhile.

Before the first byte is written, the old values go into a journal file. Whatever then goes wrong (an
exception, ctrl-C) they are written back at once; where that cannot be done (the cable is out, the process was
killed), the journal stays, and the next set-up command on that port offers to restore them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from chefmate_driver.arm.errors import ArmError
from chefmate_driver.feetech.bus import FeetechBus
from chefmate_driver.feetech.errors import EepromError, FeetechError
from chefmate_driver.feetech.registers import Area, register

Values = dict[int, dict[str, int]]  # register values by servo id and register name


def journal_folder() -> Path:
    """Where journals are kept: `chefmate/eeprom` in the user's state folder (XDG_STATE_HOME)."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state, "chefmate", "eeprom")


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """EEPROM writing that did not end: what was there, and what was to be written."""

    command: str
    old: Values
    new: Values

    def __str__(self) -> str:
        servos = ", ".join(map(str, self.old))
        return f"`{self.command}` was broken off while it wrote the EEPROM of servo {servos}"


class Journal:
    """The file of one port's unfinished writing. It exists only while there is one."""

    def __init__(self, port: str, folder: Path | None = None) -> None:
        """`port`: the name under which the adapter is found again; see FeetechBus.stable_port."""
        name = re.sub(r"[^A-Za-z0-9.-]+", "_", port).strip("_")
        self.path = (folder or journal_folder()) / f"{name}.json"

    def begin(self, entry: JournalEntry) -> None:
        """Puts an entry on disk. ArmError if that fails."""
        document = json.dumps({"command": entry.command, "old": entry.old, "new": entry.new}, indent=1)
        fresh = self.path.with_suffix(".new")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with fresh.open("w") as file:
                file.write(document)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self.path)
        except OSError as error:
            raise ArmError(
                f"{self.path} cannot be written: {error.strerror}; the old EEPROM values have to be safe "
                "before new ones are written, so nothing was (XDG_STATE_HOME names another folder)"
            ) from error

    def load(self) -> JournalEntry | None:
        """The unfinished writing, or None. ArmError if the file is none."""
        try:
            document = json.loads(self.path.read_text())
            old, new = (
                {
                    int(id): {str(name): int(value) for name, value in values.items()}
                    for id, values in part.items()
                }
                for part in (document["old"], document["new"])
            )
            for values in old.values():
                for name in values:
                    register(name)
            return JournalEntry(str(document["command"]), old, new)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, FeetechError) as error:
            raise ArmError(
                f"{self.path} should hold the EEPROM values of an unfinished writing and cannot be read "
                f"({error}); look at it, then remove it"
            ) from error

    def end(self) -> None:
        """Forgets the entry."""
        self.path.unlink(missing_ok=True)


def read_values(bus: FeetechBus, wanted: Mapping[int, Mapping[str, int]]) -> Values:
    """What the servos hold in the registers that `wanted` names. ServoMissingError, BusLostError."""
    found: Values = {id: {} for id in wanted}
    for name in dict.fromkeys(name for values in wanted.values() for name in values):
        ids = [id for id, values in wanted.items() if name in values]
        for id, value in bus.sync_read(name, ids).items():
            found[id][name] = value
    return found


def changes(old: Mapping[int, Mapping[str, int]], wanted: Mapping[int, Mapping[str, int]]) -> Values:
    """The part of `wanted` that differs from `old`."""
    differing = {
        id: {name: value for name, value in values.items() if old[id][name] != value}
        for id, values in wanted.items()
    }
    return {id: values for id, values in differing.items() if values}


def holding(bus: FeetechBus, ids: list[int]) -> list[int]:
    """Servos that hold torque. ServoMissingError, BusLostError."""
    return [id for id, on in bus.sync_read("torque_enable", ids).items() if on]


def go_limp(bus: FeetechBus, ids: list[int]) -> None:
    """Torque off. ArmError if a servo keeps it, ServoMissingError, BusLostError."""
    for _ in range(bus.retries + 1):
        bus.sync_write("torque_enable", dict.fromkeys(ids, 0))
        if not holding(bus, ids):
            return
    raise ArmError(
        f"{bus.port}: servo {', '.join(map(str, holding(bus, ids)))} does not let go of its torque"
    )


def write_values(
    bus: FeetechBus,
    wanted: Mapping[int, Mapping[str, int]],
    command: str,
    verify: Callable[[], None] | None = None,
) -> Values:
    """Writes EEPROM registers of limp servos, all of them or none; returns the old values of what changed.

    `verify` runs when all is written and read back; if it raises, the old values are restored. `command`:
    what the journal says was broken off.

    Raises:
        EepromError: a servo holds torque, or did not keep a value.
        ArmError: the journal cannot be written, or an earlier writing on this port did not end.
        FeetechError: the bus failed. The message says whether the old values are back.
    """
    for name in {name for values in wanted.values() for name in values}:
        if register(name).area is not Area.EEPROM:
            raise ArmError(f"{name} is no EEPROM register")
    journal = Journal(bus.stable_port)
    if (unfinished := journal.load()) is not None:
        raise ArmError(f"{unfinished}; its old values are in {journal.path}: restore them first")
    new = changes(read_values(bus, wanted), wanted)
    if not new:
        if verify is not None:
            verify()
        return {}
    old = read_values(bus, new)
    journal.begin(JournalEntry(command, old, new))
    try:
        _write(bus, new)
        if verify is not None:
            verify()
    except BaseException as error:
        try:
            _write(bus, old)
            journal.end()
        except (FeetechError, ArmError) as second:
            raise EepromError(
                f"{_why(error)}. The old EEPROM values of servo {', '.join(map(str, old))} could "
                f"not be written back ({second}); they are safe in {journal.path}. Mend the connection and "
                f"run `{command}` again: it restores them first"
            ) from error
        if isinstance(error, FeetechError | ArmError):
            raise EepromError(f"{_why(error)}. The old EEPROM values are back in the servos") from error
        raise
    journal.end()
    return old


def restore(bus: FeetechBus, journal: Journal) -> JournalEntry | None:
    """Writes the old values of an unfinished writing back and forgets it; None if there is none.

    Raises ArmError if these are not the servos that were written, else as `write_values` does.
    """
    entry = journal.load()
    if entry is None:
        return None
    for id, values in read_values(bus, entry.old).items():
        for name, value in values.items():
            if value not in (entry.old[id][name], entry.new[id][name]):
                raise ArmError(
                    f"{bus.port}: servo {id} holds {name} = {value}, neither the old value "
                    f"{entry.old[id][name]} nor the new one {entry.new[id][name]} of the unfinished writing: "
                    f"if this is another arm, or was set up since, remove {journal.path}"
                )
    _write(bus, entry.old)
    journal.end()
    return entry


def _write(bus: FeetechBus, values: Values) -> None:
    with bus.eeprom(list(values)):
        for id, registers in values.items():
            for name, value in registers.items():
                bus.write(id, name, value)
    kept = read_values(bus, values)
    for id, registers in values.items():
        for name, value in registers.items():
            if kept[id][name] != value:
                raise EepromError(
                    f"{bus.port}: servo {id} did not keep {name}: {value} written, {kept[id][name]} read back"
                )


def _why(error: BaseException) -> str:
    """What went wrong first, and what went wrong because of that."""
    first = error.__context__
    both = [first, error] if isinstance(first, FeetechError | KeyboardInterrupt) else [error]
    return "; ".join(str(one) or "interrupted" for one in both)
