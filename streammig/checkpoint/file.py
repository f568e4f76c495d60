"""The checkpoint file: creating, opening and verifying it, and its run and stages."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from streammig.checkpoint.reverts import Reverts
from streammig.checkpoint.schema import APPLICATION, FORMAT, SCHEMA
from streammig.checkpoint.sqlite import CHECKPOINT, connect, refuse_network_file_system, translated
from streammig.disk import whole_file
from streammig.errors import Unusable


class Checkpoint(Reverts):
    """One connection to a checkpoint file. Every method that changes it is one transaction, or part of the open one.

    Synchronous: `CheckpointWriter` runs it in a thread of its own. Raises `Unusable` if the file is no usable
    checkpoint, and `MachineFault` if the machine failed; never raises `sqlite3.Error`.
    """

    role, application, format, schema = CHECKPOINT, APPLICATION, FORMAT, SCHEMA

    _may_write = False  # WAL mode starts with the first write: a refused file stays unchanged

    def _prepare(self) -> None:
        if self._may_write:
            self._log_ahead()

    def __reduce__(self) -> tuple[Callable[[Path], Checkpoint], tuple[Path]]:
        return partial(Checkpoint.open, read_only=True), (self.path,)  # another process opens it for reading only

    @classmethod
    def create(
        cls, path: Path, *, binding: Mapping[str, Any], version: str, started: float, run_id: str = ""
    ) -> Checkpoint:
        """Create a checkpoint, owner-only and durable before this returns. The file must not exist.

        The file gets its name when it is complete: a crash or a full disk must not leave one that can't be opened.
        """
        refuse_network_file_system(path)
        row = run_id or secrets.token_hex(8), version, started, json.dumps(binding), "{}", secrets.token_bytes(16)
        with translated(path, cls.role), whole_file(path) as part:
            checkpoint = cls(path, connect(part, "rw", cls.role))
            try:
                with checkpoint.transaction():
                    checkpoint._lay_out()
                    columns = "id, version, started, binding, context, salt"
                    checkpoint.change(f"INSERT INTO run ({columns}) VALUES (?, ?, ?, ?, ?, ?)", *row)
            finally:
                checkpoint.close()
        return cls.open(path)

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> Checkpoint:
        """Open an existing checkpoint, and verify it unless it is `read_only`.

        A reader may open it while a run is on, and call `verify` itself.
        """
        if not path.is_file():
            raise Unusable(
                "checkpoint-missing",
                f"{path}: there is no checkpoint there",
                "Name the file that --checkpoint named in the run.",
            )
        if not read_only:
            refuse_network_file_system(path)
        checkpoint = cls(path, connect(path, "ro" if read_only else "rw", cls.role))
        try:
            checkpoint._check()
            if not read_only:
                checkpoint.verify()
                checkpoint._may_write = True
        except BaseException:
            checkpoint.close()
            raise
        return checkpoint

    def _of_format(self, found: int) -> Unusable:
        if found > self.format:
            return Unusable(
                "checkpoint-newer",
                f"{self.path} was written by a newer streammig (format {found}, this one knows {self.format})",
                "Go on with the version that wrote it, or a later one.",
            )
        (wrote,) = self.rows("SELECT version FROM run")[0]
        return Unusable(
            "checkpoint-older-format",
            f"{self.path} has format {found}, and this streammig reads format {self.format} only",
            f"It was written by streammig {wrote}, which reads it: go on with that version.",
        )

    @classmethod
    def copy_at(cls, path: Path) -> tuple[str, int] | None:
        """Return the id and the tick of the checkpoint at `path`, None if there is no file. Changes no file.

        The caller must hold the checkpoint's lock.
        """
        if not path.is_file():
            return None
        file = cls(path, connect(path, "alone", cls.role))
        try:
            file._check()
            return file.run["id"], file.run["tick"]
        finally:
            file.close()

    def set_context(self, context: Mapping[str, Any]) -> None:
        self.change("UPDATE run SET context = ?", json.dumps(context))

    def add_stage(
        self, name: str, ordinal: int, shape: Mapping[str, Any], fingerprints: Sequence[Mapping[str, Any]]
    ) -> None:
        with self.transaction():
            sql = "INSERT INTO stage (name, ordinal, shape) VALUES (?, ?, ?)"
            self.change(sql, name, ordinal, json.dumps(shape))
            self.add_files(name, 0, fingerprints)

    def add_files(self, stage: str, first: int, fingerprints: Sequence[Mapping[str, Any]]) -> None:
        """Append files to a stage; `first` is the number of files that it has already."""
        with self.transaction():
            for source, mark in enumerate(fingerprints, first):
                self.change("INSERT INTO source_file VALUES (?, ?, ?)", stage, source, json.dumps(mark))
            if fingerprints:
                self.change("UPDATE stage SET state = 'waiting', finished = NULL WHERE name = ?", stage)

    def stage_state(self, stage: str, state: str, at: float, message: str = "", code: str = "") -> None:
        """Set a stage's state. `started` is set when it first runs, `finished` when it is first complete."""
        self.change(
            "UPDATE stage SET state = ?1, message = ?2, started = CASE WHEN ?1 = 'running' THEN coalesce(started, ?3)"
            " ELSE started END, finished = coalesce(finished, CASE WHEN ?1 = 'complete' THEN ?3 END), code = ?5"
            " WHERE name = ?4",
            state, message, at, stage, code,
        )  # fmt: skip
