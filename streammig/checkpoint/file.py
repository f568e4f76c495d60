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

from streammig.checkpoint.reverts import Reverts
from streammig.checkpoint.schema import APPLICATION, FORMAT, SCHEMA
from streammig.checkpoint.sqlite import connect, refuse_network_file_system, sync, translated
from streammig.errors import Unusable


class Checkpoint(Reverts):
    """One connection to a checkpoint file. Every method that changes it is one transaction, or part of the open one.

    Synchronous; its owner runs it in a thread of its own (`CheckpointWriter`). Raises `Unusable` for a file that can't
    be used as a checkpoint and `MachineFault` where the machine failed; no `sqlite3.Error` leaves this class.
    """

    _may_write = _writes = False  # it is in WAL mode only while it writes: a file that is refused stays as it is

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
