"""What a checkpoint holds: everything that is read from it, by a run or beside one."""

from __future__ import annotations

import json
import sqlite3
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from streammig.checkpoint.codec import decode_tally, hash_owner, unpack_ranges
from streammig.checkpoint.fence import Mark
from streammig.checkpoint.sqlite import SqliteFile, damaged, translated
from streammig.records import Batch, BatchState, DeadLetter, Kind, Place, Position, Progress, Range, Tally, add_up

# What is pending, unknown or settled, by state; a split batch lives on in its parts.
PENDING = (BatchState.SEALED, BatchState.SENDING, BatchState.REJECTED)
UNDECIDED = (BatchState.UNKNOWN, BatchState.PARKED)
_PENDING = ", ".join(f"'{state}'" for state in PENDING)
Spot = tuple[int, int, int]
"""Where a dead letter stands: source, offset, unit."""

FIRST: Spot = (-1, 0, 0)  # before every letter
LOST = "newest-is-lost"  # the code of an attempt that only a copy that is lost may have made


@dataclass(frozen=True, slots=True)
class Totals:
    """The accounts of one stage. `read` comes from the reading side, the rest from batches, dead letters
    and filter counts; they balance when the two sides agree in records, units and every sum."""

    read: Tally
    accepted: Tally
    dead: Tally
    filtered: Tally
    unknown: Tally
    pending: Tally
    # What retried records hold more than the dead letters that they were.
    repaired: Tally = field(default_factory=Tally)
    # The part of `pending` that is being sent or, where no run is on, was when it was cut off.
    sending: Tally = field(default_factory=Tally)
    # Accepted once, and taken back by a revert.
    reverted: Tally = field(default_factory=Tally)
    # The part of `unknown` that was accepted, and that a verify did not find.
    missing: Tally = field(default_factory=Tally)

    @property
    def taken(self) -> Tally:
        return self.read + self.repaired

    @property
    def placed(self) -> Tally:
        return self.accepted + self.dead + self.filtered + self.unknown + self.pending + self.reverted

    @property
    def balanced(self) -> bool:
        return self.taken - self.placed == Tally()


@dataclass(frozen=True, slots=True)
class StageRow:
    """A stage as the checkpoint has it."""

    name: str
    state: str
    code: str
    message: str
    started: float | None
    finished: float | None
    shape: Mapping[str, Any]
    seen: bool = False  # all samples of it were seen at the target


class Queries(SqliteFile):
    """The questions to a checkpoint; none of them changes it."""

    @property
    def run(self) -> Mapping[str, Any]:
        """id, version, started, binding, context, salt, tick."""
        rows = self._read("SELECT * FROM run")
        if len(rows) != 1:
            raise damaged(self.path, self.role, "it does not say what run it belongs to")
        row = dict(rows[0])
        return row | {"binding": json.loads(row["binding"]), "context": json.loads(row["context"])}

    def stages(self) -> list[StageRow]:
        columns = "name, state, code, message, started, finished, shape, seen"
        rows = self._read(f"SELECT {columns} FROM stage ORDER BY ordinal")
        found = (dict(row) for row in rows)
        return [StageRow(**it | {"shape": json.loads(it["shape"]), "seen": bool(it["seen"])}) for it in found]

    def fingerprints(self, stage: str) -> list[dict[str, Any]]:
        rows = self._read("SELECT fingerprint FROM source_file WHERE stage = ? ORDER BY source", stage)
        return [json.loads(row[0]) for row in rows]

    def lengths(self, stage: str) -> tuple[int, ...] | None:
        """The bytes of each of a stage's files, decompressed, about; None where one is not known."""
        marks = self.fingerprints(stage)
        found = [mark.get("length", 0 if mark.get("compression") else mark["size"]) for mark in marks]
        return tuple(found) if all(found) else None

    def progress(self, stage: str) -> Progress:
        """Where reading goes on, with its counters; `dead` and `absent` are empty, they are stored already."""
        row = self._read("SELECT * FROM stage WHERE name = ?", stage)[0]
        filtered = self._read("SELECT reason, tally FROM filtered WHERE stage = ?", stage)
        return Progress(
            Place(row["source"], row["offset"], row["unit"], row["record"]),
            row["source_records"],
            decode_tally(row["read"]),
            {reason: decode_tally(tally) for reason, tally in filtered},
            json.loads(row["dropped"]),
        )

    def owns(self, stage: str) -> bool:
        """Whether the records of a stage are the owners of all others: it is the target's first."""
        return self.ordinal(stage) == 0

    def ordinal(self, stage: str) -> int:
        """The number of a stage in the order of stages, from 0."""
        number: int = self._read("SELECT ordinal FROM stage WHERE name = ?", stage)[0][0]
        return number

    def lost(self) -> Mark | None:
        """How far requests had come in a newer copy that is lost; None where no copy was."""
        (row,) = self._read("SELECT tick, lost FROM run")
        if not row["lost"]:
            return None
        stage, *place = json.loads(row["lost"])
        return Mark(row["tick"], stage, Place(*place))

    def ahead(self, stage: str) -> list[Batch]:
        """The batches that hold something beyond the frontier, in the order they were sealed."""
        frontier = self.progress(stage).frontier
        rows = self._read("SELECT * FROM batch WHERE stage = ? AND parent IS NULL AND NOT retried ORDER BY seq", stage)
        # Bins are sealed at most some hundred batches ahead of the frontier, but which ones is not known: all are read.
        return [
            self._batch(stage, row) for row in rows if any(it.end > frontier for it in unpack_ranges(row["ranges"]))
        ]

    def ahead_mappings(self, stage: str) -> set[str]:
        """The hashes of the mappings that made what batches hold beyond the frontier."""
        marks = {row[0]: row[1] for row in self._read("SELECT seq, mapping FROM batch WHERE stage = ?", stage)}
        return {marks[batch.seq] for batch in self.ahead(stage)}

    def ahead_ranges(self, stage: str) -> list[Range]:
        """The ranges that batches hold beyond the frontier, in reading order."""
        frontier = self.progress(stage).frontier
        return sorted(piece for batch in self.ahead(stage) for piece in batch.ranges if piece.end > frontier)

    def absent_reasons(self, owners: Iterable[str]) -> dict[str, str]:
        """Which of these customers will not be in the target, with the code of the reason."""
        salt = self.run["salt"]
        found: dict[str, str] = {}
        for owner in owners:
            for row in self._read("SELECT reason FROM absent_owner WHERE owner = ?", hash_owner(salt, owner)):
                found[owner] = row[0]
        return found

    def has_absent(self) -> bool:
        return bool(self._read("SELECT 1 FROM absent_owner LIMIT 1"))

    def batches(self, stage: str, *states: BatchState) -> list[Batch]:
        """The batches of a stage in these states, in the order they were sealed."""
        marks = ", ".join("?" * len(states))
        rows = self._read(
            "SELECT * FROM batch"
            f" WHERE stage = ? AND state IN ({marks}) ORDER BY seq",
            stage, *states,
        )  # fmt: skip
        return [self._batch(stage, row) for row in rows]

    @staticmethod
    def _batch(stage: str, row: sqlite3.Row) -> Batch:
        return Batch(
            stage=stage, seq=row["seq"], ranges=unpack_ranges(row["ranges"]), tally=decode_tally(row["tally"]),
            digest=row["digest"], size=row["size"], state=BatchState(row["state"]), parent=row["parent"],
            attempts=row["attempts"], retried=bool(row["retried"]), rejects=row["rejects"], ruling=row["ruling"],
            sample=row["sample"],
        )  # fmt: skip

    def batch(self, stage: str, seq: int) -> Batch:
        return self._batch(stage, self._read("SELECT * FROM batch WHERE stage = ? AND seq = ?", stage, seq)[0])

    def sample(self, stage: str, count: int, retried: bool = False) -> list[Batch]:
        """Up to `count` sampled batches of a stage (or of its retried ones), spread evenly over the bytes they hold:
        the small parts of a refused batch, many as they may be, are not looked at in place of the others."""
        rows = self._read(
            "SELECT seq, size FROM batch WHERE stage = ? AND sample IS NOT NULL AND retried = ? ORDER BY seq",
            stage,
            retried,
        )
        ends = list(accumulate(size for _, size in rows))
        wanted = [ends[-1] * k / max(count - 1, 1) for k in range(count)] if rows else []
        chosen = {rows[bisect_left(ends, place)][0] for place in wanted}
        marks = ", ".join("?" * len(chosen))
        found = self._read(f"SELECT * FROM batch WHERE stage = ? AND seq IN ({marks}) ORDER BY seq", stage, *chosen)
        return [self._batch(stage, row) for row in found]

    def last_settled(self, stage: str) -> float | None:
        """When the last batch of a stage was accepted, in seconds since the epoch."""
        at: float | None = self._read("SELECT max(settled) FROM batch WHERE stage = ? AND state = 'accepted'", stage)[
            0
        ][0]
        return at

    def accepted_after(self, batch: Batch, until: float, count: int) -> list[Batch]:
        """Batches of the stage whose accepted request began after this one's had ended and was answered before
        `until` (seconds since the epoch): the `count` that were sent last. In the order of the checkpoint, for the
        wall clock may have been set back meanwhile."""
        after = (
            "b.settled <= ?3 AND a.began > (SELECT max(max(began, ended)) FROM attempt WHERE stage = ?1 AND seq = ?2)"
        )
        return self._accepted(after, batch, until, count)

    def last_accepted(self, batch: Batch, until: float, count: int) -> list[Batch]:
        """The `count` batches of the stage that were sent last, of those accepted before `until` (seconds since the
        epoch) or sent before this batch was answered, whatever the wall clock said then."""
        ended = "SELECT max(ended) FROM attempt WHERE stage = ?1 AND seq = ?2"
        return self._accepted(f"b.settled <= ?3 OR a.began <= ({ended})", batch, until, count)

    def _accepted(self, which: str, batch: Batch, until: float, count: int) -> list[Batch]:
        """The `count` sampled batches `b` of the batch's stage that were sent last, by requests `a`, of `which` this
        holds: ?1 and ?2 are the batch, ?3 is `until`."""
        rows = self._read(
            "SELECT b.* FROM batch b JOIN attempt a ON a.stage = b.stage AND a.seq = b.seq AND a.kind = 'accepted'"
            f" WHERE b.stage = ?1 AND b.sample IS NOT NULL AND ({which}) ORDER BY a.began DESC LIMIT ?4",
            batch.stage, batch.seq, until, count,
        )  # fmt: skip
        return [self._batch(batch.stage, row) for row in rows]

    def latencies(self, stage: str, since: float, count: int) -> list[float]:
        """How long the last requests of a stage took to be accepted, of those begun `since` then, in seconds."""
        sql = "SELECT started, latency FROM attempt WHERE stage = ? AND kind = 'accepted' ORDER BY seq DESC LIMIT ?"
        return [latency for started, latency in self._read(sql, stage, count) if started >= since]

    def last_attempt(self, batch: Batch) -> float:
        """When the last request for this batch was made, in seconds since the epoch."""
        at: float = self._read(
            "SELECT max(started) FROM attempt WHERE stage = ? AND seq = ?", batch.stage, batch.seq
        )[0][0]  # fmt: skip
        return at

    def last_message(self, batch: Batch) -> str:
        """What the last receipt for this batch said, redacted as it is stored; for a part that was never sent, what
        was said of the batch that it is a part of."""
        seq: int | None = batch.seq
        while seq is not None:
            rows = self._read(
                "SELECT message FROM attempt WHERE stage = ? AND seq = ? ORDER BY number DESC LIMIT 1", batch.stage, seq
            )
            if rows:
                return rows[0][0] or ""
            seq = self._read("SELECT parent FROM batch WHERE stage = ? AND seq = ?", batch.stage, seq)[0][0]
        return ""

    def was_refused(self, batch: Batch) -> bool:
        """Whether the last receipt for this batch said that it was refused for its records."""
        row = self._last_receipt(batch)
        return row is not None and row["kind"] == Kind.REJECTED and not row["stopped"]

    def sent_by_lost(self, batch: Batch) -> bool:
        """Whether a copy that is lost may have sent this batch, and nobody has since."""
        row = self._last_receipt(batch)
        return row is not None and row["code"] == LOST

    def taken_in_part(self, batch: Batch) -> bool:
        """Whether by the last receipt a part of this batch may have been taken, and the rest not."""
        row = self._last_receipt(batch)
        return row is not None and bool(row["in_part"])

    def stopped(self) -> list[Batch]:
        """The batches that wait to be sent again after an answer that stopped the run."""
        rows = self._read(
            "SELECT b.* FROM batch b JOIN attempt a ON a.stage = b.stage AND a.seq = b.seq AND a.number = b.attempts"
            " WHERE b.state = 'sealed' AND a.stopped"
        )
        return [self._batch(row["stage"], row) for row in rows]

    def _last_receipt(self, batch: Batch) -> sqlite3.Row | None:
        rows = self._read(
            "SELECT * FROM attempt WHERE stage = ? AND seq = ? ORDER BY number DESC LIMIT 1", batch.stage, batch.seq
        )
        return rows[0] if rows else None

    def nominee(self, batch: Batch) -> tuple[Range, ...]:
        """The ranges of the one owner that the last answer to this batch named; empty if it named none or several."""
        packed = self._read("SELECT nominee FROM batch WHERE stage = ? AND seq = ?", batch.stage, batch.seq)[0][0]
        return unpack_ranges(packed) if packed is not None else ()

    def attempts(self, batch: Batch) -> int:
        """How many requests were made for this batch."""
        made: int = self._read("SELECT attempts FROM batch WHERE stage = ? AND seq = ?", batch.stage, batch.seq)[0][0]
        return made

    def rejected_bytes(self, stage: str) -> int:
        """What the bodies of rejected batches hold in the outbox."""
        sql = "SELECT coalesce(sum(size), 0) FROM batch WHERE stage = ? AND state = 'rejected'"
        return int(self._read(sql, stage)[0][0])

    def refused_parts(self, stage: str) -> dict[int, int]:
        """The batches that stem from a refused one, by number, each with the requests made for it."""
        kind = "SELECT DISTINCT seq FROM attempt WHERE stage = ? AND kind = 'rejected'"
        refused = {row[0] for row in self._read(kind, stage)}
        parts: dict[int, int] = {}
        # A part is sealed after its parent, so one pass in order knows every parent before its parts.
        for seq, parent, attempts in self._read(
            "SELECT seq, parent, attempts FROM batch WHERE stage = ? AND parent IS NOT NULL ORDER BY seq", stage
        ):
            if parent in refused or parent in parts:
                parts[seq] = attempts
        return parts

    def about(self, batch: Batch) -> dict[str, Any]:
        """When a batch was sealed, and the note of how it was decided so far."""
        row = self._read("SELECT sealed, note FROM batch WHERE stage = ? AND seq = ?", batch.stage, batch.seq)[0]
        return dict(row)

    def denied(self, batch: Batch) -> bool:
        """Whether the operator has said that this batch did not land."""
        (row,) = self._read("SELECT ruling FROM batch WHERE stage = ? AND seq = ?", batch.stage, batch.seq)
        return bool(row[0] == "not-landed")

    def requests(self, batch: Batch) -> list[dict[str, Any]]:
        """The requests made for a batch: number, started, kind, code, status, latency, date, message."""
        rows = self._read(
            "SELECT number, started, kind, code, status, latency, date, message FROM attempt"
            " WHERE stage = ? AND seq = ? ORDER BY number",
            batch.stage, batch.seq,
        )  # fmt: skip
        return [dict(row) for row in rows]

    def starts(self) -> list[float]:
        """When each request was made, in seconds since the epoch."""
        return [row[0] for row in self._read("SELECT started FROM attempt ORDER BY started")]

    def totals(self, stage: str) -> Totals:
        """Both sides of a stage's accounts, added up from what is stored."""
        with self.reading():
            progress = self.progress(stage)
            held: dict[str, list[Tally]] = {}
            for state, tally in self._read("SELECT state, tally FROM batch WHERE stage = ?", stage):
                held.setdefault(state, []).append(decode_tally(tally))
            dead = self._dead_tally(stage)
            repaired = decode_tally(self._read("SELECT repaired FROM stage WHERE name = ?", stage)[0][0])
        return Totals(
            read=progress.read,
            accepted=add_up(held.get(BatchState.ACCEPTED, ())),
            dead=dead,
            filtered=add_up(progress.filtered.values()),
            unknown=add_up(tally for state in UNDECIDED for tally in held.get(state, ())),
            pending=add_up(tally for state in PENDING for tally in held.get(state, ())),
            repaired=repaired,
            sending=add_up(held.get(BatchState.SENDING, ())),
        )

    def _dead_tally(self, stage: str) -> Tally:
        rows = self._read("SELECT tally FROM dead_letter WHERE stage = ? AND NOT replayed", stage)
        return add_up(decode_tally(row[0]) for row in rows)

    def counts(self, stage: str) -> dict[str, int]:
        """Batches that carry records, requests begun for them, those of them of which nothing left, and batches
        accepted, for the fill; the batches made of the export (not of parts or letters) with the bytes of their
        bodies; and those that are still to be sent."""
        row = self._read(
            "SELECT count(*) FILTER (WHERE state != 'split') AS batches, coalesce(sum(attempts), 0) AS requests,"
            " (SELECT count(*) FROM attempt WHERE stage = ?1 AND kind = 'not-sent') AS not_sent,"
            " count(*) FILTER (WHERE state = 'accepted') AS accepted,"
            " count(*) FILTER (WHERE parent IS NULL AND NOT retried) AS made,"
            " coalesce(sum(size) FILTER (WHERE parent IS NULL AND NOT retried), 0) AS bytes,"
            f" count(*) FILTER (WHERE state IN ({_PENDING})) AS waiting FROM batch WHERE stage = ?1",
            stage,
        )[0]
        return dict(row)

    def dead_letters(self, stage: str, after: Spot = FIRST) -> Iterator[tuple[int, DeadLetter]]:
        """The dead letters of a stage behind a spot, in reading order, each with the batch that was refused, or 0."""
        with translated(self.path):
            for row in self._db.execute(
                "SELECT * FROM dead_letter WHERE stage = ? AND (source, offset, unit) > (?, ?, ?)"
                " AND NOT replayed ORDER BY source, offset, unit",
                (stage, *after),
            ):
                position = Position(row["source"], row["offset"], row["length"], row["record"])
                letter = DeadLetter(position, row["unit"], row["code"], row["message"], decode_tally(row["tally"]))
                yield row["batch"], letter

    def dead_codes(self, stage: str) -> dict[str, int]:
        """How many dead letters there are by code."""
        rows = self._read(
            "SELECT code, count(*) FROM dead_letter WHERE stage = ? AND NOT replayed GROUP BY code ORDER BY 2 DESC",
            stage,
        )
        return {row[0]: row[1] for row in rows}
