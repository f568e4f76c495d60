"""A run's way to its checkpoint: changes through the one writer, questions and bodies without waiting for it."""

from __future__ import annotations

import asyncio
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
    """The checkpoint with its outbox, as a run uses them. `file` is a connection that only reads, in a thread of its
    own: `executor`."""

    writer: CheckpointWriter
    file: Checkpoint
    executor: Executor

    async def write(self, change: Callable[[Checkpoint], T]) -> T:
        """As `CheckpointWriter.write`."""
        return await self.writer.write(change)

    def begin(self, change: Callable[[Checkpoint], T]) -> asyncio.Future[T]:
        """As `CheckpointWriter.begin`."""
        return self.writer.begin(change)

    async def read(self, question: Callable[[Checkpoint], T]) -> T:
        """The answer as of one moment; it holds every change whose `write` has returned."""
        return await self._asked(self._read, question)

    def _read(self, question: Callable[[Checkpoint], T]) -> T:
        with self.file.reading():
            return question(self.file)

    async def body(self, batch: Batch) -> bytes:
        """The request body of a batch that is not settled. Raises `Unusable` where it is not what was sealed."""
        return await self._asked(self.file.outbox.body, batch)

    async def contents(self, batch: Batch) -> Contents:
        """As `body`, taken apart."""
        return await self._asked(self.file.outbox.contents, batch)

    async def records(self, batch: Batch) -> list[Record]:
        """The records of a batch that is not settled; of an accepted one, those that were kept as samples."""
        return await self._asked(self.file.outbox.records, batch)

    async def _asked(self, work: Callable[[U], T], about: U) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.executor, work, about)
