"""The changes that a run makes to the batches of a checkpoint, each in one transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import msgspec

from streammig.checkpoint.codec import encode_tally, hash_owner, pack_ranges
from streammig.checkpoint.fence import Mark
from streammig.checkpoint.letters import Letters
from streammig.checkpoint.outbox import Outbox
from streammig.checkpoint.queries import LOST, PENDING, UNDECIDED
from streammig.records import (
    Batch,
    BatchState,
    DeadLetter,
    Draft,
    Progress,
    Range,
    Receipt,
)


class Batches(Letters):
    """The part of a checkpoint that changes batches, and the outbox with them.

    A body is durable before the transaction that seals its batch, and goes after the one that settles it.
    """

    _mark: Mark | None = None

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        super().__init__(path, connection)
        self.outbox = Outbox(path)

    def _before_commit(self) -> None:
        self.outbox.sync()

    def _committed(self) -> None:
        self.outbox.committed()

    def _rolled_back(self) -> None:
        self.outbox.rolled_back()

    def take_mark(self) -> Mark | None:
        """How far the requests have come that were numbered since the last call; None where there are none."""
        mark, self._mark = self._mark, None
        return mark

    def advance(self, stage: str, progress: Progress) -> None:
        """Commit how far a stage is read, with the dead letters and absent owners found on the way."""
        place = progress.frontier
        with self.transaction():
            self._db.execute(
                "UPDATE stage SET source = ?, offset = ?, unit = ?, record = ?, source_records = ?, read = ?,"
                " dropped = ? WHERE name = ?",
                (*place, progress.source_records, encode_tally(progress.read),
                 json.dumps(dict(progress.dropped)), stage),
            )  # fmt: skip
            self._db.executemany(
                "INSERT INTO filtered VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET tally = excluded.tally",
                [(stage, reason, encode_tally(tally)) for reason, tally in progress.filtered.items()],
            )
            self._bury(stage, None, progress.dead)
            self._note_absent(progress.absent)

    def seal(self, stage: str, draft: Draft, progress: Progress, at: float, mapping: str = "") -> Batch:
        """A new batch, the frontier and every counter as of it, in one transaction, its body durable before (I2).

        `mapping` is the hash of the mapping that made it. The batch is unknown where a newer copy, which is lost, may
        have sent it.
        """
        with self.transaction():
            batch = self._insert(stage, draft, None, at, mapping=mapping)
            self._db.execute("UPDATE stage SET seen = 0 WHERE name = ?", (stage,))
            self.advance(stage, progress)
            lost = self.lost()
            if lost is not None and lost.covers(self.ordinal(stage), draft.ranges[0].begin):
                batch = self._doubt(batch, lost.tick, at)
        return batch

    def newest_is_lost(self, newer: Mark, at: float) -> list[Batch]:
        """Go on from an older copy, for the newest one is lost: whatever a request may have carried that this copy does
        not know is unknown from now on. Returns those batches; later ones are found when they are sealed.

        A part of a batch, or what was a dead letter, was not in such a request: the fence would have refused the copy.
        """
        open_ones = (*PENDING, *UNDECIDED)
        with self.transaction():
            self._db.execute("UPDATE run SET tick = ?, lost = ?", (newer.tick, json.dumps([newer.stage, *newer.place])))
            return [
                self._doubt(batch, newer.tick, at)
                for row in self.stages()
                for batch in self.batches(row.name, *open_ones)
                if batch.parent is None and not batch.retried
                and newer.covers(self.ordinal(row.name), batch.ranges[0].begin)
            ]  # fmt: skip

    def _doubt(self, batch: Batch, tick: int, at: float) -> Batch:
        """A copy that is lost may have sent this batch, at the latest as its request number `tick`."""
        self._db.execute(
            "UPDATE batch SET state = 'unknown', attempts = attempts + 1 WHERE stage = ? AND seq = ?",
            (batch.stage, batch.seq),
        )
        self._db.execute(
            "INSERT INTO attempt (stage, seq, number, started, kind, code, message, began, ended)"
            " VALUES (?, ?, ?, ?, 'unknown', ?, 'the newest copy of the checkpoint is lost', ?, ?)",
            (batch.stage, batch.seq, batch.attempts + 1, at, LOST, tick, tick),
        )
        return msgspec.structs.replace(batch, state=BatchState.UNKNOWN, attempts=batch.attempts + 1)

    def _insert(
        self, stage: str, draft: Draft, parent: int | None, at: float, retried: bool = False, mapping: str = ""
    ) -> Batch:
        rejects = 0
        if parent is not None:
            row = self._read("SELECT retried, rejects, mapping FROM batch WHERE stage = ? AND seq = ?", stage, parent)[
                0
            ]
            retried, rejects, mapping = bool(row[0]), row[1], row[2]
        seq = self._db.execute("SELECT coalesce(max(seq), 0) + 1 FROM batch WHERE stage = ?", (stage,)).fetchone()[0]
        self._db.execute(
            "INSERT INTO batch"
            " (stage, seq, state, parent, ranges, tally, size, digest, sealed, retried, rejects, mapping)"
            " VALUES (?, ?, 'sealed', ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (stage, seq, parent, pack_ranges(draft.ranges), encode_tally(draft.tally), draft.size or len(draft.body),
             draft.digest, at, retried, rejects, mapping),
        )  # fmt: skip
        self.outbox.place(draft, stage, seq)
        return self.batch(stage, seq)

    def sending(self, batch: Batch, at: float) -> int:
        """Note that a request for this batch is about to leave; returns the number of the attempt, from 1."""
        with self.transaction():
            moved = self._db.execute(
                "UPDATE batch SET state = 'sending', attempts = attempts + 1 WHERE stage = ? AND seq = ?"
                " AND state = 'sealed' RETURNING attempts",
                (batch.stage, batch.seq),
            ).fetchall()
            if not moved:
                raise AssertionError(f"batch {batch.seq} of {batch.stage} is not sealed: it must not be sent")
            number: int = moved[0][0]
            (tick,) = self._db.execute("UPDATE run SET tick = tick + 1 RETURNING tick").fetchall()[0]
            self._db.execute(
                "INSERT INTO attempt (stage, seq, number, started, began) VALUES (?, ?, ?, ?, ?)",
                (batch.stage, batch.seq, number, at, tick),
            )
            apart = batch.parent is not None or batch.retried
            mark = Mark(tick, self.ordinal(batch.stage), batch.ranges[-1].end, tick if apart else 0)
            self._mark = mark if self._mark is None else mark.joined(self._mark)
        return number

    def received(self, batch: Batch, attempt: int, receipt: Receipt, state: BatchState, at: float) -> None:
        """Keep a receipt and the state it puts the batch in. Its message was redacted by the caller."""
        settled = at if state in (BatchState.ACCEPTED, BatchState.DEAD) else None
        with self.transaction():
            self._db.execute(
                "UPDATE attempt SET kind = ?, status = ?, latency = ?, date = ?, message = ?, code = ?, stopped = ?,"
                " in_part = ?, ended = (SELECT tick FROM run) WHERE stage = ? AND seq = ? AND number = ?",
                (receipt.kind, receipt.status, receipt.latency, receipt.date, receipt.message, receipt.code,
                 receipt.stop_after == 1, receipt.in_part, batch.stage, batch.seq, attempt),
            )  # fmt: skip
            self._db.execute(
                "UPDATE batch SET state = ?, settled = ? WHERE stage = ? AND seq = ? AND state = 'sending'",
                (state, settled, batch.stage, batch.seq),
            )
            self._accepted_now(batch, state)

    def explain(self, batch: Batch, attempt: int, message: str, nominee: Sequence[Range] = ()) -> None:
        """Keep what the target said, redacted by the caller, and the ranges of the one owner it named."""
        with self.transaction():
            self._db.execute(
                "UPDATE attempt SET message = ? WHERE stage = ? AND seq = ? AND number = ?",
                (message, batch.stage, batch.seq, attempt),
            )
            self._db.execute(
                "UPDATE batch SET nominee = ? WHERE stage = ? AND seq = ?",
                (pack_ranges(nominee) if nominee else None, batch.stage, batch.seq),
            )

    def move(
        self, batch: Batch, before: BatchState, after: BatchState, at: float | None = None, note: str = ""
    ) -> bool:
        """Change a batch's state if it is still `before`; says whether it was. `note` says why, for people."""
        with self.transaction():
            changed = self._db.execute(
                "UPDATE batch SET state = ?, settled = ?, note = coalesce(nullif(?, ''), note)"
                " WHERE stage = ? AND seq = ? AND state = ?",
                (after, at, note, batch.stage, batch.seq, before),
            )
            if changed.rowcount:
                self._accepted_now(batch, after)
        return changed.rowcount == 1

    def _accepted_now(self, batch: Batch, state: BatchState) -> None:
        """Of a batch that is accepted only samples are kept."""
        if state is BatchState.ACCEPTED and (sample := self.outbox.settle(batch)) is not None:
            self._db.execute(
                "UPDATE batch SET sample = ? WHERE stage = ? AND seq = ?", (sample, batch.stage, batch.seq)
            )

    def lost_bodies(self) -> list[Batch]:
        """The batches that are to be sent, searched or read back, and whose bodies are not what was sealed."""
        states = BatchState.SEALED, BatchState.REJECTED, BatchState.UNKNOWN
        batches = [batch for row in self.stages() for batch in self.batches(row.name, *states)]
        return [batch for batch in batches if not self.outbox.holds(batch)]

    def sweep_outbox(self) -> None:
        """Delete what no batch needs of the outbox: bodies that a crash left there."""
        kept = []
        for row in self.stages():
            kept += [f"{row.name}-{batch.seq}" for batch in self.batches(row.name, *PENDING, *UNDECIDED)]
            if self._read("SELECT 1 FROM batch WHERE stage = ? AND sample IS NOT NULL LIMIT 1", row.name):
                kept.append(f"{row.name}.samples")
        self.outbox.sweep(kept)

    def forget_samples(self) -> None:
        """Delete the samples of stages that are complete and seen, and of which nothing is left to be read back."""
        with self.transaction():
            for row in self.stages():
                if row.state == "complete" and row.seen and not self.batches(row.name, *PENDING, *UNDECIDED):
                    self._db.execute("UPDATE batch SET sample = NULL WHERE stage = ?", (row.name,))
                    self.outbox.forget_samples(row.name)

    def saw(self, stage: str, at: float) -> None:
        """All samples of what is sealed of this stage were seen at the target by now."""
        self._change("UPDATE stage SET seen = ? WHERE name = ?", at, stage)

    def rule(self, batch: Batch, state: BatchState, ruling: str, at: float, note: str) -> bool:
        """Keep the operator's word on a batch, and the state it puts that in; says whether it was still to be decided.

        Rejected by that word, its parts are rejected by the status that it was answered with last.
        """
        with self.transaction():
            changed = self._db.execute(
                "UPDATE batch SET state = ?1, settled = iif(?1 = 'accepted', ?2, NULL), ruling = ?3, note = ?4,"
                " rejects = iif(?1 != 'rejected', 0, coalesce((SELECT status FROM attempt a WHERE a.stage = batch.stage"
                " AND a.seq = batch.seq AND a.number = batch.attempts AND a.stopped), 0))"
                " WHERE stage = ?5 AND seq = ?6 AND state IN ('unknown', 'parked', 'sealed')",
                (state, at, ruling, note, batch.stage, batch.seq),
            )
            if changed.rowcount:
                self._accepted_now(batch, state)
        return changed.rowcount == 1

    def settle_in_part(
        self, batch: Batch, there: Draft, missing: Draft, letters: Sequence[DeadLetter], at: float,
        owners: Sequence[str],
    ) -> None:  # fmt: skip
        """Book a batch that was taken in part: what is there is accepted, what is missing dead."""
        with self.transaction():
            accepted, dead = self.split(batch, [there, missing], at)
            self.move(accepted, BatchState.SEALED, BatchState.ACCEPTED, at)
            self.dead(dead, letters, at, owners)

    def split(self, batch: Batch, drafts: Sequence[Draft], at: float) -> list[Batch]:
        """Replace a batch that did not land by its parts, which name it as their parent. Their bodies are durable
        before that, and its own goes after it."""
        with self.transaction():
            self._db.execute("UPDATE batch SET state = 'split' WHERE stage = ? AND seq = ?", (batch.stage, batch.seq))
            self.outbox.drop(batch.stage, batch.seq)
            return [self._insert(batch.stage, draft, batch.seq, at) for draft in drafts]

    def dead(self, batch: Batch, letters: Sequence[DeadLetter], at: float, owners: Sequence[str] = ()) -> None:
        """End a batch whose records will not be sent, and note the owners that the target will lack because of it."""
        with self.transaction():
            self._db.execute(
                "UPDATE batch SET state = 'dead', settled = ? WHERE stage = ? AND seq = ?", (at, batch.stage, batch.seq)
            )
            self._bury(batch.stage, batch, letters)
            self._note_absent([(owner, "refused") for owner in owners] if self.owns(batch.stage) else [])
            self.outbox.drop(batch.stage, batch.seq)

    def _note_absent(self, owners: Sequence[tuple[str, str]]) -> None:
        if owners:
            salt = self.run["salt"]
            self._db.executemany(
                "INSERT OR IGNORE INTO absent_owner VALUES (?, ?)", [(hash_owner(salt, o), why) for o, why in owners]
            )

    def recover(self) -> list[Batch]:
        """After a crash: a batch that was being sent has an unknown outcome. Returns those it concerns."""
        with self.transaction():
            found = [batch for row in self.stages() for batch in self.batches(row.name, BatchState.SENDING)]
            self._db.execute("UPDATE batch SET state = 'unknown' WHERE state = 'sending'")
            self._db.execute(
                "UPDATE attempt SET kind = 'unknown', message = 'the process ended', ended = (SELECT tick FROM run)"
                " WHERE kind IS NULL"
            )
        return found
