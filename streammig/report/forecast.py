"""When the rest of a migration will be done: from requests left, every window of the limits, and the settle times."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from streammig.ratelimit import Limits, RequestKind, Starts, Window

STEPS = 3_000  # requests that are played one by one; what comes later repeats the slowest window
READ = 0.2  # seconds between two reads at least
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


def forecast(legs: Sequence[Leg], limits: Limits, starts: Starts, now: float, latency: float, lanes: int) -> Forecast:
    """Play the requests that are left against the limits, one stage after the other.

    `starts` are the requests that the windows remember. `lanes` requests may be under way at once, each for `latency`
    seconds: that is one more window.
    """
    clock = _Clock(limits, starts, now, Window(lanes, latency) if latency > 0 else None)
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

    def __init__(self, limits: Limits, starts: Starts, now: float, lane: Window | None) -> None:
        self.now = max(now, starts.hold)
        made = {"migration": starts.migration, "general": starts.general}
        # A window of kind "general" counts all requests.
        self._windows = [
            (
                kind,
                window.seconds + min(WIDEST, max(MARGIN * window.seconds, NARROWEST)),
                deque(made[kind][-window.count :], window.count),
            )
            for kind, window in limits.counted("migration")
        ]
        if lane is not None:
            self._windows.append(("migration", lane.seconds, deque[float]((), lane.count)))

    def peek(self) -> float:
        """When the next migration request may start."""
        return max([self.now, *(it[0] + seconds for _, seconds, it in self._windows if len(it) == it.maxlen)])

    def take(self, count: int, kind: RequestKind) -> None:
        """Make so many requests, as soon as each may start."""
        counted = [(seconds, seen) for of, seconds, seen in self._windows if of in (kind, "general")]
        if not counted:
            return
        slowest = max(counted, key=lambda it: it[0] / (it[1].maxlen or 1))
        played = min(count, max(STEPS, 2 * (slowest[1].maxlen or 1)))
        for _ in range(played):
            self.now = max([self.now, *(seen[0] + seconds for seconds, seen in counted if len(seen) == seen.maxlen)])
            for _, seen in counted:
                seen.append(self.now)
        self._repeat(count - played, *slowest, counted=[seen for _, seen in counted])

    def _repeat(self, count: int, seconds: float, seen: deque[float], counted: Sequence[deque[float]]) -> None:
        """Make so many more, as the slowest window repeats what it remembers."""
        if count > 0 and (period := len(seen)):
            rounds, rest = divmod(count - 1, period)
            later = rounds * seconds + seen[rest] + seconds - self.now
            self.now += later
            for it in counted:
                it.extend([at + later for at in it])
