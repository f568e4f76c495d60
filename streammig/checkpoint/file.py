"""One checkpoint: the changes that a run makes to it, each in one transaction, and what it holds."""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from streammig.checkpoint.codec import encode_tally, hash_owner, pack_ranges
from streammig.checkpoint.fence import Mark
from streammig.checkpoint.letters import Letters
from streammig.checkpoint.outbox import Outbox
from streammig.checkpoint.queries import LOST, PENDING, UNDECIDED
from streammig.checkpoint.schema import APPLICATION, FORMAT, SCHEMA
from streammig.checkpoint.sqlite import connect, refuse_network_file_system, sync, translated
from streammig.errors import Unusable
from streammig.records import (
    Batch,
    BatchState,
    DeadLetter,
    Draft,
    Progress,
    Range,
    Receipt,
)


class Checkpoint(Letters):
    """One connection to a checkpoint file. Every method that changes it is one transaction, or part of the open one.

    Synchronous; its owner runs it in a thread of its own (`CheckpointWriter`). Raises `Unusable` for a file that can't
    be used as a checkpoint and `MachineFault` where the machine failed; no `sqlite3.Error` leaves this class.
    """

    _mark: Mark | None = None

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        super().__init__(path, connection)
        self.outbox = Outbox(path)
        self._may_write = self._writes = False

    def _prepare(self) -> None:
        if self._may_write and not self._writes:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._writes = True

    def close(self) -> None:
        """Close it; the last one that wrote folds the write-ahead log in, so that no later reader makes a new one."""
        if self._writes:
            with suppress(sqlite3.Error):
                self._db.execute("PRAGMA busy_timeout = 0")
                self._db.execute("PRAGMA journal_mode = DELETE")
        super().close()

    def _before_commit(self) -> None:
        self.outbox.sync()

    def _committed(self) -> None:
        self.outbox.committed()

    def _rolled_back(self) -> None:
        self.outbox.rolled_back()

    def __reduce__(self) -> tuple[Callable[[Path], Checkpoint], tuple[Path]]:
        return partial(Checkpoint.open, read_only=True), (self.path,)  # another process may only read it

    @classmethod
    def create(
        cls, path: Path, *, binding: Mapping[str, Any], version: str, started: float, run_id: str = ""
    ) -> Checkpoint:
        """A new checkpoint, owner-only, durable before this returns. The file must not exist.

        It takes its name when it is whole: a crash or a full disk must not leave a file there that nobody can open.
        """
        refuse_network_file_system(path)
        part = path.with_name(path.name + ".part")
        with translated(path):
            part.unlink(missing_ok=True)
            part.touch(mode=0o600)
        try:
            checkpoint = cls(path, connect(part, "rw"))
            try:
                checkpoint._lay_out(run_id or secrets.token_hex(8), binding, version, started)
            finally:
                checkpoint.close()
            with translated(path):
                part.replace(path)
                sync(path.parent)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise
        return cls.open(path)

    def _lay_out(self, run_id: str, binding: Mapping[str, Any], version: str, started: float) -> None:
        with self.transaction():
            for statement in SCHEMA.split(";\n"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA application_id = {APPLICATION}")
            self._db.execute(f"PRAGMA user_version = {FORMAT}")
            self._db.execute(
                "INSERT INTO run (id, version, started, binding, context, salt) VALUES (?, ?, ?, ?, ?, ?)",
                (run_id, version, started, json.dumps(binding), "{}", secrets.token_bytes(16)),
            )

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> Checkpoint:
        """An existing checkpoint, verified. A reader never writes, so it may read while a run is on; it says itself
        when it wants to `verify`."""
        if not path.is_file():
            raise Unusable(
                "checkpoint-missing",
                f"{path}: there is no checkpoint there",
                "Name the file that --checkpoint named in the run.",
            )
        if not read_only:
            refuse_network_file_system(path)
        checkpoint = cls(path, connect(path, "ro" if read_only else "rw"))
        try:
            checkpoint._check()
            if not read_only:
                checkpoint.verify()
                checkpoint._may_write = True
        except BaseException:
            checkpoint.close()
            raise
        return checkpoint

    def _check(self) -> None:
        (application,) = self._read("PRAGMA application_id")[0]
        (newest,) = self._read("PRAGMA user_version")[0]
        if application != APPLICATION:
            raise Unusable(
                "checkpoint-foreign",
                f"{self.path} is no checkpoint of streammig",
                "Name another file with --checkpoint.",
            )
        if newest > FORMAT:
            raise Unusable(
                "checkpoint-newer",
                f"{self.path} was written by a newer streammig (format {newest}, this one knows {FORMAT})",
                "Go on with the version that wrote it, or a later one.",
            )
        if newest < FORMAT:
            (wrote,) = self._read("SELECT version FROM run")[0]
            raise Unusable(
                "checkpoint-older-format",
                f"{self.path} has format {newest}, and this streammig reads format {FORMAT} only",
                f"It was written by streammig {wrote}, which reads it: go on with that version.",
            )

    @classmethod
    def copy_at(cls, path: Path) -> tuple[str, int] | None:
        """The id and the tick of the checkpoint at `path`, None if there is none. Changes no file.

        The caller holds the checkpoint's lock.
        """
        if not path.is_file():
            return None
        file = cls(path, connect(path, "alone"))
        try:
            file._check()
            return file.run["id"], file.run["tick"]
        finally:
            file.close()

    def take_mark(self) -> Mark | None:
        """How far the requests have come that were numbered since the last call; None where there are none."""
        mark, self._mark = self._mark, None
        return mark

    def set_context(self, context: Mapping[str, Any]) -> None:
        self._change("UPDATE run SET context = ?", json.dumps(context))

    def add_stage(
        self, name: str, ordinal: int, shape: Mapping[str, Any], fingerprints: Sequence[Mapping[str, Any]]
    ) -> None:
        with self.transaction():
            self._db.execute(
                "INSERT INTO stage (name, ordinal, shape) VALUES (?, ?, ?)", (name, ordinal, json.dumps(shape))
            )
            self.add_files(name, 0, fingerprints)

    def add_files(self, stage: str, first: int, fingerprints: Sequence[Mapping[str, Any]]) -> None:
        """Add files to a stage; `first` is the number of the first of them, and how many the stage has already."""
        with self.transaction():
            self._db.executemany(
                "INSERT INTO source_file VALUES (?, ?, ?)",
                [(stage, source, json.dumps(mark)) for source, mark in enumerate(fingerprints, first)],
            )

    def stage_state(self, stage: str, state: str, at: float, message: str = "", code: str = "") -> None:
        """Set a stage's state; it starts when it first runs, and has finished when it is complete."""
        self._change(
            "UPDATE stage SET state = ?1, message = ?2, started = CASE WHEN ?1 = 'running' THEN coalesce(started, ?3)"
            " ELSE started END, finished = CASE WHEN ?1 = 'complete' THEN ?3 END, code = ?5 WHERE name = ?4",
            state, message, at, stage, code,
        )  # fmt: skip

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
        """Keep what the target said with a receipt, redacted by the caller, and the ranges of whom alone it named."""
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

    def saw(self, stage: str) -> None:
        """All samples of what is sealed of this stage were seen at the target."""
        self._change("UPDATE stage SET seen = 1 WHERE name = ?", stage)

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
        absent: Sequence[tuple[str, str]],
    ) -> None:  # fmt: skip
        """Book a batch that was taken in part: what is there is accepted, what is missing dead."""
        with self.transaction():
            accepted, dead = self.split(batch, [there, missing], at)
            self.move(accepted, BatchState.SEALED, BatchState.ACCEPTED, at)
            self.dead(dead, letters, at, absent)

    def split(self, batch: Batch, drafts: Sequence[Draft], at: float) -> list[Batch]:
        """Replace a batch that did not land by its parts, which name it as their parent. Their bodies are durable
        before that, and its own goes after it."""
        with self.transaction():
            self._db.execute("UPDATE batch SET state = 'split' WHERE stage = ? AND seq = ?", (batch.stage, batch.seq))
            self.outbox.drop(batch.stage, batch.seq)
            return [self._insert(batch.stage, draft, batch.seq, at) for draft in drafts]

    def dead(
        self, batch: Batch, letters: Sequence[DeadLetter], at: float, absent: Sequence[tuple[str, str]] = ()
    ) -> None:
        """End a batch whose records will not be sent, with the owners that the target will lack because of it."""
        with self.transaction():
            self._db.execute(
                "UPDATE batch SET state = 'dead', settled = ? WHERE stage = ? AND seq = ?", (at, batch.stage, batch.seq)
            )
            self._bury(batch.stage, batch, letters)
            self._note_absent(absent)
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
