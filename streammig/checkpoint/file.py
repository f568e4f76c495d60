"""One checkpoint: the changes that a run makes to it, each in one transaction, and what it holds."""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streammig.checkpoint.codec import decode_tally, encode_tally, hash_owner, pack_ranges, unpack_ranges
from streammig.checkpoint.database import (
    connect,
    prepare_to_write,
    refuse_network_file_system,
    sync_folder,
    translated,
)
from streammig.checkpoint.schema import APPLICATION, FORMAT, SCHEMA
from streammig.errors import Unusable
from streammig.records import (
    Batch,
    BatchState,
    DeadLetter,
    Draft,
    Place,
    Position,
    Progress,
    Range,
    Receipt,
    Tally,
    add_up,
)

# What is pending, unknown or settled, by state; a split or resealed batch lives on in its parts.
PENDING = (BatchState.SEALED, BatchState.SENDING, BatchState.REFUSED)
UNDECIDED = (BatchState.UNKNOWN, BatchState.PARKED)


@dataclass(frozen=True, slots=True)
class Books:
    """The accounts of one stage. `read` and `ahead` come from the reading side, the rest from batches, dead letters
    and filter counts; they balance when the two sides agree in records, units and every sum."""

    read: Tally
    ahead: Tally
    accepted: Tally
    dead: Tally
    filtered: Tally
    unknown: Tally
    pending: Tally

    @property
    def taken(self) -> Tally:
        return self.read + self.ahead

    @property
    def placed(self) -> Tally:
        return self.accepted + self.dead + self.filtered + self.unknown + self.pending

    @property
    def balanced(self) -> bool:
        return self.taken - self.placed == Tally()


@dataclass(frozen=True, slots=True)
class StageRow:
    """A stage as the checkpoint has it."""

    name: str
    state: str
    message: str
    started: float | None
    finished: float | None
    shape: Mapping[str, Any]


class Checkpoint:
    """One connection to a checkpoint file. Every method that changes it is one transaction, or part of the open one.

    Synchronous; its owner runs it in a thread of its own (`Journal`). Raises `Unusable` for a file that can't be used
    as a checkpoint and `MachineFault` where the machine failed; no `sqlite3.Error` leaves this class.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._db = connection
        self._open = False

    # -- opening ---------------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, path: Path, *, binding: Mapping[str, Any], version: str, started: float) -> Checkpoint:
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
                checkpoint._lay_out(binding, version, started)
            finally:
                checkpoint.close()
            with translated(path):
                part.replace(path)
                sync_folder(path.parent)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise
        return cls.open(path)

    def _lay_out(self, binding: Mapping[str, Any], version: str, started: float) -> None:
        with self.transaction():
            self._db.executescript(f"BEGIN IMMEDIATE;{SCHEMA}")
            self._db.execute(f"PRAGMA application_id = {APPLICATION}")
            self._db.execute(f"PRAGMA user_version = {FORMAT}")
            self._db.execute(
                "INSERT INTO run VALUES (?, ?, ?, ?, ?, ?)",
                (secrets.token_hex(8), version, started, json.dumps(binding), "{}", secrets.token_bytes(16)),
            )

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> Checkpoint:
        """An existing checkpoint. A reader never writes, so it may read while a run is on."""
        if not path.is_file():
            raise Unusable(f"{path}: there is no checkpoint there", "Name the file that --checkpoint named in the run.")
        if not read_only:
            refuse_network_file_system(path)
        checkpoint = cls(path, connect(path, "ro" if read_only else "rw"))
        try:
            checkpoint._check()
            if not read_only:
                with translated(path):
                    prepare_to_write(checkpoint._db)
        except BaseException:
            checkpoint.close()
            raise
        return checkpoint

    def _check(self) -> None:
        (application,) = self._read("PRAGMA application_id")[0]
        (newest,) = self._read("PRAGMA user_version")[0]
        if application != APPLICATION:
            raise Unusable(f"{self.path} is no checkpoint of streammig", "Name another file with --checkpoint.")
        if newest > FORMAT:
            raise Unusable(
                f"{self.path} was written by a newer streammig (format {newest}, this one knows {FORMAT})",
                "Go on with the version that wrote it, or a later one.",
            )

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._db.close()

    # -- transactions ----------------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is durable together when this ends, or not at all; nested ones join the outermost."""
        if self._open:
            yield
            return
        self._open = True
        try:
            with translated(self.path):
                self._db.execute("BEGIN IMMEDIATE") if not self._db.in_transaction else None
                try:
                    yield
                    self._db.execute("COMMIT")
                except BaseException:
                    with suppress(sqlite3.Error):
                        self._db.execute("ROLLBACK")
                    raise
        finally:
            self._open = False

    def _change(self, sql: str, *arguments: Any) -> None:
        with self.transaction():
            self._db.execute(sql, arguments)

    def _read(self, sql: str, *arguments: Any) -> list[sqlite3.Row]:
        with translated(self.path):
            return self._db.execute(sql, arguments).fetchall()

    # -- run and stages --------------------------------------------------------------------------------------------

    @property
    def run(self) -> Mapping[str, Any]:
        """id, version, started, binding, context, salt."""
        row = dict(self._read("SELECT * FROM run")[0])
        return row | {"binding": json.loads(row["binding"]), "context": json.loads(row["context"])}

    def set_context(self, context: Mapping[str, Any]) -> None:
        self._change("UPDATE run SET context = ?", json.dumps(context))

    def stages(self) -> list[StageRow]:
        rows = self._read("SELECT name, state, message, started, finished, shape FROM stage ORDER BY ordinal")
        return [StageRow(row[0], row[1], row[2], row[3], row[4], json.loads(row[5])) for row in rows]

    def add_stage(
        self, name: str, ordinal: int, shape: Mapping[str, Any], fingerprints: Sequence[Mapping[str, Any]]
    ) -> None:
        with self.transaction():
            self._db.execute(
                "INSERT INTO stage (name, ordinal, shape) VALUES (?, ?, ?)", (name, ordinal, json.dumps(shape))
            )
            self._db.executemany(
                "INSERT INTO source_file VALUES (?, ?, ?)",
                [(name, source, json.dumps(mark)) for source, mark in enumerate(fingerprints)],
            )

    def fingerprints(self, stage: str) -> list[dict[str, Any]]:
        rows = self._read("SELECT fingerprint FROM source_file WHERE stage = ? ORDER BY source", stage)
        return [json.loads(row[0]) for row in rows]

    def stage_state(self, stage: str, state: str, at: float, message: str = "") -> None:
        """Set a stage's state; it starts when it first runs, and has finished when it is complete."""
        self._change(
            "UPDATE stage SET state = ?1, message = ?2, started = CASE WHEN ?1 = 'running' THEN coalesce(started, ?3)"
            " ELSE started END, finished = CASE WHEN ?1 = 'complete' THEN ?3 END WHERE name = ?4",
            state, message, at, stage,
        )  # fmt: skip

    # -- reading side ----------------------------------------------------------------------------------------------

    def progress(self, stage: str) -> Progress:
        """Where reading goes on, with its counters; `dead` and `absent` are empty, they are stored already."""
        row = self._read("SELECT * FROM stage WHERE name = ?", stage)[0]
        filtered = self._read("SELECT reason, tally FROM filtered WHERE stage = ?", stage)
        return Progress(
            Place(row["source"], row["offset"], row["unit"], row["record"]),
            row["source_records"],
            decode_tally(row["read"]),
            decode_tally(row["ahead"]),
            {reason: decode_tally(tally) for reason, tally in filtered},
            json.loads(row["dropped"]),
        )

    def ahead_ranges(self, stage: str) -> list[Range]:
        """The ranges that batches hold beyond the frontier, in reading order."""
        frontier = self.progress(stage).frontier
        rows = self._read("SELECT ranges FROM batch WHERE stage = ? AND parent IS NULL ORDER BY seq DESC", stage)
        # Bins are sealed at most some hundred batches ahead of the frontier, but which ones is not known: all are read.
        found = [piece for row in rows for piece in unpack_ranges(row[0]) if piece.end > frontier]
        return sorted(found)

    def advance(self, stage: str, progress: Progress) -> None:
        """Commit how far a stage is read, with the dead letters and absent owners found on the way."""
        place = progress.frontier
        with self.transaction():
            self._db.execute(
                "UPDATE stage SET source = ?, offset = ?, unit = ?, record = ?, source_records = ?, read = ?,"
                " ahead = ?, dropped = ? WHERE name = ?",
                (*place, progress.source_records, encode_tally(progress.read), encode_tally(progress.ahead),
                 json.dumps(dict(progress.dropped)), stage),
            )  # fmt: skip
            self._db.executemany(
                "INSERT INTO filtered VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET tally = excluded.tally",
                [(stage, reason, encode_tally(tally)) for reason, tally in progress.filtered.items()],
            )
            self._bury(stage, 0, progress.dead)
            self._note_absent(progress.absent)

    def seal(self, stage: str, draft: Draft, progress: Progress, at: float) -> Batch:
        """A new batch, the frontier and every counter as of it, in one transaction (I2)."""
        with self.transaction():
            batch = self._insert(stage, draft, None, at)
            self.advance(stage, progress)
        return batch

    def _insert(self, stage: str, draft: Draft, parent: int | None, at: float) -> Batch:
        seq = self._db.execute("SELECT coalesce(max(seq), 0) + 1 FROM batch WHERE stage = ?", (stage,)).fetchone()[0]
        self._db.execute(
            "INSERT INTO batch (stage, seq, state, parent, ranges, tally, size, digest, sealed)"
            " VALUES (?, ?, 'sealed', ?, ?, ?, ?, ?, ?)",
            (
                stage,
                seq,
                parent,
                pack_ranges(draft.ranges),
                encode_tally(draft.tally),
                len(draft.body),
                draft.digest,
                at,
            ),
        )
        return Batch(stage, seq, draft.ranges, draft.tally, draft.digest, len(draft.body), parent=parent)

    def _bury(self, stage: str, batch: int, letters: Iterable[DeadLetter]) -> None:
        self._db.executemany(
            "INSERT OR IGNORE INTO dead_letter VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (stage, it.position.source, it.position.offset, it.unit, batch, it.position.length, it.position.ordinal,
                 it.code, it.message, encode_tally(it.tally))
                for it in letters
            ],
        )  # fmt: skip

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

    # -- sending side ----------------------------------------------------------------------------------------------

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
            self._db.execute(
                "INSERT INTO attempt (stage, seq, number, started) VALUES (?, ?, ?, ?)",
                (batch.stage, batch.seq, number, at),
            )
        return number

    def received(self, batch: Batch, attempt: int, receipt: Receipt, state: BatchState, at: float) -> None:
        """Keep a receipt and the state it puts the batch in. Its message was redacted by the caller."""
        settled = at if state in (BatchState.ACCEPTED, BatchState.DEAD) else None
        with self.transaction():
            self._db.execute(
                "UPDATE attempt SET kind = ?, status = ?, latency = ?, date = ?, message = ?"
                " WHERE stage = ? AND seq = ? AND number = ?",
                (
                    receipt.kind,
                    receipt.status,
                    receipt.latency,
                    receipt.date,
                    receipt.message,
                    batch.stage,
                    batch.seq,
                    attempt,
                ),
            )
            self._db.execute(
                "UPDATE batch SET state = ?, settled = ? WHERE stage = ? AND seq = ? AND state = 'sending'",
                (state, settled, batch.stage, batch.seq),
            )

    def move(self, batch: Batch, before: BatchState, after: BatchState, at: float | None = None) -> bool:
        """Change a batch's state if it is still `before`; says whether it was."""
        with self.transaction():
            changed = self._db.execute(
                "UPDATE batch SET state = ?, settled = ? WHERE stage = ? AND seq = ? AND state = ?",
                (after, at, batch.stage, batch.seq, before),
            )
        return changed.rowcount == 1

    def split(self, batch: Batch, drafts: Sequence[Draft], at: float) -> list[Batch]:
        """Replace a batch that did not land by its parts, which name it as their parent."""
        with self.transaction():
            self._db.execute("UPDATE batch SET state = 'split' WHERE stage = ? AND seq = ?", (batch.stage, batch.seq))
            return [self._insert(batch.stage, draft, batch.seq, at) for draft in drafts]

    def reseal(self, batch: Batch, drafts: Sequence[Draft], dead: Sequence[DeadLetter], at: float) -> list[Batch]:
        """Replace a batch that never left and can't be rebuilt as it was (another mapping, another version).

        What the records behind it have become now is counted as of now; the difference to what was read then is
        filtered under the reason "resealed", so that the books still balance and show it.
        """
        with self.transaction():
            parts = self.split(batch, drafts, at)
            before = self._dead_tally(batch.stage)
            self._bury(batch.stage, 0, dead)
            rest = batch.tally - (self._dead_tally(batch.stage) - before)
            for part in parts:
                rest -= part.tally
            if rest != Tally():
                known = self.progress(batch.stage).filtered.get("resealed", Tally())
                self._db.execute(
                    "INSERT INTO filtered VALUES (?, 'resealed', ?) ON CONFLICT DO UPDATE SET tally = excluded.tally",
                    (batch.stage, encode_tally(known + rest)),
                )
        return parts

    def dead(
        self, batch: Batch, letters: Sequence[DeadLetter], at: float, absent: Sequence[tuple[str, str]] = ()
    ) -> None:
        """End a batch whose records will not be sent, with the owners that the target will lack because of it."""
        with self.transaction():
            self._db.execute(
                "UPDATE batch SET state = 'dead', settled = ? WHERE stage = ? AND seq = ?", (at, batch.stage, batch.seq)
            )
            self._bury(batch.stage, batch.seq, letters)
            self._note_absent(absent)

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
            self._db.execute("UPDATE attempt SET kind = 'unknown', message = 'the process ended' WHERE kind IS NULL")
        return found

    def adopt(self, batch: Batch, attempt: int, at: float) -> bool:
        """Learn of a send that the account's file knows and this file may not: it was set back in time.

        Returns whether it was news; then the batch's outcome is unknown. `batch.digest` is empty where only the first
        attempt's note describes it. Raises `Unusable` where the two histories do not fit together.
        """
        with self.transaction():
            rows = self._read("SELECT * FROM batch WHERE stage = ? AND seq = ?", batch.stage, batch.seq)
            if rows and (not batch.digest or rows[0]["digest"] == batch.digest):
                if rows[0]["attempts"] >= attempt:
                    return False
                self._db.execute(
                    "UPDATE batch SET attempts = ?, state = CASE state WHEN 'sealed' THEN 'unknown' ELSE state END"
                    " WHERE stage = ? AND seq = ?",
                    (attempt, batch.stage, batch.seq),
                )
            elif rows or not batch.digest or self._overlaps(batch):
                raise Unusable(
                    f"{self.path} is an older copy of itself that can't be brought up to date: batch {batch.seq} of"
                    f" {batch.stage} was sent later, and not as this file would send it",
                    "Restore the newest copy. Nothing was sent.",
                )
            else:
                self._insert_unknown(batch, attempt, at)
            self._db.execute(
                "INSERT OR REPLACE INTO attempt (stage, seq, number, started, kind, message)"
                " VALUES (?, ?, ?, ?, 'unknown', 'known from the account''s file only')",
                (batch.stage, batch.seq, attempt, at),
            )
        return True

    def _overlaps(self, batch: Batch) -> bool:
        """Whether a batch holds what lies behind the frontier, or in another batch: then it can't be taken in."""
        frontier = self.progress(batch.stage).frontier
        taken = self.ahead_ranges(batch.stage)
        return any(
            mine.begin < frontier or any(mine.begin < it.end and it.begin < mine.end for it in taken)
            for mine in batch.ranges
        )

    def _insert_unknown(self, batch: Batch, attempt: int, at: float) -> None:
        self._db.execute(
            "INSERT INTO batch (stage, seq, state, parent, ranges, tally, size, digest, sealed, attempts)"
            " VALUES (?, ?, 'unknown', ?, ?, ?, ?, ?, ?, ?)",
            (batch.stage, batch.seq, batch.parent, pack_ranges(batch.ranges), encode_tally(batch.tally), batch.size,
             batch.digest, at, attempt),
        )  # fmt: skip
        ahead = self.progress(batch.stage).ahead + batch.tally
        self._db.execute("UPDATE stage SET ahead = ? WHERE name = ?", (encode_tally(ahead), batch.stage))

    def batches(self, stage: str, *states: BatchState) -> list[Batch]:
        """The batches of a stage in these states, in the order they were sealed."""
        marks = ", ".join("?" * len(states))
        rows = self._read(
            "SELECT seq, ranges, tally, digest, size, state, parent, attempts FROM batch"
            f" WHERE stage = ? AND state IN ({marks}) ORDER BY seq",
            stage, *states,
        )  # fmt: skip
        return [self._batch(stage, row) for row in rows]

    @staticmethod
    def _batch(stage: str, row: sqlite3.Row) -> Batch:
        return Batch(
            stage, row["seq"], unpack_ranges(row["ranges"]), decode_tally(row["tally"]), row["digest"], row["size"],
            BatchState(row["state"]), row["parent"], row["attempts"],
        )  # fmt: skip

    def sample(self, stage: str, count: int) -> list[Batch]:
        """Up to `count` accepted batches of a stage, spread evenly from the first to the last."""
        seqs = [row[0] for row in self._read(
            "SELECT seq FROM batch WHERE stage = ? AND state = 'accepted' ORDER BY seq", stage
        )]  # fmt: skip
        chosen = {seqs[(len(seqs) - 1) * k // max(count - 1, 1)] for k in range(count)} if seqs else set()
        marks = ", ".join("?" * len(chosen))
        rows = self._read(f"SELECT * FROM batch WHERE stage = ? AND seq IN ({marks}) ORDER BY seq", stage, *chosen)
        return [self._batch(stage, row) for row in rows]

    def last_settled(self, stage: str) -> float | None:
        """When the last batch of a stage was accepted, in seconds since the epoch."""
        at: float | None = self._read("SELECT max(settled) FROM batch WHERE stage = ? AND state = 'accepted'", stage)[
            0
        ][0]
        return at

    def accepted_after(self, batch: Batch, until: float, count: int) -> list[Batch]:
        """Batches of the stage whose accepted request began after this one's had ended and was answered before
        `until` (seconds since the epoch): the `count` that were accepted last."""
        rows = self._read(
            "SELECT b.* FROM batch b JOIN attempt a ON a.stage = b.stage AND a.seq = b.seq AND a.kind = 'accepted'"
            " WHERE b.stage = ?1 AND b.state = 'accepted' AND b.settled <= ?3 AND a.started > (SELECT"
            " max(started + coalesce(latency, 0)) FROM attempt WHERE stage = ?1 AND seq = ?2)"
            " ORDER BY a.started DESC LIMIT ?4",
            batch.stage, batch.seq, until, count,
        )  # fmt: skip
        return [self._batch(batch.stage, row) for row in rows]

    def last_attempt(self, batch: Batch) -> float:
        """When the last request for this batch was made, in seconds since the epoch."""
        at: float = self._read(
            "SELECT max(started) FROM attempt WHERE stage = ? AND seq = ?", batch.stage, batch.seq
        )[0][0]  # fmt: skip
        return at

    def last_message(self, batch: Batch) -> str:
        """What the last receipt for this batch said, redacted as it is stored."""
        rows = self._read(
            "SELECT message FROM attempt WHERE stage = ? AND seq = ? ORDER BY number DESC LIMIT 1",
            batch.stage,
            batch.seq,
        )
        return (rows[0][0] if rows else "") or ""

    def starts(self) -> list[tuple[str, int, int, float]]:
        """Stage, batch, attempt and time of every request made, to seed an account's file that was lost."""
        rows = self._read("SELECT stage, seq, number, started FROM attempt ORDER BY started")
        return [(row[0], row[1], row[2], row[3]) for row in rows]

    # -- what it holds ---------------------------------------------------------------------------------------------

    def books(self, stage: str) -> Books:
        """Both sides of a stage's accounts, added up from what is stored."""
        with self.reading():
            progress = self.progress(stage)
            held: dict[str, list[Tally]] = {}
            for state, tally in self._read("SELECT state, tally FROM batch WHERE stage = ?", stage):
                held.setdefault(state, []).append(decode_tally(tally))
            dead = self._dead_tally(stage)
        return Books(
            read=progress.read,
            ahead=progress.ahead,
            accepted=add_up(held.get(BatchState.ACCEPTED, ())),
            dead=dead,
            filtered=add_up(progress.filtered.values()),
            unknown=add_up(tally for state in UNDECIDED for tally in held.get(state, ())),
            pending=add_up(tally for state in PENDING for tally in held.get(state, ())),
        )

    def _dead_tally(self, stage: str) -> Tally:
        rows = self._read("SELECT tally FROM dead_letter WHERE stage = ?", stage)
        return add_up(decode_tally(row[0]) for row in rows)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Everything read inside is of one moment, also while a run writes."""
        if self._db.in_transaction:
            yield
            return
        with translated(self.path):
            self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("COMMIT")

    def counts(self, stage: str) -> dict[str, int]:
        """Batches that carry records, requests made for them, and units and batches accepted, for the fill."""
        row = self._read(
            "SELECT count(*) FILTER (WHERE state != 'split') AS batches, coalesce(sum(attempts), 0) AS requests,"
            " count(*) FILTER (WHERE state = 'accepted') AS accepted FROM batch WHERE stage = ?",
            stage,
        )[0]
        return dict(row)

    def dead_letters(self, stage: str) -> Iterator[tuple[int, DeadLetter]]:
        """The dead letters of a stage in reading order, each with the batch that was refused, or 0."""
        with translated(self.path):
            for row in self._db.execute(
                "SELECT * FROM dead_letter WHERE stage = ? ORDER BY source, offset, unit, batch", (stage,)
            ):
                position = Position(row["source"], row["offset"], row["length"], row["record"])
                letter = DeadLetter(position, row["unit"], row["code"], row["message"], decode_tally(row["tally"]))
                yield row["batch"], letter

    def dead_codes(self, stage: str) -> dict[str, int]:
        """How many dead letters there are by code."""
        rows = self._read("SELECT code, count(*) FROM dead_letter WHERE stage = ? GROUP BY code ORDER BY 2 DESC", stage)
        return {row[0]: row[1] for row in rows}
