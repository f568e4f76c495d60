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

from streammig.context import Clock
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
    "quota": "the headers of its answers say that the target takes no migration request before",
}
SHORT = 2.0  # a wait of up to so many seconds is not told


class _Link:
    """What requests were seen to need: from their permit to their first byte (`delays`), from there to the answer."""

    def __init__(self) -> None:
        self.delays: deque[float] = deque(maxlen=64)
        self.latencies: deque[float] = deque(maxlen=64)

    @property
    def lead(self) -> float:
        """How long before its first byte a request may be allowed: no recent one was faster."""
        return min(LONGEST_LEAD, *self.delays) if len(self.delays) >= ENOUGH else 0.0

    def margin(self, seconds: float) -> float:
        """What to add to a window of that many seconds."""
        seen = [max(few) - min(few) for few in (self.delays, self.latencies) if len(few) >= ENOUGH]
        needed = NARROWEST + 1.2 * max(seen) if seen else WIDEST
        return min(WIDEST, max(SHARE * seconds, needed))


class Permit:
    """The right to make one request now. Say `sent` when its first byte leaves, or `unsent` when none did.

    Until then others must assume that it leaves any moment, and wait (15 s at most). Only the first word counts.
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
    """Those of one kind who wait, in order; the first one asks for all of them, so that commits are shared."""

    def __init__(self) -> None:
        self.waiters: deque[asyncio.Future[Permit]] = deque()
        self.first = asyncio.Lock()


class RateLimiter:
    """Hands out permits within the limits, together with every other process that has the account's file open.

    Make it inside the running loop: the account's time is read once, then the loop's own clock counts, so that setting
    the clock changes nothing. `executor` must have one thread (all use of the file goes through it). `interval` spreads
    reads, in seconds, whatever the limits allow. `notify` hears of each wait of more than two seconds, once, but for
    the gap between two requests, which is the pace itself. `orders` is the folder of those that an operator
    gives, `hours` tell when to send, and at which share of the limits. Raises `MachineFault` where the file can't be
    written: then nothing may be sent.
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
        self._words: set[asyncio.Future[None]] = set()
        self._run_id = ""
        self._has_quota = True  # whether migration requests are left, by the last answer whose headers say so
        self._told = 0.0  # the end of the wait that was told last

    @property
    def limits(self) -> Limits:
        """Those that this run keeps to now."""
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
        line = self._lines[kind]
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
        return mine.result()

    async def _rest(self, seconds: float) -> None:
        """Sleep for so many seconds, or until there is reason to ask again."""
        # A timer may be a microsecond early; asking again at once would only burn.
        end = self._loop.time() + min(LONGEST_SLEEP, max(0.001, seconds))
        while (left := end - self._loop.time()) > 0 and not self.steering.look():  # noqa: ASYNC110  # of another process
            await asyncio.sleep(min(left, ORDERS))

    async def read(self) -> None:
        """A general permit, for who has nothing to say about it afterwards."""
        await self.acquire("general")

    def _tell(self, kind: RequestKind, taken: Taken) -> None:
        """Say what is waited for, and until when; once, however many wait for it."""
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
        """Ask for everyone in the line; what came of it says how long the first must wait if it got nothing."""
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
        """A request was answered that many seconds after its first byte left: tells how much the link jitters."""
        self._link.latencies.append(latency)

    async def pause_for(self, seconds: float, status: int = 429) -> None:
        """The whole account waits this long, also over a restart: an answer with this status asked for it. Raises
        `TargetStop` where that is more than a day."""
        if seconds > LONGEST_HOLD:
            raise TargetStop(
                "retry-after-too-long",
                f"the target answered {status} and asks to wait {seconds / 3600:.1f} hours",
                "Run the same command then; nothing is lost or sent twice.",
            )
        until = self.now() + max(0.0, seconds)
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
        """Rate headers of the answer to a migration request that left `age` seconds ago, `reset` in seconds from now.
        They may only slow such requests down, and not for longer than the longest window; a later request whose answer
        has some left ends that.

        A gap (a window of one request) that we keep anyway slows nothing: its reset is counted from the answer, ours
        from the start.
        """
        sent = self.now() - age
        if remaining is not None and remaining > 0 and not self._has_quota:
            self._has_quota = True
            await self._do(self.state.has_quota, sent)
        if remaining is None or reset is None or remaining > 0 or reset <= 0:
            return
        windows = (*self.limits.migration, *self.limits.general)
        # The header counts whole seconds, rounded up.
        if not any(window.count == limit == 1 and math.ceil(window.seconds) >= reset for window in windows):
            self._has_quota = False
            await self._do(self.state.quota, self.now() + min(reset, self.limits.longest), sent)

    async def close(self) -> None:
        """Wait until everything that was said is written. The file is closed by who opened it."""
        while self._words:
            await asyncio.wait(self._words)

    def _sent(self, start: int, granted: float) -> None:
        self._link.delays.append(self._loop.time() - granted)
        if start:
            self._write(self.state.sent, start, self.now())

    def _write(self, function: Callable[..., None], *args: object) -> None:
        """Write a word that nobody waits for; `close` does."""
        word = self._loop.run_in_executor(self._executor, function, *args)
        self._words.add(word)
        word.add_done_callback(self._written)

    def _written(self, word: asyncio.Future[None]) -> None:
        self._words.discard(word)
        # Without its word a start counts for longer than it need, which is safe; a disk that is really full stops
        # the next request, where somebody waits for the answer.
        with contextlib.suppress(Problem, asyncio.CancelledError):
            word.result()

    async def _do(self, function: Callable[..., T], *args: object) -> T:
        work = self._loop.run_in_executor(self._executor, function, *args)
        stopped = await _finished(work)
        result = work.result()
        if stopped is not None:
            raise stopped
        return result


async def _finished(work: asyncio.Future[T]) -> asyncio.CancelledError | None:
    """Wait for what a thread is doing and can't be stopped; a cancel that comes meanwhile is handed back."""
    stopped = None
    while not work.done():
        try:
            await asyncio.wait((work,))
        except asyncio.CancelledError as error:
            stopped = error
    return stopped
