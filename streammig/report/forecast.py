"""Forecasts when a migration ends: from the requests left, every window of the limits, and the settle times."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from streammig.ratelimit import Hours, Limits, RequestKind, Starts, Window, part_of

STEPS = 3_000  # requests that are played one by one; later ones repeat the slowest window
READ = 0.2  # seconds between two reads, at least
# What the rate limiter adds to a window: a share of it, and at least and at most so many seconds.
MARGIN, NARROWEST, WIDEST = 0.017, 0.010, 0.085


class Leg(NamedTuple):
    """What is left of one stage."""

    requests: float  # to be made
    settle: float = 0.0  # seconds behind the last of them
    reads: int = 0  # requests for samples behind that
    settled: float = -math.inf  # when its last batch was accepted, in seconds since the epoch


class Forecast(NamedTuple):
    """Seconds since the epoch: when the next request may start, and when each leg ends."""

    next: float
    ends: tuple[float, ...]


def forecast(
    legs: Sequence[Leg], limits: Limits, starts: Starts, now: float, latency: float, lanes: int,
    hours: Hours | None = None,
) -> Forecast:  # fmt: skip
    """Play the requests that are left against the limits, one stage after the other.

    `starts` are the requests that the windows remember. At most `lanes` requests are under way at once, each for
    `latency` seconds: that is one more window. `hours` tell when to send, and at which share of the limits.
    """
    clock = _Clock(limits, starts, now, Window(lanes, latency) if latency > 0 else None, hours)
    first = clock.peek()
    ends = []
    for leg in legs:
        done = leg.settled
        if leg.requests > 0:
            clock.take(math.ceil(leg.requests), "migration")
            clock.now += latency
            done = clock.now
        clock.now = max(clock.now, done + leg.settle)
        begun = clock.now
        clock.take(leg.reads, "general")
        clock.now = max(clock.now, begun + leg.reads * READ)
        ends.append(clock.now)
    return Forecast(first, tuple(ends))


class _Clock:
    """Time as the limits let it pass: each request starts as soon as every window allows it."""

    def __init__(self, limits: Limits, starts: Starts, now: float, lane: Window | None, hours: Hours | None) -> None:
        self.now = now
        self._hold = starts.hold
        self._limits = limits
        self._lane = lane
        self._hours = hours
        # A window of kind "general" counts all requests.
        known: tuple[tuple[RequestKind, Sequence[float], tuple[Window, ...]], ...] = (
            ("migration", starts.migration, limits.migration),
            ("general", starts.general, limits.general),
        )
        self._made = {kind: deque(made, max((it.count for it in windows), default=1)) for kind, made, windows in known}
        self._share, self._until = 1.0, math.inf
        self._windows: list[tuple[RequestKind, float, deque[float]]] = []
        self._turn()

    def _turn(self) -> None:
        """Take on the share of the limits that the timetable gives now."""
        if self._hours is not None:
            self._share, self._until = self._hours.share(self.now), self._hours.until(self.now)
        counted = part_of(self._limits, self._share or 1.0).counted("migration")
        self._windows = [
            (
                kind,
                window.seconds + min(WIDEST, max(MARGIN * window.seconds, NARROWEST)),
                deque([*self._made[kind]][-window.count :], window.count),
            )
            for kind, window in counted
        ]
        if self._lane is not None:
            self._windows.append(("migration", self._lane.seconds, deque[float]((), self._lane.count)))
        # These remember the requests for a later share of the limits. They delay none.
        self._windows += [(kind, -math.inf, made) for kind, made in self._made.items()]

    def _starts(self, windows: Sequence[tuple[float, deque[float]]]) -> float:
        """When the next request that these windows count may start."""
        return max([self.now, *(seen[0] + seconds for seconds, seen in windows if len(seen) == seen.maxlen)])

    def peek(self) -> float:
        """When the next migration request may start."""
        at = max(self._hold, self._starts([(seconds, seen) for _, seconds, seen in self._windows]))
        return at if self._share else max(at, self._until)

    def take(self, count: int, kind: RequestKind) -> None:
        """Make `count` requests, each as soon as it may start."""
        if count > 0:
            self.now = max(self.now, self._hold)
        while count > 0:
            if self.now >= self._until:
                self._turn()
            if not self._share and kind == "migration":
                self.now = self._until
            else:
                count = self._play(count, kind)

    def _play(self, count: int, kind: RequestKind) -> int:
        """Make requests until the share changes; returns how many of them are left."""
        counted = [(seconds, seen) for of, seconds, seen in self._windows if of in (kind, "general")]
        if all(seconds < 0 for seconds, _ in counted):
            return 0
        slowest = max(counted, key=lambda it: it[0] / (it[1].maxlen or 1))
        steps = 2 * (slowest[1].maxlen or 1)
        for made in range(min(count, steps if self._hours is not None else max(STEPS, steps))):
            at = self._starts(counted)
            if at >= self._until:
                self.now = self._until
                return count - made
            self.now = at
            for _, seen in counted:
                seen.append(at)
            left = count - made - 1
        return left - self._repeat(left, *slowest, counted=[seen for _, seen in counted])

    def _repeat(self, count: int, seconds: float, seen: deque[float], counted: Sequence[deque[float]]) -> int:
        """Make up to `count` more before the share changes: the slowest window repeats its last period. Returns how
        many."""
        period = len(seen)
        if self._until < math.inf:
            count = min(count, period * max(int((self._until - seen[-1]) / seconds) - 1, 0))
        if count > 0:
            rounds, rest = divmod(count - 1, period)
            later = rounds * seconds + seen[rest] + seconds - self.now
            self.now += later
            for it in counted:
                it.extend([at + later for at in it])
        return max(count, 0)
