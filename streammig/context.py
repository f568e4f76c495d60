"""What everything that works on a run is given: time, dice, the way to say something, and when to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from threading import Event
from typing import Any, TypeVar

from streammig.clock import Clock
from streammig.telemetry import Notify

T = TypeVar("T")


class Stop(asyncio.Event):
    """Set where no new request is to be made. It tells whoever waits for something else meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[object, Callable[[], None]] = {}

    def set(self) -> None:
        if not self.is_set():  # whoever was told once is on its way
            super().set()
            for tell in tuple(self._told.values()):
                tell()

    @contextmanager
    def telling(self, tell: Callable[[], None]) -> Iterator[None]:
        """Call `tell` when it is set, as long as the block lasts."""
        me = object()
        self._told[me] = tell
        try:
            yield
        finally:
            del self._told[me]


@dataclass(frozen=True, slots=True)
class Times:
    """What a target is given to do its work, in seconds."""

    settle: float  # for its queue to come to what it accepted
    visible: float  # until what it accepted can be seen, at most


@dataclass(frozen=True, slots=True)
class Context:
    """Made once a run, and passed to whoever needs it."""

    clock: Clock
    rng: Random
    notify: Notify
    stop: Stop
    times: Times

    @property
    def stopping(self) -> bool:
        return self.stop.is_set()

    def now(self) -> float:
        """Seconds since the epoch, UTC."""
        return self.clock.time()

    async def until_stopped(
        self, waiting: Coroutine[Any, Any, T], unless: Callable[[], bool] = lambda: False
    ) -> T | None:
        """As `until_stopped`, for the stop of this run."""
        return await until_stopped(self.stop, waiting, unless)

    async def pause(self, seconds: float) -> bool:
        """Wait so long; False if the run is to stop."""
        if seconds > 0:
            await self.until_stopped(asyncio.sleep(seconds))
        return not self.stop.is_set()


async def in_thread(executor: Executor, work: Callable[[], T], halt: Event) -> T:
    """Do `work` in a thread. A cancel sets `halt`, and waits until the work has ended: it may use what the caller is
    about to close."""
    done = asyncio.get_running_loop().run_in_executor(executor, work)
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        halt.set()
        await asyncio.gather(done, return_exceptions=True)
        raise


async def until_stopped(
    stop: Stop, waiting: Coroutine[Any, Any, T], unless: Callable[[], bool] = lambda: False
) -> T | None:
    """The result of `waiting`. As soon as `stop` is set, it is cancelled, and None is returned; but if `unless` is true
    then, it goes on.

    It runs in the caller's task, as within `asyncio.timeout`: a task of its own each time costs more than most waits.
    """
    if stop.is_set():
        waiting.close()
        return None
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    cancelled, before = False, task.cancelling()
    due: asyncio.Handle | None = None

    def give_up() -> None:
        nonlocal cancelled
        if not unless():
            cancelled = task.cancel()

    def stopped() -> None:
        nonlocal due
        due = loop.call_soon(give_up)  # never from within the task itself: it would be cancelled at some later wait

    with stop.telling(stopped):
        try:
            return await waiting
        except asyncio.CancelledError:
            if cancelled and task.cancelling() <= before + 1:
                return None
            raise
        finally:
            if due is not None:
                due.cancel()
            if cancelled:
                task.uncancel()
