"""Runs the changes of a checkpoint in a thread of its own, many of them to a commit when they come fast."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

from streammig.checkpoint.fence import Fence
from streammig.checkpoint.file import Checkpoint

T = TypeVar("T")


class CheckpointWriter:
    """The only way a run changes its checkpoint; it raises the fence behind each request's number.

    After a change that failed, every later one fails the same way: nothing may be sent on the strength of a file that
    did not take a write.
    """

    def __init__(self, checkpoint: Checkpoint, executor: Executor, fence: Fence | None = None) -> None:
        self._checkpoint = checkpoint
        self._executor = executor
        self._fence = fence
        self._waiting: list[tuple[Callable[[Checkpoint], Any], asyncio.Future[Any]]] = []
        self._writer: asyncio.Task[None] | None = None
        self._broken: BaseException | None = None

    async def write(self, change: Callable[[Checkpoint], T]) -> T:
        """Run `change(checkpoint)` in the checkpoint's thread and return its result once it is durable.

        Changes are applied in the order they were asked for. A caller that is cancelled gives up waiting; the
        change is still made.
        """
        if self._broken is not None:
            raise self._broken
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((change, done))
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_waiting())
        return await asyncio.shield(done)

    async def flush(self) -> None:
        """Wait until everything asked for so far is durable or has failed."""
        while self._writer is not None:
            await asyncio.wait([self._writer])

    async def _write_waiting(self) -> None:
        try:
            while self._waiting:
                taken, self._waiting = self._waiting, []
                loop = asyncio.get_running_loop()
                try:
                    results = await loop.run_in_executor(self._executor, self._commit, [it[0] for it in taken])
                except BaseException as error:  # whatever it was: those who wait must not wait for ever
                    self._broken = error
                    for _, done in taken + self._waiting:
                        if not done.done():
                            done.set_exception(error)
                            done.exception()  # a caller that was cancelled meanwhile does not fetch it
                    self._waiting = []
                    return
                for (_, done), result in zip(taken, results, strict=True):
                    if not done.done():
                        done.set_result(result)
        finally:
            self._writer = None

    def _commit(self, changes: list[Callable[[Checkpoint], Any]]) -> list[Any]:
        with self._checkpoint.transaction():
            results = [change(self._checkpoint) for change in changes]
        # Nobody is told that a request may leave before the fence knows of it (I2).
        mark = self._checkpoint.take_mark()
        if mark is not None and self._fence is not None:
            self._fence.raise_to(mark)
        return results
