"""The rate limiter: gives permits to start a request, first come first served, within every window of the limits."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TypeVar

from aiolimiter import AsyncLimiter

from streammig.clock import Clock
from streammig.errors import Problem, TargetStop, counted
from streammig.ratelimit.hours import Hours
from streammig.ratelimit.limits import OFF, Limits, RequestKind
from streammig.ratelimit.orders import orders_path
from streammig.ratelimit.state import LONGEST_HOLD, AccountState, Pace, Taken
from streammig.ratelimit.steering import HOURS, Steering
from streammig.telemetry import Notify, Waiting, ignore

T = TypeVar("T")

# All times are in seconds. The margin for the link's jitter is at least 1.7 % of a window, and at most 85 ms: a gap of
# 5 s then survives a jitter of 80 ms, and 98.3 % of its requests are made.
SHARE = 0.017
WIDEST = 0.085
# Shorter windows get what the link needs: this much, and 1.2 times the observed spread.
NARROWEST = 0.010
ENOUGH = 8  # observations before they count
LONGEST_LEAD = 0.25
LONGEST_SLEEP = 60.0  # then a waiter asks again: a permit may be free, or the margin narrower
ORDERS = 5.0  # after so long, new orders of the operator end a sleep
CAUSES = {
    HOURS: "the timetable allows no requests now",
    "held": "the target asked this account to wait",
    "quota": "the headers of the target's answers say that no migration request is left",
}
FREE = 0.5  # how long one look at the account's file serves requests that no window counts
SHORT = 2.0  # a wait up to this long is not notified


class _Link:
    """The times of recent requests: from permit to first byte (`delays`), from first byte to answer (`latencies`)."""

    def __init__(self) -> None:
        self.delays: deque[float] = deque(maxlen=64)
        self.latencies: deque[float] = deque(maxlen=64)

    @property
    def lead(self) -> float:
        """The least time from permit to first byte, in seconds: a permit may be given so much earlier."""
        return min(LONGEST_LEAD, *self.delays) if len(self.delays) >= ENOUGH else 0.0

    def margin(self, seconds: float) -> float:
        """Return the seconds to add to a window of `seconds`."""
        seen = [max(few) - min(few) for few in (self.delays, self.latencies) if len(few) >= ENOUGH]
        needed = NARROWEST + 1.2 * max(seen) if seen else WIDEST
        return min(WIDEST, max(SHARE * seconds, needed))


class Permit:
    """The right to make one request now. Call `sent` when its first byte leaves, or `unsent` if none leaves.

    Until then the request counts as made now, for 15 s at most, and others wait. Only the first call counts.
    """

    def __init__(self, limiter: RateLimiter, start: int, granted: float) -> None:
        self._limiter = limiter
        self._start = start
        self._granted = granted
        self._used = False

    def sent(self) -> None:
        """Note that the first byte leaves now. Fits `Client.send(began=…)`."""
        if not self._used:
            self._used = True
            self._limiter._sent(self._start, self._granted)

    def unsent(self) -> None:
        """Give the permit back for another request."""
        if not self._used:
            self._used = True
            self._limiter._write(self._limiter.state.give_back, self._start)


class _Line:
    """The waiters of one kind, in order. The first asks for permits for all of them, so that they share a commit."""

    def __init__(self) -> None:
        self.waiters: deque[asyncio.Future[Permit]] = deque()
        self.first = asyncio.Lock()


class RateLimiter:
    """Gives permits within the limits, shared with all processes that have the account's file open.

    Needs a running event loop: the account's time is read once, then the loop's clock counts, so that setting the clock
    changes nothing. `executor` must have one thread; all use of the file goes through it. `interval` is the least time
    between reads, in seconds. `notify` hears once of each wait of more than two seconds, but not of the gap between two
    requests. `orders` is the folder of the operator's orders, `hours` the timetable. Raises `MachineFault` if the file
    can't be written: then nothing may be sent.
    """

    def __init__(
        self,
        state: AccountState,
        limits: Limits,
        clock: Clock,
        executor: Executor,
        interval: float = 0.2,
        notify: Notify = ignore,
        orders: Path | None = None,
        hours: Hours | None = None,
    ) -> None:
        self.state = state
        self._orders = orders
        self.steering = Steering(limits, clock, notify, hours)
        self._executor = executor
        self._loop = asyncio.get_running_loop()
        self._notify = notify
        wall = clock.time()
        now = state.time(wall, clock.boot())
        self._ahead = now - wall
        self._begun = now - self._loop.time()
        self._link = _Link()
        self._lines: dict[RequestKind, _Line] = {"migration": _Line(), "general": _Line()}
        self._reads = AsyncLimiter(1, interval) if interval and limits != OFF else None
        self._writes: set[asyncio.Future[None]] = set()
        self._run_id = ""
        self._has_quota = True  # whether migration requests are left, by the last headers
        self._told = 0.0  # the end of the last wait that was notified
        # By the loop's clock: until when uncounted requests need not ask, and when the target last asked to wait.
        self._free_until: dict[RequestKind, float] = {}
        self._asked_to_wait = -math.inf

    @property
    def limits(self) -> Limits:
        """The limits in force now."""
        return self.steering.limits

    def now(self) -> float:
        """Return the account's own time, in seconds since the epoch."""
        return self._begun + self._loop.time()

    async def enter(self, run_id: str, starts: Sequence[float] = ()) -> str:
        """Begin a run of a checkpoint; the caller holds its fence. Returns a warning for people, or "".

        `starts` are the times of the requests that the checkpoint knows, in seconds since the epoch.
        """
        self._run_id = run_id
        if self._orders is not None:
            self.steering.follow(orders_path(self._orders, run_id))
        future = await self._do(self.state.enter, run_id, [at + self._ahead for at in starts], self.now())
        if not future:
            return ""
        return (
            f"{counted(future, 'request')} of this account {'lies' if future == 1 else 'lie'} in the future: the clock"
            " was set back. Those requests count as made now, so the first one of this run may wait longer."
        )

    async def acquire(self, kind: RequestKind = "migration") -> Permit:
        """Wait for a permit and take it durably, first come first served within a kind. A cancel takes none."""
        if kind == "general" and self._reads is not None:
            await self._reads.acquire()
        uncounted = not any(self.limits.counted(kind))
        if uncounted and self._loop.time() < self._free_until.get(kind, 0.0) and self.steering.closed(kind) is None:
            return Permit(self, 0, self._loop.time())
        line, begun = self._lines[kind], self._loop.time()
        mine: asyncio.Future[Permit] = self._loop.create_future()
        line.waiters.append(mine)
        try:
            async with line.first:
                while not mine.done():
                    taken = await self._serve(kind, line)
                    if not mine.done():
                        self._tell(kind, taken)
                        await self._rest(taken.wait)
        except BaseException:
            if mine.done():
                self._write(self.state.give_back, mine.result()._start)
            else:
                mine.cancel()
                line.waiters.remove(mine)
            raise
        if uncounted and begun > self._asked_to_wait:
            self._free_until[kind] = begun + FREE
        return mine.result()

    async def _rest(self, seconds: float) -> None:
        """Sleep for so many seconds, or until new orders come."""
        # At least 1 ms: a timer may fire a microsecond early, and asking again at once would only burn CPU.
        end = self._loop.time() + min(LONGEST_SLEEP, max(0.001, seconds))
        while (left := end - self._loop.time()) > 0 and not self.steering.look():  # noqa: ASYNC110  # of another process
            await asyncio.sleep(min(left, ORDERS))

    async def read(self) -> None:
        """Take a general permit for a read; the caller need not report `sent` or `unsent`."""
        await self.acquire("general")

    async def release(self, run_id: str) -> None:
        """Give up the checkpoint's claims on exports."""
        await self._do(self.state.release, run_id)

    def all_sent(self) -> None:
        """Stop spreading reads: this run sends nothing any more. The limits still hold."""
        self._reads = None

    def _tell(self, kind: RequestKind, taken: Taken) -> None:
        """Notify the reason and the length of a wait, once for all waiters."""
        self._has_quota = self._has_quota and taken.cause != "quota"
        end = self.now() + taken.wait
        pace = any(window.count == 1 and taken.cause == str(window) for _, window in self.limits.counted(kind))
        if taken.wait <= SHORT or pace or abs(end - self._told) < SHORT:
            return
        self._told = end
        full = f"the limit {taken.cause} of {kind} requests is used up"
        code = taken.cause if taken.cause in CAUSES else "limit"
        self._notify(Waiting(code, CAUSES.get(code, full), taken.wait))

    async def spare(self) -> float:
        """Return how many reads the general windows have left now; infinity without such windows."""
        now = self.now()
        uses = (await self._do(self.state.starts, self.limits, now)).usage(self.limits, now)
        return min((use.left for use in uses if use.kind == "general"), default=math.inf)

    async def _serve(self, kind: RequestKind, line: _Line) -> Taken:
        """Take permits for all waiters in the line; the result says how long the first must wait if there are none."""
        if (closed := self.steering.closed(kind)) is not None:
            return Taken((), *closed)
        asking, asked = tuple(line.waiters), self._loop.time()
        margins = tuple(self._link.margin(window.seconds) for _, window in self.limits.counted(kind))
        pace = Pace(self.limits, margins, self._link.lead)
        work = self._loop.run_in_executor(
            self._executor, self.state.take, kind, len(asking), pace, self.now(), self._run_id
        )
        stopped = await _finished(work)
        taken = work.result()
        for waiter, start in zip(asking, taken.starts, strict=False):
            if waiter.cancelled():  # it was cancelled while its start was written
                self._write(self.state.give_back, start)
            else:
                line.waiters.remove(waiter)
                waiter.set_result(Permit(self, start, asked))
        if stopped is not None:
            raise stopped
        return taken

    def answered(self, latency: float) -> None:
        """Note the seconds from a request's first byte to its answer: they show the link's jitter."""
        self._link.latencies.append(latency)

    async def pause_for(self, seconds: float, status: int = 429) -> None:
        """Make the whole account wait this many seconds, also over a restart, because an answer asked for it.

        Raises `TargetStop` for more than a day.
        """
        if seconds > LONGEST_HOLD:
            raise TargetStop(
                "retry-after-too-long",
                f"the target answered {status} and asks to wait {seconds / 3600:.1f} hours",
                "Run the same command after that time. Nothing is lost or sent twice.",
            )
        until = self.now() + max(0.0, seconds)
        self._free_until, self._asked_to_wait = {}, self._loop.time()
        self._told = max(self._told, until)
        reason = f"the target answered {status} and asked to wait"
        self._notify(Waiting("throttled" if status == 429 else "asked-to-wait", reason, seconds))
        await self._do(self.state.hold, until)

    async def on_429(self) -> None:
        """Widen the margin of every process: the target answered 429 although the windows allowed the request."""
        await self._do(self.state.on_429, self.now())

    async def observe(
        self, limit: float | None, remaining: float | None, reset: float | None, age: float = 0.0
    ) -> None:
        """Obey the rate headers of the answer to a migration request that left `age` seconds ago.

        `reset` is in seconds from now. Headers only slow migration requests down, at most for the longest window. The
        answer to a later request with some left ends that. Headers that repeat a window of one request are ignored:
        their reset counts from the answer, ours from the start of the request.
        """
        sent = self.now() - age
        if remaining is not None and remaining > 0 and not self._has_quota:
            self._has_quota = True
            await self._do(self.state.quota_left, sent)
        if remaining is None or reset is None or remaining > 0 or reset <= 0:
            return
        windows = (*self.limits.migration, *self.limits.general)
        # The header has whole seconds, rounded up.
        if not any(window.count == limit == 1 and math.ceil(window.seconds) >= reset for window in windows):
            self._has_quota = False
            await self._do(self.state.quota_spent, self.now() + min(reset, self.limits.longest), sent)

    async def close(self) -> None:
        """Wait for all pending writes. The caller closes the file."""
        while self._writes:
            await asyncio.wait(self._writes)

    def _sent(self, start: int, granted: float) -> None:
        self._link.delays.append(self._loop.time() - granted)
        if start:
            self._write(self.state.sent, start, self.now())

    def _write(self, function: Callable[..., None], *args: object) -> None:
        """Start a write; only `close` waits for it."""
        write = self._loop.run_in_executor(self._executor, function, *args)
        self._writes.add(write)
        write.add_done_callback(self._written)

    def _written(self, write: asyncio.Future[None]) -> None:
        self._writes.discard(write)
        # After a failed write a start counts longer than needed, which is safe. A full disk stops the next request,
        # which waits for its own write.
        with contextlib.suppress(Problem, asyncio.CancelledError):
            write.result()

    async def _do(self, function: Callable[..., T], *args: object) -> T:
        work = self._loop.run_in_executor(self._executor, function, *args)
        stopped = await _finished(work)
        result = work.result()
        if stopped is not None:
            raise stopped
        return result


async def _finished(work: asyncio.Future[T]) -> asyncio.CancelledError | None:
    """Wait for a thread's work, which can't be stopped; return a cancel that came meanwhile."""
    stopped = None
    while not work.done():
        try:
            await asyncio.wait((work,))
        except asyncio.CancelledError as error:
            stopped = error
    return stopped
