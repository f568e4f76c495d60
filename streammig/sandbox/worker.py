"""Run JSON and SQLite work in one thread, and apply the queue in one task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from streammig.sandbox.applying import Queue
from streammig.sandbox.store import Store

P = ParamSpec("P")
R = TypeVar("R")

MOST_PENDING = 10_000  # arrivals kept in memory until the store is next used
POLL = 0.02  # seconds; the clock may differ from the loop's, and may jump while the queue waits


class Worker:
    """Runs functions on the store's thread, one after the other. The event loop only moves bytes."""

    def __init__(self, executor: ThreadPoolExecutor, store: Store) -> None:
        self._executor = executor
        self._store = store
        self._pending: list[tuple[float, str, str, str]] = []

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.wrap_future(self._executor.submit(function, *args, **kwargs))

    async def run_flushed(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """As `run`, after all noted arrivals are stored."""
        await self.run(self._flush)
        return await self.run(function, *args, **kwargs)

    def wait(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """As `run_flushed`, for callers that can't await."""
        self._executor.submit(self._flush).result()
        return self._executor.submit(function, *args, **kwargs).result()

    async def note(self, at: float, kind: str, answer: str, broken: str) -> None:
        """Note an arrival. It is stored before the ledger is read next."""
        self._pending.append((at, kind, answer, broken))
        if len(self._pending) >= MOST_PENDING:
            await self.run(self._flush)

    def _flush(self) -> None:
        pending, self._pending = self._pending, []
        self._store.note(pending)


class Pump:
    """Applies each batch of the queue when it is due, one at a time, between requests."""

    def __init__(self, worker: Worker, store: Store, queue: Queue, clock: Callable[[], float]) -> None:
        self._worker = worker
        self._store = store
        self._queue = queue
        self._clock = clock
        self._arrived = asyncio.Event()
        self._empty = asyncio.Event()
        self._failure: Exception | None = None

    def wake(self) -> None:
        """Say that a batch was enqueued."""
        if self._failure is None:
            self._empty.clear()
        self._arrived.set()

    async def run(self) -> None:
        """Run until cancelled. If it fails, everyone who waits for the queue gets the error."""
        try:
            await self._run()
        except Exception as error:
            self._failure = error
            self._empty.set()
            raise

    async def _run(self) -> None:
        while True:
            self._arrived.clear()
            if await self._worker.run(self._queue.apply_next, self._clock()):
                continue
            due = await self._worker.run(self._store.next_due)
            if due is None and not self._arrived.is_set():
                self._empty.set()
                await self._arrived.wait()
            elif due is not None:
                await self._poll(due - self._clock())

    async def empty(self, timeout: float) -> bool:
        """Wait until the queue is empty, at most `timeout` seconds. Return whether it is."""
        try:
            async with asyncio.timeout(timeout):
                await self._empty.wait()
        except TimeoutError:
            return False
        if self._failure is not None:
            raise RuntimeError("a batch could not be applied, so the queue stands still") from self._failure
        return True

    async def _poll(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, min(seconds, POLL))):
                await self._arrived.wait()
        except TimeoutError:
            pass
