"""The one writer of a checkpoint: runs changes in a thread, and groups fast ones into one commit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

from streammig.checkpoint.fence import Fence
from streammig.checkpoint.file import Checkpoint

GATHER = 0.004  # least seconds between the begins of two commits; changes that come meanwhile share the second

T = TypeVar("T")
Waiting = tuple[Callable[[Checkpoint], Any], asyncio.Future[Any]]


class CheckpointWriter:
    """The only way for a run to change its checkpoint. Raises the fence after a commit that numbers requests.

    After a failed change every later one fails with the same error: nothing may be sent if the file lacks a change.
    """

    def __init__(self, checkpoint: Checkpoint, executor: Executor, fence: Fence | None = None) -> None:
        self._checkpoint = checkpoint
        self._executor = executor
        self._fence = fence
        self._waiting: list[Waiting] = []
        self._urgent = False  # whether a caller waits for one of them
        self._due: asyncio.Handle | None = None  # begins the next commit; None if none waits, or during a commit
        self._idle = asyncio.Event()
        self._idle.set()
        self._next = 0.0  # when the next commit may begin, in the loop's time
        self._broken: BaseException | None = None

    async def write(self, change: Callable[[Checkpoint], T]) -> T:
        """Run `change(checkpoint)` in the checkpoint's thread, and return its result when it is durable.

        Changes run in the order of the calls. If the caller is cancelled, the change is still made.
        """
        return await self._add(change, urgent=True)

    def begin(self, change: Callable[[Checkpoint], T]) -> asyncio.Future[T]:
        """Start a `write` without waiting: the change waits up to `GATHER` seconds for others to share its commit."""
        return self._add(change, urgent=False)

    async def flush(self) -> None:
        """Wait until every change so far is durable or has failed."""
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
        """Schedule the next commit: never in this turn of the loop, so that all changes of the turn share it."""
        if self._due is not None:
            self._due.cancel()
        loop = asyncio.get_running_loop()
        at = self._next if self._urgent else max(self._next, loop.time() + GATHER)
        self._due = loop.call_at(at, self._begin) if at > loop.time() else loop.call_soon(self._begin)

    def _begin(self) -> None:
        """Commit all waiting changes in the executor; later ones wait for the next commit."""
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
        """Fail all waiting changes, whatever the error is: their callers must not wait for ever."""
        self._broken = error
        for _, done in taken + self._waiting:
            if not done.done():
                self._fail(done, error)
        self._waiting = []
        self._idle.set()

    def _fail(self, done: asyncio.Future[Any], error: BaseException) -> None:
        done.set_exception(error)
        done.exception()  # mark it as retrieved: a cancelled caller does not fetch it

    def _commit(self, changes: list[Callable[[Checkpoint], Any]]) -> list[Any]:
        with self._checkpoint.transaction():
            results = [change(self._checkpoint) for change in changes]
        # The fence rises before any caller learns that its request may leave (I2).
        mark = self._checkpoint.take_mark()
        if mark is not None and self._fence is not None:
            self._fence.raise_to(mark)
        return results
