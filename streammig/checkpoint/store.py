"""Access of a run to its checkpoint: changes go through the writer, queries and bodies don't wait for it."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar

from streammig.checkpoint.contents import Contents
from streammig.checkpoint.file import Checkpoint
from streammig.checkpoint.writer import CheckpointWriter
from streammig.model import Batch, Record

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, slots=True)
class Store:
    """The checkpoint and its outbox for a run. `file` is a read-only connection; `executor` is its one thread."""

    writer: CheckpointWriter
    file: Checkpoint
    executor: Executor

    def command(self, name: str, *arguments: object) -> str:
        """Return a command on this checkpoint, as a person can type it."""
        return shlex.join(["streammig", name, str(self.file.path), *map(str, arguments)])

    async def write(self, change: Callable[[Checkpoint], T]) -> T:
        """Call `CheckpointWriter.write`."""
        return await self.writer.write(change)

    def begin(self, change: Callable[[Checkpoint], T]) -> asyncio.Future[T]:
        """Call `CheckpointWriter.begin`."""
        return self.writer.begin(change)

    async def read(self, question: Callable[[Checkpoint], T]) -> T:
        """Run a query on one snapshot, which holds every change whose `write` has returned."""
        return await self._asked(self._read, question)

    def _read(self, question: Callable[[Checkpoint], T]) -> T:
        with self.file.reading():
            return question(self.file)

    async def body(self, batch: Batch) -> bytes:
        """Return the body of a batch that is not settled. Raises `Unusable` if it is missing or altered."""
        return await self._asked(self.file.outbox.body, batch)

    async def contents(self, batch: Batch) -> Contents:
        """Return the decoded body of a batch that is not settled. Raises as `body`."""
        return await self._asked(self.file.outbox.contents, batch)

    async def records(self, batch: Batch) -> list[Record]:
        """Return the records of a batch that is not settled, or the samples of an accepted one."""
        return await self._asked(self.file.outbox.records, batch)

    async def _asked(self, work: Callable[[U], T], about: U) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.executor, work, about)
