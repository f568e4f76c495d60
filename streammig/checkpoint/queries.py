"""Queries to a checkpoint: stages, totals, batches, requests, dead letters. None changes it."""

from __future__ import annotations

import json
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

# The states of pending and of unknown batches. All others are final; the parts of a split batch are batches.
PENDING = (BatchState.SEALED, BatchState.SENDING, BatchState.REJECTED)
UNDECIDED = (BatchState.UNKNOWN, BatchState.PARKED)
OPEN = (*PENDING, *UNDECIDED)
_PENDING = ", ".join(f"'{state}'" for state in PENDING)
LOST = "newest-is-lost"  # the code of an assumed request: a lost copy may have made it

Spot = tuple[int, int, int]
"""The place of a dead letter: source, offset, unit."""

FIRST: Spot = (-1, 0, 0)  # before every letter
Reason = tuple[str, str, int, int, int, str]
"""Dead letters of one kind: code, path of the field, count; source, record and message of the first."""

_PROGRESS = msgspec.json.Decoder(Progress)


@dataclass(frozen=True, slots=True)
class Totals:
    """The accounts of one stage. `read` comes from the reader, the rest from batches, dead letters and filter counts.

    They balance when both sides agree in records, in units and in every sum.
    """

    read: Tally
    accepted: Tally
    dead: Tally
    filtered: Tally
    unknown: Tally
    pending: Tally
    repaired: Tally = field(default_factory=Tally)  # replayed records minus their dead letters
    sending: Tally = field(default_factory=Tally)  # the part of `pending` in `sending`, also after a run was cut off
    reverted: Tally = field(default_factory=Tally)  # accepted, then taken back by a revert
    missing: Tally = field(default_factory=Tally)  # the part of `unknown` that was accepted, but not found by a verify

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
    """A row of the table of stages."""

    name: str
    state: str
    code: str
    message: str
    started: float | None
    finished: float | None
    shape: Mapping[str, Any]
    seen: bool = False  # all samples of it were seen at the target


class Attempt(NamedTuple):
    """A request for a batch and its receipt, as in the schema. Number 0 stands for a batch that was never sent."""

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
        """Whether the target refused the batch because of its records."""
        return self.kind == Kind.REJECTED and not self.stopped

    @property
    def by_lost_copy(self) -> bool:
        return self.code == LOST


_ATTEMPT = ", ".join(Attempt._fields)
_BATCH = ", ".join(Batch.__struct_fields__)


def _batch(row: dict[str, Any]) -> Batch:
    ranges, tally = unpack_ranges(row["ranges"]), decode_tally(row["tally"])
    return Batch(
        **row | {"ranges": ranges, "tally": tally, "state": BatchState(row["state"]), "retried": bool(row["retried"])}
    )


class Queries(SqliteFile):
    """The part of a checkpoint that answers queries."""

    @property
    def run(self) -> Mapping[str, Any]:
        """id, version, started, binding, context, salt, tick."""
        rows = self.rows("SELECT * FROM run")
        if len(rows) != 1:
            raise damaged(self.path, self.role, "it does not say what run it belongs to")
        row = dict(rows[0])
        return row | {"binding": json.loads(row["binding"]), "context": json.loads(row["context"])}

    def lost(self) -> Mark | None:
        """Return the mark of a lost newer copy; None without one."""
        (row,) = self.rows("SELECT tick, lost FROM run")
        if not row["lost"]:
            return None
        stage, *place = json.loads(row["lost"])
        return Mark(row["tick"], stage, Place(*place))

    def starts(self) -> list[float]:
        """Return the times of all requests, in seconds since the epoch, the oldest first."""
        return [row[0] for row in self.rows("SELECT started FROM attempt ORDER BY started")]

    # -- stages ------------------------------------------------------------------------------------------------------

    def seen_at(self) -> float:
        """Return when all samples of a stage were seen last, in seconds since the epoch; 0 if never."""
        return float(self.rows("SELECT coalesce(max(seen), 0) FROM stage")[0][0])

    def stages(self) -> list[StageRow]:
        columns = "name, state, code, message, started, finished, shape, seen"
        rows = self.rows(f"SELECT {columns} FROM stage ORDER BY ordinal")
        return [StageRow(**dict(it) | {"shape": json.loads(it["shape"]), "seen": bool(it["seen"])}) for it in rows]

    def owns(self, stage: str) -> bool:
        """Tell whether the records of a stage are the owners of all others: it is the target's first stage."""
        return self.ordinal(stage) == 0

    def ordinal(self, stage: str) -> int:
        """Return the number of a stage in the order of stages, from 0."""
        return int(self.rows("SELECT ordinal FROM stage WHERE name = ?", stage)[0][0])

    def fingerprints(self, stage: str) -> list[dict[str, Any]]:
        rows = self.rows("SELECT fingerprint FROM source_file WHERE stage = ? ORDER BY source", stage)
        return [json.loads(row[0]) for row in rows]

    def lengths(self, stage: str) -> tuple[int, ...] | None:
        """Return the approximate decompressed bytes of each file of a stage; None if one is not known."""
        marks = self.fingerprints(stage)
        found = [mark.get("length", 0 if mark.get("compression") else mark["size"]) for mark in marks]
        return tuple(found) if all(found) else None

    def progress(self, stage: str) -> Progress:
        """Return the frontier and the counters of a stage. `dead` and `absent` are empty: they are in their tables."""
        return self._decoded(self.rows("SELECT progress FROM stage WHERE name = ?", stage)[0][0])

    def _decoded(self, progress: str) -> Progress:
        try:
            return _PROGRESS.decode(progress)
        except msgspec.DecodeError:
            raise damaged(self.path, self.role, "it does not say how far a stage is read") from None

    def totals(self, stage: str) -> Totals:
        """Add up both sides of a stage's accounts."""
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
        """Count batches and requests of a stage.

        `batches` carry records (they are not split), `accepted` and `waiting` are some of them. `requests` were begun;
        of these, `not_sent` never left. `made` batches come from the export itself (no parts, no letters), with `bytes`
        in their bodies. `settled` is the time of the last acceptance, in seconds since the epoch.
        """
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
        """Return the batches of a stage in these states, in the order of sealing."""
        which = f"stage = ? AND state IN ({', '.join('?' * len(states))}) ORDER BY seq"
        return self._batches(which, stage, *states, table="open_batch" if set(states) <= set(OPEN) else "batch")

    def batch(self, stage: str, seq: int) -> Batch:
        return self._batches("stage = ? AND seq = ?", stage, seq)[0]

    def _batches(self, which: str, *arguments: Any, table: str = "batch") -> list[Batch]:
        return [_batch(dict(row)) for row in self.rows(f"SELECT {_BATCH} FROM {table} WHERE {which}", *arguments)]

    def about(self, batch: Batch) -> dict[str, Any]:
        """Return when a batch was `sealed`, and the `note` on how its outcome was decided."""
        return dict(self.rows("SELECT sealed, note FROM batch WHERE stage = ? AND seq = ?", batch.stage, batch.seq)[0])

    def nominee(self, batch: Batch) -> tuple[Range, ...]:
        """Return the ranges of the one owner that the last answer to this batch named; empty if none or several."""
        packed = self.rows("SELECT nominee FROM batch WHERE stage = ? AND seq = ?", batch.stage, batch.seq)[0][0]
        return unpack_ranges(packed or b"")

    def ahead(self, stage: str) -> list[Batch]:
        """Return the batches that reach beyond the frontier, in the order of sealing."""
        frontier = self.progress(stage).frontier
        found = self._batches("stage = ? AND reach >= ? ORDER BY seq", stage, reach_of(frontier))
        return [batch for batch in found if batch.ranges[-1].end > frontier]

    def ahead_ranges(self, stage: str) -> list[Range]:
        """Return the sealed ranges that reach beyond the frontier, in reading order."""
        frontier = self.progress(stage).frontier
        return sorted(piece for batch in self.ahead(stage) for piece in batch.ranges if piece.end > frontier)

    def sample(self, stage: str, count: int, retried: bool = False) -> list[Batch]:
        """Return up to `count` batches of a stage that have samples; only replayed ones if `retried`.

        They are spread evenly over the bytes: many small parts of a refused batch must not crowd out the others.
        """
        sampled = "stage = ? AND sample IS NOT NULL AND retried >= ? ORDER BY seq"
        rows = self.rows(f"SELECT seq, size FROM batch WHERE {sampled}", stage, retried)
        ends = list(accumulate(size for _, size in rows))
        wanted = [ends[-1] * k / max(count - 1, 1) for k in range(count)] if rows else []
        return [self.batch(stage, seq) for seq in sorted({rows[bisect_left(ends, place)][0] for place in wanted})]

    def last_settled(self, stage: str) -> float | None:
        """Return when the last batch of a stage was accepted, in seconds since the epoch; None if none was."""
        (row,) = self.rows("SELECT max(settled) FROM batch WHERE stage = ? AND state = 'accepted'", stage)
        at: float | None = row[0]
        return at

    def accepted_after(self, batch: Batch, until: float, count: int) -> list[Batch]:
        """Return the last `count` batches of the stage that were sent after this one was answered.

        They were accepted before `until`, in seconds since the epoch. "After" goes by ticks: the clock may be set back.
        """
        ended = "SELECT max(max(began, ended)) FROM attempt WHERE stage = ?1 AND seq = ?2"
        return self._accepted(f"settled <= ?3 AND began > ({ended})", batch, until, count)

    def last_accepted(self, batch: Batch, until: float, count: int) -> list[Batch]:
        """Return the last `count` batches of the stage that were accepted by `until`, in seconds since the epoch.

        Those sent before this batch was answered count in any case, by ticks: the clock may be set back.
        """
        ended = "SELECT max(ended) FROM attempt WHERE stage = ?1 AND seq = ?2"
        return self._accepted(f"settled <= ?3 OR began <= ({ended})", batch, until, count)

    def _accepted(self, which: str, batch: Batch, until: float, count: int) -> list[Batch]:
        """Return the last `count` batches of the same stage that have samples and meet the SQL condition `which`.

        In it, ?1 is the stage, ?2 the batch and ?3 `until`.
        """
        return self._batches(
            f"stage = ?1 AND kind = 'accepted' AND sample IS NOT NULL AND ({which}) ORDER BY began DESC LIMIT ?4",
            batch.stage, batch.seq, until, count, table="batch JOIN attempt USING (stage, seq)",
        )  # fmt: skip

    def stopped(self) -> list[Batch]:
        """Return the batches that wait to be sent again after an answer that stopped the run."""
        last = "open_batch JOIN attempt USING (stage, seq)"
        return self._batches("number = attempts AND stopped AND state = 'sealed'", table=last)

    def rejected_bytes(self, stage: str) -> int:
        """Return the bytes of the bodies of rejected batches in the outbox."""
        sql = "SELECT coalesce(sum(size), 0) FROM open_batch WHERE stage = ? AND state = 'rejected'"
        return int(self.rows(sql, stage)[0][0])

    def refused_parts(self, stage: str) -> dict[int, int]:
        """Return the number of requests for each part of a refused batch, by the part's number; parts of parts, too."""
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
        """Return the requests for a batch, in order."""
        sql = f"SELECT {_ATTEMPT} FROM attempt WHERE stage = ? AND seq = ? ORDER BY number"
        return [Attempt(*row) for row in self.rows(sql, batch.stage, batch.seq)]

    def reasons(self, stage: str) -> list[Reason]:
        """Count the dead letters of a stage by code and by the field that the message names first ("" for none)."""
        # SQLite takes the columns beside a single `min` from the row with the minimum.
        sql = (
            "SELECT code, CASE WHEN message LIKE '$%: %' THEN substr(message, 1, instr(message, ': ') - 1) ELSE '' END,"
            " count(*), source, min(record), message FROM dead_letter WHERE stage = ? AND NOT replayed GROUP BY 1, 2"
        )
        return [tuple(row) for row in self.rows(sql, stage)]

    def latencies(self, stage: str, since: float, count: int) -> list[float]:
        """Return the latencies in seconds of the last `count` accepted requests of a stage that began after `since`."""
        sql = "SELECT started, latency FROM attempt WHERE stage = ? AND kind = 'accepted' ORDER BY seq DESC LIMIT ?"
        return [latency for started, latency in self.rows(sql, stage, count) if started >= since]

    def last_attempt(self, batch: Batch) -> Attempt:
        """Return the last request for a batch; number 0 without one."""
        return next(reversed(self.attempts(batch)), Attempt())

    def last_message(self, batch: Batch) -> str:
        """Return the redacted message of a batch's last receipt; for a part that was never sent, its parent's."""
        last = self.last_attempt(batch)
        if last.number or batch.parent is None:
            return last.message or ""
        return self.last_message(self.batch(batch.stage, batch.parent))

    def sizes(self, stage: str) -> tuple[int, int]:
        """Return the smallest body of a stage that 413 refused, and the largest accepted, in bytes; 0 for none."""
        sql = (
            "SELECT coalesce(min(size) FILTER (WHERE kind = 'too-large'), 0),"
            " coalesce(max(size) FILTER (WHERE kind = 'accepted'), 0)"
            " FROM batch JOIN attempt USING (stage, seq) WHERE stage = ?"
        )
        refused, passed = self.rows(sql, stage)[0]
        return int(refused), int(passed)

    # -- absent owners and dead letters ------------------------------------------------------------------------------

    def absent_reasons(self, owners: Iterable[str]) -> dict[str, str]:
        """Return those of the customers that will not be in the target, each with the code of the reason."""
        salt = self.run["salt"]
        sql = "SELECT reason FROM absent_owner WHERE owner = ?"
        return {owner: row[0] for owner in owners for row in self.rows(sql, hash_owner(salt, owner))}

    def filtered_owners(self, owners: Iterable[str]) -> dict[str, str]:
        """Return those of the customers that were left out on purpose: their records are in no batch."""
        return {owner: why for owner, why in self.absent_reasons(owners).items() if why == FILTERED}

    def has_absent(self) -> bool:
        return bool(self.rows("SELECT 1 FROM absent_owner LIMIT 1"))

    def dead_letters(self, stage: str, after: Spot = FIRST) -> Iterator[tuple[int, DeadLetter]]:
        """Return the dead letters of a stage after a spot, in reading order, each with its refused batch, or 0."""
        behind = "stage = ? AND (source, offset, unit) > (?, ?, ?) AND NOT replayed ORDER BY source, offset, unit"
        for row in self.each(f"SELECT * FROM dead_letter WHERE {behind}", stage, *after):
            position = Position(row["source"], row["offset"], row["length"], row["record"])
            yield (
                row["batch"],
                DeadLetter(position, row["unit"], row["code"], row["message"], decode_tally(row["tally"])),
            )

    def dead_codes(self, stage: str) -> dict[str, int]:
        """Count the dead letters of a stage by code, the most frequent first."""
        sql = "SELECT code, count(*) FROM dead_letter WHERE stage = ? AND NOT replayed GROUP BY code ORDER BY 2 DESC"
        return {row[0]: row[1] for row in self.rows(sql, stage)}
