"""States of units in accepted batches (missing, resent, reverted), and the results of verifies."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from streammig.checkpoint.codec import decode_tally, encode_tally, pack_ranges, unpack_ranges
from streammig.checkpoint.letters import Letters
from streammig.checkpoint.queries import Totals
from streammig.errors import SAMPLES_MISSING
from streammig.model import Batch, Draft, Range, Tally, add_up

MISSED, RESENT, REVERTED = "missing", "resent", "reverted"


class Accepted(NamedTuple):
    """An accepted batch: the units of it that the target should hold, and when it was accepted.

    `mapping` is the hash of the mapping that made it, or "". `letters`: made of dead letters, whose corrections are
    not kept.
    """

    seq: int
    ranges: tuple[Range, ...]
    tally: Tally
    mapping: str
    letters: bool
    settled: float


class Beside(NamedTuple):
    """Units of one accepted batch that have a state of their own."""

    seq: int
    ranges: tuple[Range, ...]
    tally: Tally


class Finding(NamedTuple):
    """A difference that a verify found: batch, place, field and reason. Holds no personal data."""

    stage: str
    seq: int
    source: int
    offset: int
    unit: int
    record: int
    field: str
    reason: str


class Units(Letters):
    """The part of a checkpoint that keeps the states of units, and the results of verifies."""

    def totals(self, stage: str) -> Totals:
        """Add up both sides of a stage's accounts, each unit by its own state."""
        with self.reading():
            found = super().totals(stage)
            missing, resent, reverted = (self._tally(stage, state) for state in (MISSED, RESENT, REVERTED))
        accepted = found.accepted - missing - resent - reverted
        return replace(found, accepted=accepted, unknown=found.unknown + missing, missing=missing, reverted=reverted)

    def _tally(self, stage: str, state: str) -> Tally:
        tallies = self.each("SELECT tally FROM unit_state WHERE stage = ? AND state = ?", stage, state)
        return add_up(decode_tally(tally) for (tally,) in tallies)

    def beside(self, stage: str, state: str) -> Iterator[Beside]:
        """Return the units of a stage in this state (missing, resent or reverted), batch by batch."""
        rows = self.each(
            "SELECT seq, ranges, tally FROM unit_state WHERE stage = ? AND state = ? ORDER BY seq", stage, state
        )
        return (Beside(seq, unpack_ranges(ranges), decode_tally(tally)) for seq, ranges, tally in rows)

    def accepted(self, stage: str) -> Iterator[Accepted]:
        """Return the accepted batches of a stage one by one, without units that were resent or reverted."""
        again = {row[0] for row in self.rows("SELECT again FROM unit_again WHERE stage = ?", stage)}
        beside = "SELECT ranges, tally FROM unit_state WHERE stage = ? AND seq = ? AND state IN (?, ?)"
        for row in self.each(
            "SELECT seq, ranges, tally, mapping, retried, settled FROM batch WHERE stage = ? AND state = 'accepted'"
            " ORDER BY seq",
            stage,
        ):
            ranges, tally, gone = unpack_ranges(row["ranges"]), decode_tally(row["tally"]), list[Range]()
            for packed, lost in self.rows(beside, stage, row["seq"], RESENT, REVERTED):
                gone, tally = [*gone, *unpack_ranges(packed)], tally - decode_tally(lost)
            letters = bool(row["retried"]) and row["seq"] not in again
            left = tuple(without(ranges, sorted(gone)))
            yield Accepted(row["seq"], left, tally, row["mapping"], letters, row["settled"] or 0.0)

    # -- verify ------------------------------------------------------------------------------------------------------

    def note_verified(
        self, summary: Mapping[str, Any], at: float, seen: float, missing: Iterable[tuple[str, Beside]],
        findings: Iterable[Finding],
    ) -> None:  # fmt: skip
        """Replace the results of the last verify, in one transaction.

        `summary` is JSON-ready; `at` and `seen`, as in the schema, are in seconds since the epoch.
        """
        with self.transaction():
            for table in ("verification", "finding", "unit_state WHERE state = 'missing'"):
                self.change(f"DELETE FROM {table}")
            (tick,) = self.rows("SELECT tick FROM run")[0]
            self.change("INSERT INTO verification VALUES (?, ?, ?, ?)", at, tick, seen, json.dumps(summary))
            if summary["kind"] == "all":  # a full verify overrules the samples of the run
                self.change("UPDATE stage SET code = '', message = '' WHERE code = ?", SAMPLES_MISSING)
            for stage, it in missing:
                self._set(stage, MISSED, it)
            self._db.executemany("INSERT OR IGNORE INTO finding VALUES (?, ?, ?, ?, ?, ?, ?, ?)", findings)

    def seen_until(self) -> float:
        """Return when the latest batch was accepted that a verify ever saw, in seconds since the epoch; 0 if none."""
        return float(self.rows("SELECT coalesce(max(seen), 0) FROM verification")[0][0])

    def verification(self) -> dict[str, Any] | None:
        """Return the summary of the last verify, with `at`, and `outdated` if anything was sent since; None if none."""
        for at, tick, summary in self.rows("SELECT at, tick, summary FROM verification"):
            found: dict[str, Any] = json.loads(summary)
            return found | {"at": at, "outdated": tick != self.run["tick"]}
        return None

    def findings(self) -> Iterator[Finding]:
        """Return the findings of the last verify one by one, in reading order."""
        for stage in self.stages():
            ordered = "SELECT * FROM finding WHERE stage = ? ORDER BY source, offset, unit, field"
            yield from (Finding(*row) for row in self.each(ordered, stage.name))

    def _set(self, stage: str, state: str, it: Beside) -> None:
        """Put units in a state, in addition to the units of the batch that are in it already."""
        for ranges, tally in self.rows(
            "SELECT ranges, tally FROM unit_state WHERE stage = ? AND seq = ? AND state = ?", stage, it.seq, state
        ):
            both = sorted(unpack_ranges(ranges) + it.ranges)
            it = Beside(it.seq, tuple(both), decode_tally(tally) + it.tally)
        row = stage, it.seq, state, pack_ranges(it.ranges), encode_tally(it.tally)
        self.change("INSERT OR REPLACE INTO unit_state VALUES (?, ?, ?, ?, ?)", *row)

    def mappings(self, stage: str, state: str) -> set[str]:
        """Return the hashes of the mappings that made the units in this state."""
        where = "unit_state JOIN batch USING (stage, seq) WHERE stage = ? AND unit_state.state = ?"
        return {row[0] for row in self.rows(f"SELECT DISTINCT mapping FROM {where}", stage, state)}

    # -- retry --missing ---------------------------------------------------------------------------------------------

    def seal_missing(
        self, stage: str, taken: Sequence[Beside], drafts: Sequence[Draft], mapping: str, at: float
    ) -> list[Batch]:
        """Seal missing units in new batches, in one transaction; they are `resent` in their old ones."""
        sealed = []
        with self.transaction():
            for it in taken:
                self._set(stage, RESENT, it)
                self._unset(stage, MISSED, it)
            for draft in drafts:
                batch = self._insert(stage, draft, at, retried=True, mapping=mapping)
                self.change("INSERT INTO unit_again VALUES (?, ?)", stage, batch.seq)
                sealed.append(batch)
            self.change("UPDATE stage SET seen = 0 WHERE name = ?", stage)
        return sealed

    def _unset(self, stage: str, state: str, it: Beside) -> None:
        """Take units out of a state."""
        where = "stage = ? AND seq = ? AND state = ?"
        rows = self.rows(f"SELECT ranges, tally FROM unit_state WHERE {where}", stage, it.seq, state)
        self.change(f"DELETE FROM unit_state WHERE {where}", stage, it.seq, state)
        for ranges, tally in rows:
            rest = decode_tally(tally) - it.tally
            if rest.units < 0:
                raise AssertionError(f"units of batch {it.seq} of {stage} are not {state}: don't send them")
            if rest.units:
                self._set(stage, state, Beside(it.seq, tuple(without(unpack_ranges(ranges), it.ranges)), rest))


def without(ranges: Iterable[Range], gone: Sequence[Range]) -> Iterator[Range]:
    """Return the parts of `ranges` outside of `gone`; both are in reading order."""
    for begin, end in ranges:
        for low, high in gone:
            if high[:3] <= begin[:3] or low[:3] >= end[:3]:
                continue
            if begin[:3] < low[:3]:
                yield Range(begin, low)
            begin = max(begin, high)
        if begin[:3] < end[:3]:
            yield Range(begin, end)
