"""An event loop whose time jumps to the next timer when nothing is ready, and the wall clock that goes with it."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from functools import partial
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Any, TypeVar

from streammig.clock import Boot

T = TypeVar("T")
Story = Callable[..., Coroutine[Any, Any, None]]

# Any fixed moment will do; this one makes a test's wall times recognisable (2023-11-14T22:13:20Z).
EPOCH = 1_700_000_000.0

# Real timers are late by a little. Waking at exactly the moment asked for, aiolimiter is left with a rounding error
# of 1e-16 of a slot still to wait for, which no jump would ever cover.
LATE = 1e-6


class Stuck(RuntimeError):
    """Nothing is ready, no timer is set and no executor is at work: the test would wait for ever."""


class _Selector(selectors.DefaultSelector):  # an alias, chosen by platform
    """Polls instead of waiting, and moves the loop's time by what it would have waited."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> Any:
        loop = self.loop
        ready = super().select(loop.grace)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if loop.busy:
            # Real work is under way in a thread: wait for it (it wakes the loop through its own socket), however
            # long that takes, without letting virtual time pass.
            return super().select(None)
        if timeout is None:
            raise Stuck("nothing is ready, no timer is set, no executor is at work")
        loop.elapsed += timeout + LATE
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time stands still while anything is ready or an executor is busy, else it jumps to the next timer.

    Meant for systems without sockets: on real ones time would jump while bytes are on their way.
    """

    def __init__(self) -> None:
        self.elapsed = 0.0
        self.busy = 0
        self.grace = 0.0  # real seconds for bytes on their way, where there are sockets
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.elapsed

    def run_in_executor(  # type: ignore[override]  # typeshed gives it a TypeVarTuple, which helps nobody here
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        if executor is None:
            raise TypeError("pass an executor: one that belongs to nobody can't be waited for")
        self.busy += 1
        work = executor.submit(func, *args)
        # asyncio's own callback is added first, so the awaiting task is ready before time may jump again. Counting
        # by the executor's future rather than by asyncio's keeps a cancelled call counted while its thread works.
        future = asyncio.wrap_future(work, loop=self)
        work.add_done_callback(self._finished)
        return future

    def _finished(self, _: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            self.call_soon_threadsafe(self._idle)

    def _idle(self) -> None:
        self.busy -= 1


class Inline(Executor):
    """Does everything at once in the loop's own thread: many times faster where no parallel work is to be tested."""

    def submit(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:  # it belongs to whoever awaits the future
            future.set_exception(error)
        return future


class VirtualClock:
    """The wall clock of a virtual loop; `jump` sets it forward or back, as an operator or NTP would."""

    start = "first"  # of the machine; another one is a reboot

    def __init__(self, start: float = EPOCH) -> None:
        self._loop = asyncio.get_running_loop()
        self._offset = start - self._loop.time()

    def time(self) -> float:
        return self._loop.time() + self._offset

    def boot(self) -> Boot:
        return Boot(self.start, self._loop.time())

    def jump(self, seconds: float) -> None:
        self._offset += seconds


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a virtual loop of its own, from time 0 on; raises `Stuck` where it would never end."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def teller(tell: Callable[..., None], given: int) -> Callable[..., Callable[[Story], Callable[..., None]]]:
    """Makes a decorator under which a test is the story itself, that `tell(tmp_path, story, …)` tells.

    The decorator's arguments go to `tell`. The first `given` parameters of the test are what `tell` gives the story,
    the others are fixtures.
    """

    def told(*arguments: Any, **more: Any) -> Callable[[Story], Callable[..., None]]:
        def made(story: Story) -> Callable[..., None]:
            asked = list(signature(story).parameters.values())[given:]
            names = [it.name for it in asked]

            def test(tmp_path: Path, **fixtures: Any) -> None:
                known = {"tmp_path": tmp_path} | fixtures
                tell(tmp_path, partial(story, **{name: known[name] for name in names}), *arguments, **more)

            place = [Parameter("tmp_path", Parameter.POSITIONAL_OR_KEYWORD)] if "tmp_path" not in names else []
            test.__signature__ = Signature([*place, *asked])  # type: ignore[attr-defined]
            test.__name__, test.__doc__, test.__module__ = story.__name__, story.__doc__, story.__module__
            return test

        return made

    return told


def _alone(folder: Path, story: Story) -> None:
    run_virtual(story())


virtual = teller(_alone, 0)
