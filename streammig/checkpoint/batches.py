"""Changes to the batches of a checkpoint, each in one transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from streammig.checkpoint.codec import decode_tally, encode_tally, hash_owner, pack_ranges, reach_of
from streammig.checkpoint.fence import Mark
from streammig.checkpoint.outbox import Outbox
from streammig.checkpoint.queries import LOST, OPEN, PENDING, Queries, Spot
from streammig.model import Batch, BatchState, DeadLetter, Draft, Progress, Range, Receipt

# The states that a batch may leave for each state: by receipts, by the operator, or because a copy or body was lost.
_SEALED, _SENDING, _REJECTED, _UNKNOWN, _PARKED = OPEN
COMES_FROM = {
    _SEALED: (_SENDING, _REJECTED, _UNKNOWN, _PARKED),
    _SENDING: (_SEALED,),
    _REJECTED: (_SENDING, _SEALED, _UNKNOWN, _PARKED),
    _UNKNOWN: OPEN,
    _PARKED: (_UNKNOWN, _PARKED),
    BatchState.ACCEPTED: (_SENDING, _SEALED, _UNKNOWN, _PARKED),
    BatchState.SPLIT: (_SEALED, _SENDING, _REJECTED, _UNKNOWN, _PARKED),
    BatchState.DEAD: (_SEALED, _REJECTED),
}
HERE = "stage = ? AND source = ? AND offset = ? AND unit = ?"


class Batches(Queries):
    """The part of a checkpoint that changes batches, and their bodies in the outbox.

    A body is durable before the commit that seals its batch, and is deleted after the commit that settles it.
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
        """Return the mark of the requests numbered since the last call; None without any."""
        mark, self._mark = self._mark, None
        return mark

    def _add_mark(self, mark: Mark) -> None:
        self._mark = mark if self._mark is None else mark.joined(self._mark)

    # -- sealing -----------------------------------------------------------------------------------------------------

    def advance(self, stage: str, progress: Progress) -> None:
        """Keep how far a stage is read, with the dead letters and absent owners found on the way."""
        with self.transaction():
            self._set_progress(stage, progress)
            self._keep_letters(stage, None, progress.dead)
            self._note_absent(progress.absent)

    def _set_progress(self, stage: str, progress: Progress) -> None:
        kept = msgspec.json.encode(msgspec.structs.replace(progress, dead=(), absent=())).decode()
        self.change("UPDATE stage SET progress = ? WHERE name = ?", kept, stage)

    def seal(self, stage: str, draft: Draft, progress: Progress, at: float, mapping: str = "") -> Batch:
        """Seal a new batch and keep the progress up to it, in one transaction. Its body is durable before (I2).

        `mapping` is the hash of the mapping that made it. The batch begins as unknown if a lost newer copy may have
        sent it.
        """
        end = draft.ranges[-1].end
        with self.transaction():
            batch = self._insert(
                stage, draft, at, mapping=mapping, reach=reach_of(end) if end > progress.frontier else None
            )
            self.change("UPDATE stage SET seen = 0 WHERE name = ?", stage)
            self.advance(stage, progress)
            lost = self.lost()
            if lost is not None and lost.covers(self.ordinal(stage), draft.ranges[0].begin):
                batch = self._make_unknown(batch, lost.tick, at)
        return batch

    def split(self, batch: Batch, drafts: Sequence[Draft], at: float) -> list[Batch]:
        """Replace a batch that did not land by its parts, which name it as their parent.

        Their bodies are durable before the commit; its own is deleted after it.
        """
        with self.transaction():
            self._must_become(batch, BatchState.SPLIT)
            return [
                self._insert(
                    batch.stage, draft, at, parent=batch.seq, retried=batch.retried, rejects=batch.rejects,
                    mapping=batch.mapping,
                )
                for draft in drafts
            ]  # fmt: skip

    def _insert(self, stage: str, draft: Draft, at: float, *, reach: int | None = None, **more: Any) -> Batch:
        """Add a sealed batch with its body. `more` are fields of `Batch` other than their defaults."""
        seq = self.rows("SELECT coalesce(max(seq), 0) + 1 FROM batch WHERE stage = ?", stage)[0][0]
        size = draft.size or len(draft.body)
        batch = Batch(
            stage=stage, seq=seq, ranges=draft.ranges, tally=draft.tally, digest=draft.digest, size=size, **more
        )
        self.insert(
            "batch", stage=stage, seq=seq, state="sealed", parent=batch.parent, ranges=pack_ranges(draft.ranges),
            tally=encode_tally(draft.tally), size=size, digest=draft.digest, sealed=at, retried=batch.retried,
            rejects=batch.rejects, mapping=batch.mapping, reach=reach,
        )  # fmt: skip
        self.outbox.place(draft, stage, seq)
        return batch

    # -- sending -----------------------------------------------------------------------------------------------------

    def sending(self, batch: Batch, at: float) -> int:
        """Put a batch in `sending` and give its request a tick; return the number of the attempt, from 1."""
        with self.transaction():
            self._must_become(batch, BatchState.SENDING)
            (tick,) = self.rows("UPDATE run SET tick = tick + 1 RETURNING tick")[0]
            number = self._attempt(batch, at, began=tick)
            self.change("UPDATE stage SET seen = 0 WHERE name = ? AND seen", batch.stage)  # samples of it come later
            apart = batch.parent is not None or batch.retried
            self._add_mark(Mark(tick, self.ordinal(batch.stage), batch.ranges[-1].end, tick if apart else 0))
        return number

    def _attempt(self, batch: Batch, at: float, **more: Any) -> int:
        """Add a request for a batch, with `more` of its columns; return its number."""
        sql = "UPDATE batch SET attempts = attempts + 1 WHERE stage = ? AND seq = ? RETURNING attempts"
        number: int = self.rows(sql, batch.stage, batch.seq)[0][0]
        self.insert("attempt", stage=batch.stage, seq=batch.seq, number=number, started=at, **more)
        return number

    def received(self, batch: Batch, attempt: int, receipt: Receipt, state: BatchState, at: float) -> None:
        """Keep a receipt, and put its batch in `state`. The caller has redacted the message."""
        with self.transaction():
            known = (receipt.kind, receipt.status, receipt.latency, receipt.date, receipt.message, receipt.code)
            self.change(
                "UPDATE attempt SET kind = ?, status = ?, latency = ?, date = ?, message = ?, code = ?, stopped = ?,"
                " in_part = ?, ended = (SELECT tick FROM run) WHERE stage = ? AND seq = ? AND number = ?",
                *known, receipt.stop_after == 1, receipt.in_part, batch.stage, batch.seq, attempt,
            )  # fmt: skip
            self._become(batch, state, at, (BatchState.SENDING,))

    def explain(self, batch: Batch, attempt: int, message: str, nominee: Sequence[Range] = ()) -> None:
        """Keep the target's message, redacted by the caller, and the ranges of the one owner that it named."""
        here, named = (batch.stage, batch.seq), pack_ranges(nominee) if nominee else None
        with self.transaction():
            sql = "UPDATE attempt SET message = ? WHERE stage = ? AND seq = ? AND number = ?"
            self.change(sql, message, *here, attempt)
            self.change("UPDATE batch SET nominee = ? WHERE stage = ? AND seq = ?", named, *here)

    # -- states ------------------------------------------------------------------------------------------------------

    def _become(
        self, batch: Batch, state: BatchState, at: float | None = None, before: Sequence[BatchState] = (), **more: Any
    ) -> bool:
        """Put a batch in `state`, and set `more` of its columns, if it is in one of the states `before`.

        Returns whether it was. No other code changes the state of a batch.
        """
        columns = {"state": state, "settled": at if state not in OPEN else None, **more}
        before = before or COMES_FROM[state]
        changed = self.change(
            f"UPDATE batch SET {', '.join(f'{name} = ?' for name in columns)}"
            f" WHERE stage = ? AND seq = ? AND state IN ({', '.join('?' * len(before))})",
            *columns.values(), batch.stage, batch.seq, *before,
        )  # fmt: skip
        if changed and state is BatchState.ACCEPTED:
            self._accept(batch)
        elif changed and state not in OPEN:
            self.outbox.drop(batch.stage, batch.seq)
        return bool(changed)

    def _must_become(self, batch: Batch, state: BatchState, at: float | None = None) -> None:
        if not self._become(batch, state, at):
            now = self.batch(batch.stage, batch.seq).state
            raise AssertionError(f"batch {batch.seq} of {batch.stage} is {now}: it can't become {state}")

    def _accept(self, batch: Batch) -> None:
        """Keep samples of an accepted batch instead of its body, and add its tally to the stage's sum."""
        if (sample := self.outbox.settle(batch)) is not None:
            self.change("UPDATE batch SET sample = ? WHERE stage = ? AND seq = ?", sample, batch.stage, batch.seq)
        (accepted,) = self.rows("SELECT accepted FROM stage WHERE name = ?", batch.stage)[0]
        accepted = encode_tally(decode_tally(accepted) + batch.tally)
        self.change("UPDATE stage SET accepted = ? WHERE name = ?", accepted, batch.stage)

    def move(
        self, batch: Batch, before: BatchState, after: BatchState, at: float | None = None, note: str = ""
    ) -> bool:
        """Change a batch's state if it is still `before`; return whether it was. `note` says why, for people."""
        with self.transaction():
            return self._become(batch, after, at, (before,), **({"note": note} if note else {}))

    def rule(self, batch: Batch, state: BatchState, ruling: str, at: float, note: str) -> bool:
        """Keep the operator's ruling on a batch, and put it in `state`; return whether it was still undecided.

        If it is rejected by ruling, the status of its last answer rejects its parts, too.
        """
        with self.transaction():
            last, rejects = self.last_attempt(batch), 0
            if state is BatchState.REJECTED and last.stopped:
                rejects = last.status or 0
            before = (BatchState.UNKNOWN, BatchState.PARKED, BatchState.SEALED)
            return self._become(batch, state, at, before, ruling=ruling, note=note, rejects=rejects)

    def settle_in_part(
        self, batch: Batch, there: Draft, missing: Draft, letters: Sequence[DeadLetter], at: float,
        owners: Sequence[str],
    ) -> None:  # fmt: skip
        """Split a batch that was accepted in part: `there` is accepted, `missing` is dead."""
        with self.transaction():
            accepted, dead = self.split(batch, [there, missing], at)
            self.move(accepted, BatchState.SEALED, BatchState.ACCEPTED, at)
            self.dead(dead, letters, at, owners)

    def dead(self, batch: Batch, letters: Sequence[DeadLetter], at: float, owners: Sequence[str] = ()) -> None:
        """End a batch whose records will not be sent, and note the owners that the target will therefore lack."""
        with self.transaction():
            self._must_become(batch, BatchState.DEAD, at)
            self._keep_letters(batch.stage, batch, letters)
            self._note_absent([(owner, "refused") for owner in owners] if self.owns(batch.stage) else [])

    def _keep_letters(self, stage: str, batch: Batch | None, letters: Iterable[DeadLetter]) -> None:
        """Keep dead letters, one row each. Letters of a replayed `batch` are dead again, and their keys are free."""
        again = batch is not None and batch.retried
        for it in letters:
            spot = it.position.source, it.position.offset, it.unit
            part = 2 * (again and not self._all_of(batch.ranges if batch else (), stage, spot))
            kept = (
                "UPDATE SET batch = excluded.batch, code = excluded.code, message = excluded.message,"
                " tally = excluded.tally, part = max(part, excluded.part), replayed = 0"
            )
            self.insert(
                "dead_letter", f"ON CONFLICT DO {kept if again else 'NOTHING'}",
                stage=stage, source=spot[0], offset=spot[1], unit=spot[2], batch=batch.seq if batch else 0,
                length=it.position.length, record=it.position.ordinal, code=it.code, message=it.message,
                tally=encode_tally(it.tally), part=part,
            )  # fmt: skip
            if again:
                self.change(f"DELETE FROM replayed_key WHERE {HERE}", stage, *spot)

    def _all_of(self, ranges: Sequence[Range], stage: str, spot: Spot) -> bool:
        """Tell whether the ranges hold all units that a replay sealed for the letter at this spot."""
        rows = self.rows(f"SELECT units FROM dead_letter WHERE {HERE} AND units", stage, *spot)
        return any(
            begin[:3] <= spot and (*spot[:2], spot[2] + units) <= end[:3] for (units,) in rows for begin, end in ranges
        )

    def _note_absent(self, owners: Sequence[tuple[str, str]]) -> None:
        if owners:
            salt = self.run["salt"]
            for owner, why in owners:
                self.change("INSERT OR IGNORE INTO absent_owner VALUES (?, ?)", hash_owner(salt, owner), why)

    # -- after a crash, or the loss of the newest copy ---------------------------------------------------------------

    def recover(self) -> list[Batch]:
        """Make batches unknown that a crash left in `sending`, and return them."""
        with self.transaction():
            found = [batch for row in self.stages() for batch in self.batches(row.name, BatchState.SENDING)]
            for batch in found:
                self._become(batch, BatchState.UNKNOWN)
            self.change(
                "UPDATE attempt SET kind = 'unknown', message = 'the process ended', ended = (SELECT tick FROM run)"
                " WHERE kind IS NULL"
            )
        return found

    def newest_is_lost(self, newer: Mark, at: float) -> list[Batch]:
        """Go on from an older copy because the newest is lost.

        Makes every batch unknown that a request of the `newer` copy may have carried, and returns them; `seal` does so
        with later ones. Parts and replayed letters were in no such request: the fence would have refused this copy.
        """
        with self.transaction():
            self.change("UPDATE run SET tick = ?, lost = ?", newer.tick, json.dumps([newer.stage, *newer.place]))
            return [
                self._make_unknown(batch, newer.tick, at)
                for row in self.stages()
                for batch in self.batches(row.name, *OPEN)
                if batch.parent is None and not batch.retried
                and newer.covers(self.ordinal(row.name), batch.ranges[0].begin)
            ]  # fmt: skip

    def _make_unknown(self, batch: Batch, tick: int, at: float) -> Batch:
        """Make a batch unknown because a lost copy may have sent it, at the latest as its request number `tick`."""
        said = "the newest copy of the checkpoint is lost"
        self._become(batch, BatchState.UNKNOWN)
        number = self._attempt(batch, at, kind="unknown", code=LOST, message=said, began=tick, ended=tick)
        return msgspec.structs.replace(batch, state=BatchState.UNKNOWN, attempts=number)

    # -- the outbox --------------------------------------------------------------------------------------------------

    def lost_bodies(self) -> list[Batch]:
        """Return the pending and unknown batches with a missing or altered body."""
        states = (*PENDING, BatchState.UNKNOWN)
        batches = [batch for row in self.stages() for batch in self.batches(row.name, *states)]
        return [batch for batch in batches if not self.outbox.holds(batch)]

    def sweep_outbox(self) -> None:
        """Delete the files that no batch needs: bodies that a crash left in the outbox."""
        rows = self.rows("SELECT stage, seq FROM open_batch")
        sampled = self.rows(
            "SELECT name FROM stage WHERE EXISTS (SELECT 1 FROM batch WHERE stage = name AND sample >= 0)"
        )
        self.outbox.sweep([f"{stage}-{seq}" for stage, seq in rows] + [f"{row[0]}.samples" for row in sampled])

    def forget_samples(self) -> None:
        """Delete the samples of stages that are complete and seen, and have no batch left to read back."""
        with self.transaction():
            for row in self.stages():
                if row.state == "complete" and row.seen and not self.batches(row.name, *OPEN):
                    self.change("UPDATE batch SET sample = NULL WHERE stage = ?", row.name)
                    self.outbox.forget_samples(row.name)

    def mark_seen(self, stage: str, at: float) -> None:
        """Note that the target showed all samples of a stage, at this time in seconds since the epoch."""
        self.change("UPDATE stage SET seen = ? WHERE name = ?", at, stage)
