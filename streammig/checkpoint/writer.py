"""Runs the changes of a checkpoint in a thread of its own, many of them to a commit when they come fast."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

from streammig.checkpoint.fence import Fence
from streammig.checkpoint.file import Checkpoint

GATHER = 0.004  # seconds from the begin of a commit to that of the next, at least: what comes meanwhile shares it

T = TypeVar("T")
Waiting = tuple[Callable[[Checkpoint], Any], asyncio.Future[Any]]


class CheckpointWriter:
    """The only way a run changes its checkpoint; it raises the fence behind each request's number.

    After a change that failed, every later one fails the same way: nothing may be sent on the strength of a file that
    did not take a write.
    """

    def __init__(self, checkpoint: Checkpoint, executor: Executor, fence: Fence | None = None) -> None:
        self._checkpoint = checkpoint
        self._executor = executor
        self._fence = fence
        self._waiting: list[Waiting] = []
        self._urgent = False  # whether somebody waits for what is in there
        self._due: asyncio.Handle | None = None  # begins the next commit; None while nothing waits, or one is made
        self._idle = asyncio.Event()
        self._idle.set()
        self._next = 0.0  # when the next commit may begin, in the loop's time
        self._broken: BaseException | None = None

    async def write(self, change: Callable[[Checkpoint], T]) -> T:
        """Run `change(checkpoint)` in the checkpoint's thread and return its result once it is durable.

        Changes are applied in the order they were asked for. A caller that is cancelled gives up waiting; the
        change is still made.
        """
        return await self._add(change, urgent=True)

    def begin(self, change: Callable[[Checkpoint], T]) -> asyncio.Future[T]:
        """As `write`, for who goes on meanwhile: it waits for a moment for others to share its commit."""
        return self._add(change, urgent=False)

    async def flush(self) -> None:
        """Wait until everything asked for so far is durable or has failed."""
        await self._idle.wait()

    def _add(self, change: Callable[[Checkpoint], T], *, urgent: bool) -> asyncio.Future[T]:
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if self._broken is not None:
            self._fail(done, self._broken)
            return done
        self._waiting.append((change, done))
        sooner = urgent and not self._urgent
        self._urgent |= urgent
        if self._idle.is_set() or (self._due is not None and sooner):
            self._idle.clear()
            self._begin_soon()
        return done

    def _begin_soon(self) -> None:
        """What else is asked for in this turn of the loop goes into the same commit, at least."""
        if self._due is not None:
            self._due.cancel()
        loop = asyncio.get_running_loop()
        at = self._next if self._urgent else max(self._next, loop.time() + GATHER)
        self._due = loop.call_at(at, self._begin) if at > loop.time() else loop.call_soon(self._begin)

    def _begin(self) -> None:
        """Commit all that waits, and what comes meanwhile after it."""
        self._next = asyncio.get_running_loop().time() + GATHER
        taken, self._waiting, self._urgent, self._due = self._waiting, [], False, None
        changes = [change for change, _ in taken]
        try:
            work = asyncio.get_running_loop().run_in_executor(self._executor, self._commit, changes)
        except BaseException as error:
            self._break(error, taken)
        else:
            work.add_done_callback(lambda _: self._end(work, taken))

    def _end(self, work: asyncio.Future[list[Any]], taken: list[Waiting]) -> None:
        try:
            results = work.result()
        except BaseException as error:
            self._break(error, taken)
            return
        for (_, done), result in zip(taken, results, strict=True):
            if not done.done():
                done.set_result(result)
        if self._waiting:
            self._begin_soon()
        else:
            self._idle.set()

    def _break(self, error: BaseException, taken: list[Waiting]) -> None:
        """Whatever the error is: those who wait must not wait for ever."""
        self._broken = error
        for _, done in taken + self._waiting:
            if not done.done():
                self._fail(done, error)
        self._waiting = []
        self._idle.set()

    def _fail(self, done: asyncio.Future[Any], error: BaseException) -> None:
        done.set_exception(error)
        done.exception()  # a caller that was cancelled meanwhile does not fetch it

    def _commit(self, changes: list[Callable[[Checkpoint], Any]]) -> list[Any]:
        with self._checkpoint.transaction():
            results = [change(self._checkpoint) for change in changes]
        # Nobody is told that a request may leave before the fence knows of it (I2).
        mark = self._checkpoint.take_mark()
        if mark is not None and self._fence is not None:
            self._fence.raise_to(mark)
        return results
