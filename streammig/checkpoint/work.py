"""The work file of one call of `retry`: the bytes of dead letters until they are sealed, as they are or repaired."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from streammig.checkpoint.letters import Spot
from streammig.checkpoint.sqlite import SqliteFile, connect, translated
from streammig.records import Place, Range, Slice

# Keyed like the dead letter. From `first` up to, not including, `last` are the units of the source record that it
# takes: the others belong to batches or other letters. `data` is the whole source record, so that rules and mapping
# make the same of it at each reading.
_SCHEMA = """
CREATE TABLE record (
    stage TEXT NOT NULL, source INTEGER NOT NULL, offset INTEGER NOT NULL, unit INTEGER NOT NULL,
    first INTEGER NOT NULL, last INTEGER NOT NULL, length INTEGER NOT NULL, ordinal INTEGER NOT NULL,
    repaired INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (stage, source, offset, unit)
) WITHOUT ROWID"""


def work_path(checkpoint: Path) -> Path:
    return checkpoint.with_name(checkpoint.name + ".retry")


def forget_work(checkpoint: Path) -> None:
    """Delete the work file: it holds records."""
    path = work_path(checkpoint)
    for name in (path, path.with_name(path.name + "-journal")):
        with suppress(OSError):
            name.unlink(missing_ok=True)


class WorkFile(SqliteFile):
    """Slices of dead letters by their places in the export. Owner-only, deleted when the call ends."""

    @classmethod
    def create(cls, checkpoint: Path) -> WorkFile:
        path = work_path(checkpoint)
        with translated(path):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        work = cls(path, connect(path, "rw"))
        with translated(path):
            work._db.execute("PRAGMA journal_mode = TRUNCATE")
            work._db.execute("PRAGMA synchronous = OFF")
            work._db.execute(_SCHEMA)
        return work

    def put(self, stage: str, unit: int, piece: Slice, repaired: bool, units: tuple[int, int] = (0, 0)) -> None:
        """Keep a slice under its letter's unit, with the units that the letter takes, as far as they are known."""
        self._change(
            "INSERT OR REPLACE INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            stage, piece.source, piece.offset, unit, *units, piece.length, piece.ordinal, repaired, piece.data,
        )  # fmt: skip

    def repaired(self, stage: str, spot: Spot) -> bytes | None:
        """The record that was given in place of the one at this spot."""
        rows = self._read(
            "SELECT data FROM record WHERE stage = ? AND source = ? AND offset = ? AND unit = ? AND repaired",
            stage, *spot,
        )  # fmt: skip
        return rows[0][0] if rows else None

    def ordinal(self, stage: str, spot: Spot) -> int | None:
        """The ordinal of what is kept for this spot."""
        where = "stage = ? AND source = ? AND offset = ? AND unit = ?"
        rows = self._read(f"SELECT ordinal FROM record WHERE {where}", stage, *spot)
        return rows[0][0] if rows else None

    def slices(self, stage: str, source: int, offset: int, unit: int) -> list[tuple[Slice, Range]]:
        """What stands at a place under one of its units: slices, each with the units that its letter takes."""
        rows = self._read(
            "SELECT first, last, length, ordinal, data FROM record"
            " WHERE stage = ? AND source = ? AND offset = ? AND last > first AND unit = ?",
            stage, source, offset, unit,
        )  # fmt: skip
        return [
            (
                Slice(source, offset, ordinal, length, data),
                Range(Place(source, offset, first, ordinal), Place(source, offset, last, ordinal)),
            )
            for first, last, length, ordinal, data in rows
        ]
