"""A digest over every row of a checkpoint, kept with each change: finds the damage that SQLite does not see.

A flipped bit in a position, a state or a count leaves a sound database that sends something twice, or never.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from typing import Any

import msgspec

# Exclusive or of the rows' hashes: the order of the rows does not matter, and a change costs only the rows it touches.
BYTES = 8


class Digest:
    """Of one connection. `store` comes before each COMMIT, `forget` behind a ROLLBACK."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._stored = self._value = 0

    def watch(self) -> None:
        """Follow every change that this connection makes from now on."""
        (stored,) = self._db.execute("SELECT digest FROM run").fetchone()
        self._stored = self._value = int.from_bytes(stored, "big")
        self._db.create_function("changed", -1, self._changed)
        # Triggers of this connection alone. Where a row is replaced, the old one counts as deleted only if recursive.
        self._db.execute("PRAGMA temp_store = MEMORY")
        self._db.execute("PRAGMA recursive_triggers = ON")
        for table, columns in self._tables():
            old, new = (", ".join(f"{side}.{name}" for name in columns) for side in ("OLD", "NEW"))
            for event, sides in (("INSERT", (new,)), ("UPDATE", (old, new)), ("DELETE", (old,))):
                body = " ".join(f"SELECT changed('{table}', {side});" for side in sides)
                self._db.execute(f"CREATE TEMP TRIGGER {table}_{event} AFTER {event} ON main.{table} BEGIN {body} END")

    def store(self) -> None:
        """Put the digest of what is there now into the file, within the transaction that changed it."""
        if self._value != self._stored:
            self._db.execute("UPDATE run SET digest = ?", (self._value.to_bytes(BYTES, "big"),))

    def kept(self) -> None:
        """What was stored is durable."""
        self._stored = self._value

    def forget(self) -> None:
        """What was changed is undone."""
        self._value = self._stored

    def compute(self) -> bytes:
        """Of all rows, and of the schema, read anew."""
        value = 0
        for row in self._db.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema"):
            value ^= _hash("sqlite_schema", *row)
        for table, columns in self._tables():
            for row in self._db.execute(f"SELECT {', '.join(columns)} FROM {table} NOT INDEXED"):
                value ^= _hash(table, *row)
        return value.to_bytes(BYTES, "big")

    def damage(self) -> str:
        """What is wrong with the file, in words; "" if nothing is. Reads all of it: 5 s for a million rows."""
        (said,) = self._db.execute("PRAGMA integrity_check(1)").fetchone()
        if said != "ok":
            return " ".join(str(said).split())
        try:
            rows = self._db.execute("SELECT digest FROM run").fetchall()
            whole = [row[0] for row in rows] == [self.compute()]
        except sqlite3.OperationalError as error:
            # No such column, or, without a code and from Python's own module, a text that is no UTF-8.
            if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) != sqlite3.SQLITE_ERROR:
                raise
            return "it has other columns or texts than it was given"
        return "" if whole else "what it holds is not what was written"

    def _changed(self, table: str, *row: Any) -> None:
        self._value ^= _hash(table, *row)

    def _tables(self) -> Iterator[tuple[str, list[str]]]:
        """Each table with its columns, but for the digest itself."""
        names = self._db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").fetchall()
        for (name,) in names:
            columns = [row[1] for row in self._db.execute(f"PRAGMA table_info({name})")]
            yield name, [column for column in columns if (name, column) != ("run", "digest")]


def _hash(*values: Any) -> int:
    return int.from_bytes(hashlib.blake2b(msgspec.msgpack.encode(values), digest_size=BYTES).digest(), "big")
