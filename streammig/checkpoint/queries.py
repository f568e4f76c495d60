"""What a checkpoint holds: everything that a run asks of it."""

from __future__ import annotations

import json
import sqlite3
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple

import msgspec

from streammig.checkpoint.codec import decode_tally, hash_owner, reach_of, unpack_ranges
from streammig.checkpoint.fence import Mark
from streammig.checkpoint.sqlite import SqliteFile, damaged
from streammig.model import (
    FILTERED,
    Batch,
    BatchState,
    DeadLetter,
    Kind,
    Place,
    Position,
    Progress,
    Range,
    Tally,
    add_up,
)

# What is pending or unknown, by state. All other states are final; a split batch lives on in its parts.
PENDING = (BatchState.SEALED, BatchState.SENDING, BatchState.REJECTED)
UNDECIDED = (BatchState.UNKNOWN, BatchState.PARKED)
OPEN = (*PENDING, *UNDECIDED)
_PENDING = ", ".join(f"'{state}'" for state in PENDING)
LOST = "newest-is-lost"  # the code of an attempt that only a copy that is lost may have made

Spot = tuple[int, int, int]
"""Where a dead letter stands: source, offset, unit."""

FIRST: Spot = (-1, 0, 0)  # before every letter
_PROGRESS = msgspec.json.Decoder(Progress)


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


class Attempt(NamedTuple):
    """A request for a batch and its receipt, as in the schema; number 0 is that of a batch that was never sent."""

    number: int = 0
    started: float = 0.0
    kind: str | None = None
    code: str = ""
    status: int | None = None
    latency: float | None = None
    date: str | None = None
    message: str | None = None
    stopped: int = 0
    in_part: int = 0

    @property
    def refused(self) -> bool:
        """Whether the target refused the batch for its records."""
        return self.kind == Kind.REJECTED and not self.stopped

    @property
    def by_lost_copy(self) -> bool:
        return self.code == LOST


_ATTEMPT = ", ".join(Attempt._fields)
_BATCH = ", ".join(Batch.__struct_fields__)


class Queries(SqliteFile):
    """The questions to a checkpoint; none of them changes it."""

    @property
    def run(self) -> Mapping[str, Any]:
        """id, version, started, binding, context, salt, tick."""
        rows = self.rows("SELECT * FROM run")
        if len(rows) != 1:
            raise damaged(self.path, self.role, "it does not say what run it belongs to")
        row = dict(rows[0])
        return row | {"binding": json.loads(row["binding"]), "context": json.loads(row["context"])}

    def lost(self) -> Mark | None:
        """How far requests had come in a newer copy that is lost; None where no copy was."""
        (row,) = self.rows("SELECT tick, lost FROM run")
        if not row["lost"]:
            return None
        stage, *place = json.loads(row["lost"])
        return Mark(row["tick"], stage, Place(*place))

    def starts(self) -> list[float]:
        """When each request was made, in seconds since the epoch."""
        return [row[0] for row in self.rows("SELECT started FROM attempt ORDER BY started")]

    # -- stages ------------------------------------------------------------------------------------------------------

    def seen_at(self) -> float:
        """When all samples of a stage were seen last, in seconds since the epoch; 0 if never."""
        return float(self.rows("SELECT coalesce(max(seen), 0) FROM stage")[0][0])

    def stages(self) -> list[StageRow]:
        columns = "name, state, code, message, started, finished, shape, seen"
        rows = self.rows(f"SELECT {columns} FROM stage ORDER BY ordinal")
        found = (dict(row) for row in rows)
        return [StageRow(**it | {"shape": json.loads(it["shape"]), "seen": bool(it["seen"])}) for it in found]

    def owns(self, stage: str) -> bool:
        """Whether the records of a stage are the owners of all others: it is the target's first."""
        return self.ordinal(stage) == 0

    def ordinal(self, stage: str) -> int:
        """The number of a stage in the order of stages, from 0."""
        return int(self.rows("SELECT ordinal FROM stage WHERE name = ?", stage)[0][0])

    def fingerprints(self, stage: str) -> list[dict[str, Any]]:
        rows = self.rows("SELECT fingerprint FROM source_file WHERE stage = ? ORDER BY source", stage)
        return [json.loads(row[0]) for row in rows]

    def lengths(self, stage: str) -> tuple[int, ...] | None:
        """About how many bytes each file of a stage has, decompressed; None where one is not known."""
        marks = self.fingerprints(stage)
        found = [mark.get("length", 0 if mark.get("compression") else mark["size"]) for mark in marks]
        return tuple(found) if all(found) else None

    def progress(self, stage: str) -> Progress:
        """Where reading goes on, with its counters; `dead` and `absent` are empty, they are stored already."""
        return self._decoded(self.rows("SELECT progress FROM stage WHERE name = ?", stage)[0][0])

    def _decoded(self, progress: str) -> Progress:
        try:
            return _PROGRESS.decode(progress)
        except msgspec.DecodeError:
            raise damaged(self.path, self.role, "it does not say how far a stage is read") from None

    def totals(self, stage: str) -> Totals:
        """Both sides of a stage's accounts, added up from what is stored."""
        with self.reading():
            row = self.rows("SELECT progress, accepted, repaired FROM stage WHERE name = ?", stage)[0]
            progress = self._decoded(row["progress"])
            held: dict[str, list[Tally]] = {}
            for state, tally in self.rows("SELECT state, tally FROM open_batch WHERE stage = ?", stage):
                held.setdefault(state, []).append(decode_tally(tally))
            dead = self.rows("SELECT tally FROM dead_letter WHERE stage = ? AND NOT replayed", stage)
        return Totals(
            read=progress.read,
            accepted=decode_tally(row["accepted"]),
            dead=add_up(decode_tally(it[0]) for it in dead),
            filtered=add_up(progress.filtered.values()),
            unknown=add_up(tally for state in UNDECIDED for tally in held.get(state, ())),
            pending=add_up(tally for state in PENDING for tally in held.get(state, ())),
            repaired=decode_tally(row["repaired"]),
            sending=add_up(held.get(BatchState.SENDING, ())),
        )

    def counts(self, stage: str) -> dict[str, Any]:
        """Numbers of a stage: `batches` that carry records, `requests` begun for them, requests of which nothing left
        (`not_sent`), batches `accepted`. `made` are batches of the export itself (no parts, no letters), with the
        `bytes` of their bodies; `waiting` are still to be sent. `settled` is when the last one was accepted, in seconds
        since the epoch."""
        row = self.rows(
            "SELECT count(*) FILTER (WHERE state != 'split') AS batches, coalesce(sum(attempts), 0) AS requests,"
            " (SELECT count(*) FROM attempt WHERE stage = ?1 AND kind = 'not-sent') AS not_sent,"
            " count(*) FILTER (WHERE state = 'accepted') AS accepted,"
            " count(*) FILTER (WHERE parent IS NULL AND NOT retried) AS made,"
            " coalesce(sum(size) FILTER (WHERE parent IS NULL AND NOT retried), 0) AS bytes,"
            f" count(*) FILTER (WHERE state IN ({_PENDING})) AS waiting,"
            " max(settled) FILTER (WHERE state = 'accepted') AS settled FROM batch WHERE stage = ?1",
            stage,
        )[0]
        return dict(row)

    # -- batches -----------------------------------------------------------------------------------------------------

    def batches(self, stage: str, *states: BatchState) -> list[Batch]:
        """The batches of a stage in these states, in the order they were sealed."""
        which = f"stage = ? AND state IN ({', '.join('?' * len(states))}) ORDER BY seq"
        return self._batches(which, stage, *states, table="open_batch" if set(states) <= set(OPEN) else "batch")

    def batch(self, stage: str, seq: int) -> Batch:
        return self._batches("stage = ? AND seq = ?", stage, seq)[0]

    def _batches(self, which: str, *arguments: Any, table: str = "batch") -> list[Batch]:
        return [self._batch(row) for row in self.rows(f"SELECT {_BATCH} FROM {table} WHERE {which}", *arguments)]

    @staticmethod
    def _batch(row: sqlite3.Row) -> Batch:
        ranges, tally = unpack_ranges(row["ranges"]), decode_tally(row["tally"])
        state, retried = BatchState(row["state"]), bool(row["retried"])
        return Batch(**dict(row) | {"ranges": ranges, "tally": tally, "state": state, "retried": retried})

    def about(self, batch: Batch) -> dict[str, Any]:
        """When a batch was sealed, and the note of how it was decided so far."""
        return dict(self.rows("SELECT sealed, note FROM batch WHERE stage = ? AND seq = ?", batch.stage, batch.seq)[0])

    def nominee(self, batch: Batch) -> tuple[Range, ...]:
        """The ranges of the one owner that the last answer to this batch named; empty if it named none or several."""
        packed = self.rows("SELECT nominee FROM batch WHERE stage = ? AND seq = ?", batch.stage, batch.seq)[0][0]
        return unpack_ranges(packed or b"")

    def ahead(self, stage: str) -> list[Batch]:
        """The batches that hold something beyond the frontier, in the order they were sealed."""
        frontier = self.progress(stage).frontier
        found = self._batches("stage = ? AND reach >= ? ORDER BY seq", stage, reach_of(frontier))
        return [batch for batch in found if batch.ranges[-1].end > frontier]

    def ahead_ranges(self, stage: str) -> list[Range]:
        """The ranges that batches hold beyond the frontier, in reading order."""
        frontier = self.progress(stage).frontier
        return sorted(piece for batch in self.ahead(stage) for piece in batch.ranges if piece.end > frontier)

    def sample(self, stage: str, count: int, retried: bool = False) -> list[Batch]:
        """Up to `count` sampled batches of a stage, or of its retried ones alone. They are spread evenly over the bytes
        of all: the many small parts of a refused batch must not crowd out the others."""
        sampled = "stage = ? AND sample IS NOT NULL AND retried >= ? ORDER BY seq"
        rows = self.rows(f"SELECT seq, size FROM batch WHERE {sampled}", stage, retried)
        ends = list(accumulate(size for _, size in rows))
        wanted = [ends[-1] * k / max(count - 1, 1) for k in range(count)] if rows else []
        return [self.batch(stage, seq) for seq in sorted({rows[bisect_left(ends, place)][0] for place in wanted})]

    def last_settled(self, stage: str) -> float | None:
        """When the last batch of a stage was accepted, in seconds since the epoch."""
        at: float | None = self.rows("SELECT max(settled) FROM batch WHERE stage = ? AND state = 'accepted'", stage)[0][
            0
        ]
        return at

    def accepted_after(self, batch: Batch, until: float, count: int) -> list[Batch]:
        """The last `count` batches of the stage that were sent after this one was answered, and accepted before `until`
        (seconds since the epoch). "After" is by the checkpoint's order: the wall clock may have been set back."""
        ended = "SELECT max(max(began, ended)) FROM attempt WHERE stage = ?1 AND seq = ?2"
        return self._accepted(f"settled <= ?3 AND began > ({ended})", batch, until, count)

    def last_accepted(self, batch: Batch, until: float, count: int) -> list[Batch]:
        """The last `count` batches of the stage that were accepted before `until` (seconds since the epoch), or sent
        before this batch was answered, whatever the wall clock said then."""
        ended = "SELECT max(ended) FROM attempt WHERE stage = ?1 AND seq = ?2"
        return self._accepted(f"settled <= ?3 OR began <= ({ended})", batch, until, count)

    def _accepted(self, which: str, batch: Batch, until: float, count: int) -> list[Batch]:
        """The last `count` sampled batches of the same stage for which `which` holds. In its SQL, ?1 and ?2 are the
        batch, and ?3 is `until`."""
        return self._batches(
            f"stage = ?1 AND kind = 'accepted' AND sample IS NOT NULL AND ({which}) ORDER BY began DESC LIMIT ?4",
            batch.stage, batch.seq, until, count, table="batch JOIN attempt USING (stage, seq)",
        )  # fmt: skip

    def stopped(self) -> list[Batch]:
        """The batches that wait to be sent again after an answer that stopped the run."""
        last = "open_batch JOIN attempt USING (stage, seq)"
        return self._batches("number = attempts AND stopped AND state = 'sealed'", table=last)

    def rejected_bytes(self, stage: str) -> int:
        """What the bodies of rejected batches hold in the outbox."""
        sql = "SELECT coalesce(sum(size), 0) FROM open_batch WHERE stage = ? AND state = 'rejected'"
        return int(self.rows(sql, stage)[0][0])

    def refused_parts(self, stage: str) -> dict[int, int]:
        """The batches that stem from a refused one, by number, each with the requests made for it."""
        kind = "SELECT DISTINCT seq FROM attempt WHERE stage = ? AND kind = 'rejected'"
        refused = {row[0] for row in self.rows(kind, stage)}
        parts: dict[int, int] = {}
        # A part is sealed after its parent, so one pass in order knows every parent before its parts.
        sql = "SELECT seq, parent, attempts FROM batch WHERE stage = ? AND parent IS NOT NULL ORDER BY seq"
        for seq, parent, attempts in self.rows(sql, stage):
            if parent in refused or parent in parts:
                parts[seq] = attempts
        return parts

    # -- requests ----------------------------------------------------------------------------------------------------

    def attempts(self, batch: Batch) -> list[Attempt]:
        """The requests made for a batch, in order."""
        sql = f"SELECT {_ATTEMPT} FROM attempt WHERE stage = ? AND seq = ? ORDER BY number"
        return [Attempt(*row) for row in self.rows(sql, batch.stage, batch.seq)]

    def reasons(self, stage: str) -> list[tuple[str, str, int, int, int, str]]:
        """The dead letters of a stage by code and by the path of the field that a rule's message begins with, "" where
        it begins with none: how many, and of the first of them the source, the record and the message."""
        # Beside one `min`, SQLite takes the other columns from the row that has it.
        sql = (
            "SELECT code, CASE WHEN message LIKE '$%: %' THEN substr(message, 1, instr(message, ': ') - 1) ELSE '' END,"
            " count(*), source, min(record), message FROM dead_letter WHERE stage = ? AND NOT replayed GROUP BY 1, 2"
        )
        return [tuple(row) for row in self.rows(sql, stage)]

    def latencies(self, stage: str, since: float, count: int) -> list[float]:
        """How long the last requests of a stage took to be accepted, of those begun `since` then, in seconds."""
        sql = "SELECT started, latency FROM attempt WHERE stage = ? AND kind = 'accepted' ORDER BY seq DESC LIMIT ?"
        return [latency for started, latency in self.rows(sql, stage, count) if started >= since]

    def last_attempt(self, batch: Batch) -> Attempt:
        """The last request for a batch."""
        return next(reversed(self.attempts(batch)), Attempt())

    def last_message(self, batch: Batch) -> str:
        """What the last receipt for this batch said, redacted as it is stored; for a part that was never sent, what
        was said of the batch that it is a part of."""
        last = self.last_attempt(batch)
        if last.number or batch.parent is None:
            return last.message or ""
        return self.last_message(self.batch(batch.stage, batch.parent))

    def sizes(self, stage: str) -> tuple[int, int]:
        """The smallest body of a stage that was answered with 413, and the largest that was accepted, in bytes; 0
        without one."""
        sql = (
            "SELECT coalesce(min(size) FILTER (WHERE kind = 'too-large'), 0),"
            " coalesce(max(size) FILTER (WHERE kind = 'accepted'), 0)"
            " FROM batch JOIN attempt USING (stage, seq) WHERE stage = ?"
        )
        refused, passed = self.rows(sql, stage)[0]
        return int(refused), int(passed)

    # -- what is not sent --------------------------------------------------------------------------------------------

    def absent_reasons(self, owners: Iterable[str]) -> dict[str, str]:
        """Which of these customers will not be in the target, with the code of the reason."""
        salt = self.run["salt"]
        sql = "SELECT reason FROM absent_owner WHERE owner = ?"
        return {owner: row[0] for owner in owners for row in self.rows(sql, hash_owner(salt, owner))}

    def filtered_owners(self, owners: Iterable[str]) -> dict[str, str]:
        """Those of them that were left out on purpose. What belongs to them lies between what was sent, in no batch."""
        return {owner: why for owner, why in self.absent_reasons(owners).items() if why == FILTERED}

    def has_absent(self) -> bool:
        return bool(self.rows("SELECT 1 FROM absent_owner LIMIT 1"))

    def dead_letters(self, stage: str, after: Spot = FIRST) -> Iterator[tuple[int, DeadLetter]]:
        """The dead letters of a stage behind a spot, in reading order, each with the batch that was refused, or 0."""
        behind = "stage = ? AND (source, offset, unit) > (?, ?, ?) AND NOT replayed ORDER BY source, offset, unit"
        for row in self.each(f"SELECT * FROM dead_letter WHERE {behind}", stage, *after):
            position = Position(row["source"], row["offset"], row["length"], row["record"])
            yield (
                row["batch"],
                DeadLetter(position, row["unit"], row["code"], row["message"], decode_tally(row["tally"])),
            )

    def dead_codes(self, stage: str) -> dict[str, int]:
        """How many dead letters there are by code."""
        rows = self.rows(
            "SELECT code, count(*) FROM dead_letter WHERE stage = ? AND NOT replayed GROUP BY code ORDER BY 2 DESC",
            stage,
        )
        return {row[0]: row[1] for row in rows}
