"""The rate limiter: who may start a request now, first come first served, within every window of the limits."""

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

# 1.7 % of a window is always given to the link's jitter, up to 85 ms: the 5 s gap then survives a jitter of 80 ms
# and 98.3 % of its requests are made.
SHARE = 0.017
WIDEST = 0.085
# Shorter windows get what the link was seen to need: this much, and a fifth more than the spread of what was seen.
NARROWEST = 0.010
ENOUGH = 8  # observations before they are believed
LONGEST_LEAD = 0.25
# A permit that was given back, or a margin that narrowed, is noticed by those who wait after this many seconds.
LONGEST_SLEEP = 60.0
ORDERS = 5.0  # seconds after which new orders of the operator end a sleep
CAUSES = {
    HOURS: "the timetable lets no request begin",
    "held": "the target asked this account to wait",
    "quota": "by the headers of the target's answers no migration request is left",
}
FREE = 0.5  # seconds for which one look at the account's file serves all requests, where no window counts them
SHORT = 2.0  # a wait of up to so many seconds is not told


class _Link:
    """The times of recent requests: from permit to first byte (`delays`), from first byte to answer (`latencies`)."""

    def __init__(self) -> None:
        self.delays: deque[float] = deque(maxlen=64)
        self.latencies: deque[float] = deque(maxlen=64)

    @property
    def lead(self) -> float:
        """How long before its first byte a permit may be given, in seconds: no recent request was faster."""
        return min(LONGEST_LEAD, *self.delays) if len(self.delays) >= ENOUGH else 0.0

    def margin(self, seconds: float) -> float:
        """The seconds to add to a window of `seconds`."""
        seen = [max(few) - min(few) for few in (self.delays, self.latencies) if len(few) >= ENOUGH]
        needed = NARROWEST + 1.2 * max(seen) if seen else WIDEST
        return min(WIDEST, max(SHARE * seconds, needed))


class Permit:
    """The right to make one request now. Say `sent` when its first byte leaves, or `unsent` when none did.

    Until then others must assume that it may leave any moment, and wait (15 s at most). Only the first call counts.
    """

    def __init__(self, limiter: RateLimiter, start: int, granted: float) -> None:
        self._limiter = limiter
        self._start = start
        self._granted = granted
        self._said = False

    def sent(self) -> None:
        """The first byte leaves now. Fits `Client.send(began=…)`."""
        if not self._said:
            self._said = True
            self._limiter._sent(self._start, self._granted)

    def unsent(self) -> None:
        """Nothing left: the permit is free for another request."""
        if not self._said:
            self._said = True
            self._limiter._write(self._limiter.state.give_back, self._start)


class _Line:
    """The waiters of one kind, in order. The first one asks for all of them, so that they share a commit."""

    def __init__(self) -> None:
        self.waiters: deque[asyncio.Future[Permit]] = deque()
        self.first = asyncio.Lock()


class RateLimiter:
    """Hands out permits within the limits, together with every other process that has the account's file open.

    Make it inside the running loop: the account's time is read once, then the loop's own clock counts, so that setting
    the clock changes nothing. `executor` must have one thread (all use of the file goes through it). `interval` spreads
    reads, in seconds, whatever the limits allow. `notify` hears once of each wait of more than two seconds, but not of
    the gap between two requests, which is the pace itself. `orders` is the folder of the operator's orders. `hours`
    tell when to send, and at which share of the limits. Raises `MachineFault` where the file can't be written: then
    nothing may be sent.
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
        self._has_quota = True  # whether migration requests are left, by the last answer whose headers say so
        self._told = 0.0  # the end of the wait that was told last
        # By the loop's clock: until when no request need ask, and when the target last asked this process to wait.
        self._free_until: dict[RequestKind, float] = {}
        self._asked_to_wait = -math.inf

    @property
    def limits(self) -> Limits:
        """The limits that this run keeps to now."""
        return self.steering.limits

    def now(self) -> float:
        """The account's own time, in seconds since the epoch."""
        return self._begun + self._loop.time()

    async def enter(self, run_id: str, starts: Sequence[float] = ()) -> str:
        """Begin a run on a checkpoint whose fence is held; returns what a person should know, or "".

        `starts` are the requests that the checkpoint knows, in seconds since the epoch.
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
        """Wait for a permit and take it, durably. First come, first served within a kind. On cancel none is taken."""
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
        """Sleep for so many seconds, or until there is reason to ask again."""
        # A timer may be a microsecond early; asking again at once would only burn.
        end = self._loop.time() + min(LONGEST_SLEEP, max(0.001, seconds))
        while (left := end - self._loop.time()) > 0 and not self.steering.look():  # noqa: ASYNC110  # of another process
            await asyncio.sleep(min(left, ORDERS))

    async def read(self) -> None:
        """Take a general permit, for a caller that reports neither `sent` nor `unsent`."""
        await self.acquire("general")

    async def release(self, run_id: str) -> None:
        """What this checkpoint was given may be given to another one."""
        await self._do(self.state.release, run_id)

    def all_sent(self) -> None:
        """This run sends nothing any more: its reads are not spread any longer, within the limits."""
        self._reads = None

    def _tell(self, kind: RequestKind, taken: Taken) -> None:
        """Tell the reason and the length of a wait, once, however many wait."""
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
        """How many reads the general windows have left now; infinite without such windows."""
        now = self.now()
        uses = (await self._do(self.state.starts, self.limits, now)).usage(self.limits, now)
        return min((use.left for use in uses if use.kind == "general"), default=math.inf)

    async def _serve(self, kind: RequestKind, line: _Line) -> Taken:
        """Ask for everyone in the line. The result says how long the first must wait if it got nothing."""
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
            if waiter.cancelled():  # while its start was being written
                self._write(self.state.give_back, start)
            else:
                line.waiters.remove(waiter)
                waiter.set_result(Permit(self, start, asked))
        if stopped is not None:
            raise stopped
        return taken

    def answered(self, latency: float) -> None:
        """Note that a request was answered `latency` seconds after its first byte: it shows the link's jitter."""
        self._link.latencies.append(latency)

    async def pause_for(self, seconds: float, status: int = 429) -> None:
        """Make the whole account wait this long, also over a restart, because an answer of this status asked for it.
        Raises `TargetStop` where that is more than a day."""
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
        """The target said 429 although the windows allowed the request: widen the margin, for every process."""
        await self._do(self.state.on_429, self.now())

    async def observe(
        self, limit: float | None, remaining: float | None, reset: float | None, age: float = 0.0
    ) -> None:
        """Obey the rate headers of an answer to a migration request that left `age` seconds ago. `reset` is in seconds
        from now.

        Headers may only slow migration requests down, and for no longer than the longest window. The answer to a later
        request that has some left ends that. Headers that only repeat a gap (a window of one request) of these limits
        change nothing: their reset counts from the answer, the gap from the start of the request.
        """
        sent = self.now() - age
        if remaining is not None and remaining > 0 and not self._has_quota:
            self._has_quota = True
            await self._do(self.state.quota_left, sent)
        if remaining is None or reset is None or remaining > 0 or reset <= 0:
            return
        windows = (*self.limits.migration, *self.limits.general)
        # The header counts whole seconds, rounded up.
        if not any(window.count == limit == 1 and math.ceil(window.seconds) >= reset for window in windows):
            self._has_quota = False
            await self._do(self.state.quota_spent, self.now() + min(reset, self.limits.longest), sent)

    async def close(self) -> None:
        """Wait until every pending write is done. Whoever opened the file closes it."""
        while self._writes:
            await asyncio.wait(self._writes)

    def _sent(self, start: int, granted: float) -> None:
        self._link.delays.append(self._loop.time() - granted)
        if start:
            self._write(self.state.sent, start, self.now())

    def _write(self, function: Callable[..., None], *args: object) -> None:
        """Begin a write that only `close` waits for."""
        write = self._loop.run_in_executor(self._executor, function, *args)
        self._writes.add(write)
        write.add_done_callback(self._written)

    def _written(self, write: asyncio.Future[None]) -> None:
        self._writes.discard(write)
        # A start whose write fails counts for longer than needed, which is safe. A full disk stops the next request,
        # because that waits for its write.
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
    """Wait for a thread's work, which can't be stopped; returns a cancel that came meanwhile."""
    stopped = None
    while not work.done():
        try:
            await asyncio.wait((work,))
        except asyncio.CancelledError as error:
            stopped = error
    return stopped
