"""The progress of a verify: a file in the state folder, from which the same command goes on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from streammig.checkpoint import Accepted, Role, SharedFile
from streammig.model import START, Place, Range, Record
from streammig.target import Difference

PIECE = 256  # suspects that are looked at again together

_encoded = msgspec.msgpack.Encoder().encode
_RECORD = msgspec.msgpack.Decoder(Record)
_DIFFERENCES = msgspec.json.Decoder(list[Difference])


class Item(NamedTuple):
    """One record to be looked at, the batch that carried it, and how many units of its owner the target counts."""

    record: Record
    seq: int
    counted: int = 0

    @property
    def place(self) -> Place:
        return self.record.begin


class Done(NamedTuple):
    """How far a stage is: the last unit that is done, how many records were looked at (`looked`), and how many units
    the target does not show (`unread`)."""

    place: Place | None = None
    looked: int = 0
    unread: int = 0


class Suspect(NamedTuple):
    """A record that the first look did not find as it was sent, with the differences of each look."""

    stage: str
    item: Item
    first: list[Difference]
    second: list[Difference] | None = None


class Work(SharedFile):
    """The file of a verify under way. It holds records as they were sent, so it is owner-only, and is deleted once the
    result is in the checkpoint. Synchronous, for one thread."""

    role = Role("the progress of the verify", "verify-progress", "Delete it: the verify begins again.")
    application = 0x734D5679  # "sMVy"
    format = 2
    tables: tuple[str, ...] = ("verify", "accepted", "sent", "progress", "counted", "suspect")
    schema = """
-- What the verify depends on. `seen`: a record was seen whose batch was accepted then, and none of a later one.
CREATE TABLE verify (binding TEXT NOT NULL, seen REAL NOT NULL);
-- The ranges of accepted batches in reading order; then the batches, with their units and when each was accepted;
-- below, the last unit of each stage that is done.
CREATE TABLE accepted (
    stage TEXT NOT NULL, source INTEGER NOT NULL, offset INTEGER NOT NULL, unit INTEGER NOT NULL,
    record INTEGER NOT NULL, end_offset INTEGER NOT NULL, end_unit INTEGER NOT NULL, seq INTEGER NOT NULL,
    PRIMARY KEY (stage, source, offset, unit)
) WITHOUT ROWID;
CREATE TABLE sent (
    stage TEXT NOT NULL, seq INTEGER NOT NULL, units INTEGER NOT NULL, settled REAL NOT NULL, PRIMARY KEY (stage, seq)
) WITHOUT ROWID;
CREATE TABLE progress (
    stage TEXT PRIMARY KEY, source INTEGER NOT NULL, offset INTEGER NOT NULL, unit INTEGER NOT NULL,
    record INTEGER NOT NULL, looked INTEGER NOT NULL, unread INTEGER NOT NULL
);
-- How many counted units of each owner were sent, and the first record with any.
CREATE TABLE counted (
    owner TEXT PRIMARY KEY, units INTEGER NOT NULL, seq INTEGER NOT NULL, record BLOB NOT NULL
);
-- Differences are JSON. `second` is NULL until the second look.
CREATE TABLE suspect (
    stage TEXT NOT NULL, seq INTEGER NOT NULL, source INTEGER NOT NULL, offset INTEGER NOT NULL, unit INTEGER NOT NULL,
    counted INTEGER NOT NULL, record BLOB NOT NULL, first TEXT NOT NULL, second TEXT,
    PRIMARY KEY (stage, seq, source, offset, unit)
) WITHOUT ROWID"""

    def __reduce__(self) -> tuple[type[Work], tuple[Path, bool]]:
        return Work, (self.path, True)  # another process only reads it

    def begin(self, binding: str, stages: Mapping[str, Iterable[Accepted]]) -> None:
        """Begin, or go on with what was begun for the same `binding`; for "" always begin."""
        rows = self.rows("SELECT binding FROM verify")
        if binding and rows and rows[0][0] == binding:
            return
        with self.transaction():
            for table in self.tables:
                self._db.execute(f"DELETE FROM {table}")
            for stage, batches in stages.items():
                for each in batches:
                    row = stage, each.seq, each.tally.units, each.settled
                    self._db.execute("INSERT INTO sent VALUES (?, ?, ?, ?)", row)
                    self._db.executemany(
                        "INSERT INTO accepted VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                        [(stage, *it.begin, it.end.offset, it.end.unit, each.seq) for it in each.ranges],
                    )
            self._db.execute("INSERT INTO verify VALUES (?, 0)", (binding,))

    def ranges(self, stage: str, source: int, begin: int, end: int) -> tuple[list[Range], list[int]]:
        """The ranges that may hold records that begin in these bytes, in reading order, and their batches."""
        rows = self.rows(
            "SELECT offset, unit, record, end_offset, end_unit, seq FROM accepted WHERE stage = ?1 AND source = ?2"
            " AND offset >= coalesce((SELECT max(offset) FROM accepted"
            " WHERE stage = ?1 AND source = ?2 AND offset < ?3), 0) AND offset < ?4 ORDER BY offset, unit",
            stage, source, begin, end,
        )  # fmt: skip
        ranges = [
            Range(Place(source, offset, unit, record), Place(source, end_offset, end_unit, record))
            for offset, unit, record, end_offset, end_unit, _ in rows
        ]
        return ranges, [row[5] for row in rows]

    def first(self, stage: str) -> Place | None:
        """Where the first record of a stage begins that a batch holds; None without one."""
        ordered = "SELECT source, offset, 0, record FROM accepted WHERE stage = ? ORDER BY source, offset LIMIT 1"
        return next((Place(*row) for row in self.rows(ordered, stage)), None)

    def sizes(self, stage: str) -> dict[int, int]:
        """How many units each batch of a stage holds, by its number."""
        return dict(map(tuple, self.each("SELECT seq, units FROM sent WHERE stage = ? ORDER BY seq", stage)))

    def settled(self, stage: str, seq: int) -> float:
        """When a batch was accepted, in seconds since the epoch."""
        return float(self.rows("SELECT settled FROM sent WHERE stage = ? AND seq = ?", stage, seq)[0][0])

    def progress(self, stage: str) -> Done:
        rows = self.rows("SELECT source, offset, unit, record, looked, unread FROM progress WHERE stage = ?", stage)
        return Done(Place(*rows[0][:4]), *rows[0][4:]) if rows else Done()

    def note(self, stage: str, more: Done, suspects: Sequence[Suspect] = (), seen: float = 0.0) -> None:
        """Add to the progress of a stage, up to the place of `more`, with the suspects that were found on the way."""
        with self.transaction():
            before = self.progress(stage)
            self._db.execute(
                "INSERT OR REPLACE INTO progress VALUES (?, ?, ?, ?, ?, ?, ?)",
                (stage, *(more.place or START), before.looked + more.looked, before.unread + more.unread),
            )
            self._db.execute("UPDATE verify SET seen = max(seen, ?)", (seen,))
            self._db.executemany(
                "INSERT OR REPLACE INTO suspect VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL)",
                [
                    (it.stage, it.item.seq, *it.item.place[:3], it.item.counted, _encoded(it.item.record),
                     _text(it.first))
                    for it in suspects
                ],
            )  # fmt: skip

    def note_again(self, stage: str, found: Iterable[tuple[Item, list[Difference]]]) -> None:
        """Note the differences of the second look."""
        where = "stage = ? AND seq = ? AND source = ? AND offset = ? AND unit = ?"
        with self.transaction():
            self._db.executemany(
                f"UPDATE suspect SET second = ? WHERE {where}",
                [(_text(how), stage, it.seq, *it.place[:3]) for it, how in found],
            )

    def left(self) -> int:
        """How many suspects there are."""
        return int(self.rows("SELECT count(*) FROM suspect")[0][0])

    def drop_found(self) -> None:
        """Forget suspects without a difference in the second look. The others are due for one more."""
        with self.transaction():
            self._db.execute("DELETE FROM suspect WHERE second = '[]'")
            self._db.execute("UPDATE suspect SET second = NULL")

    def count(self, stage: str, place: Place, items: Iterable[Item]) -> None:
        """Add counted units by owner, up to a place."""
        with self.transaction():
            self.note(stage, Done(place))
            self._db.executemany(
                "INSERT INTO counted VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET units = units + excluded.units",
                [
                    (it.record.owner, it.counted, it.seq, msgspec.msgpack.encode(it.record))
                    for it in items
                    if it.counted
                ],
            )

    def counted(self, owner: str) -> int:
        rows = self.rows("SELECT units FROM counted WHERE owner = ?", owner)
        return rows[0][0] if rows else 0

    def counters(self, done: int) -> Iterator[Item]:
        """Each owner with counted units, in the order of their first records; the first `done` are left out."""
        while rows := self.rows("SELECT units, seq, record FROM counted ORDER BY rowid LIMIT ? OFFSET ?", PIECE, done):
            yield from (Item(_RECORD.decode(record), seq, units) for units, seq, record in rows)
            done += len(rows)

    def suspects(self, again: bool = False) -> Iterator[Suspect]:
        """All suspects by stage and batch, in reading order; `again`: those still without a second look."""
        last: tuple[object, ...] = ("", 0, 0, 0, 0)
        only = "AND second IS NULL" if again else ""
        while rows := self.rows(
            "SELECT stage, seq, source, offset, unit, counted, record, first, second FROM suspect"
            f" WHERE (stage, seq, source, offset, unit) > (?, ?, ?, ?, ?) {only}"
            " ORDER BY stage, seq, source, offset, unit LIMIT ?",
            *last, PIECE,
        ):  # fmt: skip
            for stage, seq, _, _, _, counted, record, first, second in rows:
                item = Item(_RECORD.decode(record), seq, counted)
                yield Suspect(stage, item, _differences(first) or [], _differences(second))
            last = tuple(rows[-1])[:5]

    @property
    def seen(self) -> float:
        """When the latest batch was accepted that has a record which a look saw."""
        return float(self.rows("SELECT seen FROM verify")[0][0])

    def forget(self) -> None:
        """Close and delete it."""
        self.close()
        for end in ("", "-journal"):
            self.path.with_name(self.path.name + end).unlink(missing_ok=True)


def work_path(state_folder: Path, run_id: str) -> Path:
    return state_folder / f"verify-{run_id}.sqlite"


def after(items: Iterable[Item], place: Place | None) -> Iterator[Item]:
    """The items behind a unit."""
    return (it for it in items if place is None or it.place[:3] > place[:3])


def start_at(place: Place | None) -> Place:
    """The place to read from for the units behind this one: the begin of its record."""
    return START if place is None else place._replace(unit=0)


def _text(differences: list[Difference]) -> str:
    return msgspec.json.encode(differences).decode()


def _differences(text: str | None) -> list[Difference] | None:
    return _DIFFERENCES.decode(text) if text is not None else None
