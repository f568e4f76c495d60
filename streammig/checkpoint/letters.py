"""Dead letters in a checkpoint: what is asked of them, and what a retry makes of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from streammig.checkpoint.codec import decode_tally, encode_tally, hash_owner, twin_key
from streammig.checkpoint.queries import PENDING, UNDECIDED, Queries
from streammig.records import DeadLetter, Position, Record, Tally, add_up

Spot = tuple[int, int, int]
"""Where a dead letter stands: source, offset, unit."""

FIRST: Spot = (-1, 0, 0)  # before every letter


class Becomes(NamedTuple):
    """What a retry made of one letter: the code of why it is still dead, or is filtered now."""

    spot: Spot
    code: str
    message: str
    repaired: bool
    filtered: bool = False


class Letters(Queries):
    """The part of a checkpoint that knows dead letters, their lineage, and who was sent by a retry."""

    def letters_after(self, stage: str, after: Spot, count: int) -> list[DeadLetter]:
        """Up to `count` dead letters of a stage behind a spot, in reading order, one for each spot."""
        rows = self._read(
            "SELECT * FROM dead_letter WHERE stage = ? AND (source, offset, unit) > (?, ?, ?)"
            " GROUP BY source, offset, unit ORDER BY source, offset, unit LIMIT ?",
            stage, *after, count,
        )  # fmt: skip
        return [_letter(row) for row in rows]

    def is_dead(self, stage: str, spot: Spot) -> bool:
        where = "stage = ? AND source = ? AND offset = ? AND unit = ?"
        return bool(self._read(f"SELECT 1 FROM dead_letter WHERE {where} LIMIT 1", stage, *spot))

    def is_letter(self, stage: str, spot: Spot) -> bool:
        """Whether what stands there is a dead letter, or was one until a retry took it."""
        where = "stage = ? AND source = ? AND offset = ? AND unit = ?"
        return self.is_dead(stage, spot) or bool(self._read(f"SELECT 1 FROM retried WHERE {where}", stage, *spot))

    # -- retries -----------------------------------------------------------------------------------------------------

    def sent_again(self, stage: str, keys: Iterable[str]) -> set[str]:
        """Which of these owners (or twin keys) retried batches carry, or have brought to the target."""
        salt = self.run["salt"]
        return {
            key
            for key in keys
            if self._read(
                f"SELECT 1 FROM sent_again s WHERE stage = ? AND owner = ? AND NOT {_DEAD} LIMIT 1",
                stage, hash_owner(salt, key),
            )
        }  # fmt: skip

    def letters_sent(self) -> int:
        """How many times retries have sealed a letter to be sent."""
        return int(self._read("SELECT count(*) FROM retried WHERE seq IS NOT NULL")[0][0])

    def retried_at(self, stage: str) -> float | None:
        """When the last retried batch of a stage was accepted, in seconds since the epoch."""
        at: float | None = self._read(
            "SELECT max(settled) FROM batch WHERE stage = ? AND state = 'accepted' AND retried", stage
        )[0][0]
        return at

    def _take(
        self, stage: str, batches: Mapping[int, Sequence[Record]], letters: Iterable[tuple[Spot, bool]], at: float
    ) -> None:
        """The letters at these spots (each with whether it was repaired) are in these new batches now, by number."""
        with self.transaction():
            gone = [self._lift(stage, spot, repaired, "sealed", min(batches), at) for spot, repaired in letters]
            sealed = [
                decode_tally(self._read("SELECT tally FROM batch WHERE stage = ? AND seq = ?", stage, seq)[0][0])
                for seq in batches
            ]
            row = self._read("SELECT repaired FROM stage WHERE name = ?", stage)[0]
            repaired = decode_tally(row[0]) + add_up(sealed) - add_up(gone)
            self._db.execute("UPDATE stage SET repaired = ? WHERE name = ?", (encode_tally(repaired), stage))
            salt = self.run["salt"]
            self._db.executemany(
                "INSERT OR IGNORE INTO sent_again VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (stage, hash_owner(salt, key), it.position.source, it.position.offset, it.unit, seq)
                    for seq, records in batches.items()
                    for it in records
                    for key in (it.owner, *([twin_key(it.twin)] if it.twin else []))
                ],
            )

    def become(self, stage: str, outcomes: Iterable[Becomes], at: float) -> None:
        """Letters that a retry did not send: still dead with the reason of now, or filtered."""
        with self.transaction():
            for it in outcomes:
                tally = self._lift(stage, it.spot, it.repaired, it.code, None, at, keep=not it.filtered)
                if it.filtered:
                    known = self.progress(stage).filtered.get(it.code, Tally())
                    self._db.execute(
                        "INSERT INTO filtered VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET tally = excluded.tally",
                        (stage, it.code, encode_tally(known + tally)),
                    )
                else:
                    self._db.execute(
                        "UPDATE dead_letter SET code = ?, message = ?"
                        " WHERE stage = ? AND source = ? AND offset = ? AND unit = ?",
                        (it.code, it.message, stage, *it.spot),
                    )

    def _lift(
        self, stage: str, spot: Spot, repaired: bool, became: str, seq: int | None, at: float, keep: bool = False
    ) -> Tally:
        """Enter what a letter was into its lineage and, unless it is kept, take it from the dead; returns its tally."""
        where = "stage = ? AND source = ? AND offset = ? AND unit = ?"
        rows = self._read(f"SELECT * FROM dead_letter WHERE {where}", stage, *spot)
        if not rows:
            raise AssertionError(f"the record of {stage} at byte {spot[1]} is no dead letter: it must not be retried")
        for row in rows:
            self._db.execute(
                "INSERT INTO retried SELECT ?1, ?2, ?3, ?4, count(*) + 1, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12"
                " FROM retried WHERE stage = ?1 AND source = ?2 AND offset = ?3 AND unit = ?4",
                (stage, *spot, row["batch"], row["code"], row["message"], row["tally"], at, repaired, became, seq),
            )
        if not keep:
            self._db.execute(f"DELETE FROM dead_letter WHERE {where}", (stage, *spot))
        return add_up(decode_tally(row["tally"]) for row in rows)

    # -- customers that are absent no more ---------------------------------------------------------------------------

    def released_of(self, owners: Iterable[str], stage: str | None = None) -> set[str]:
        """Which of these owners a retry has brought to the target since; for a stage, as of when that stage began."""
        if not self._read("SELECT 1 FROM released LIMIT 1"):
            return set()
        salt = self.run["salt"]
        ordinal = self._read("SELECT ordinal FROM stage WHERE name = ?", stage)[0][0] if stage else 1 << 30
        return {
            owner
            for owner in owners
            if self._read("SELECT 1 FROM released WHERE owner = ? AND since <= ?", hash_owner(salt, owner), ordinal)
        }

    def has_released(self) -> bool:
        return bool(self._read("SELECT 1 FROM released LIMIT 1"))

    def to_release(self) -> bool:
        """Whether customers of retried batches were accepted whose dependents don't know of it yet."""
        return bool(self._delivered())

    def release(self) -> None:
        """Their dependents may be sent: those of the stages that have not begun yet, and those that are retried."""
        with self.transaction():
            begun = self._read("SELECT coalesce(max(ordinal), 0) + 1 FROM stage WHERE started IS NOT NULL")[0][0]
            self._db.executemany("INSERT INTO released VALUES (?, ?)", [(it, begun) for it in self._delivered()])

    def _delivered(self) -> set[bytes]:
        """The hashed owners whose retried customer was accepted for certain, and who are not yet released.

        Accepted is what lies in no part of its batch that is still open, and was refused in none of them: that it is no
        dead letter any more says nothing, for a later retry may have taken it, or found it filtered.
        """
        if not (
            rows := self._read(
                "SELECT * FROM sent_again WHERE stage = 'customers' AND owner NOT IN (SELECT owner FROM released)"
            )
        ):
            return set()  # fmt: skip
        roots: dict[int, int] = {}
        for row in self._read("SELECT seq, parent FROM batch WHERE stage = 'customers' AND retried ORDER BY seq"):
            roots[row["seq"]] = roots.get(row["parent"], row["seq"])
        waiting = {roots.get(it.seq) for it in self.batches("customers", *PENDING, *UNDECIDED)}
        letters = "SELECT source, offset, unit, batch FROM {} WHERE stage = 'customers'"
        refused = {
            (*tuple(row)[:3], roots.get(row["batch"]))
            for row in self._read(f"{letters.format('dead_letter')} UNION ALL {letters.format('retried')}")
        }
        return {
            row["owner"]
            for row in rows
            if row["seq"] not in waiting and (row["source"], row["offset"], row["unit"], row["seq"]) not in refused
        }


# Of a row of sent_again: what it brought is a dead letter again.
_DEAD = (
    "EXISTS (SELECT 1 FROM dead_letter d WHERE d.stage = s.stage AND d.source = s.source AND d.offset = s.offset"
    " AND d.unit = s.unit)"
)


def _letter(row: sqlite3.Row) -> DeadLetter:
    position = Position(row["source"], row["offset"], row["length"], row["record"])
    return DeadLetter(position, row["unit"], row["code"], row["message"], decode_tally(row["tally"]))
