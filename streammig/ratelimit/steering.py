"""The limits in force now: those of the settings, changed by the timetable and the operator's orders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from streammig.clock import Clock
from streammig.errors import Problem
from streammig.ratelimit.hours import Hours, part_of
from streammig.ratelimit.limits import Limits, RequestKind, parse_limits
from streammig.ratelimit.orders import Orders, read_orders
from streammig.telemetry import Notify, Steered, Waiting, Warned, ignore

LOOK = 1.0  # seconds between two looks at the orders
TOLD = 600.0  # seconds between two notices of the same pause
PAUSED, HOURS = "paused", "hours"


class Steering:
    """The `limits` in force now, and whether requests may be made at all.

    Needs a running event loop. The argument `limits` is that of the settings. A change is notified once, a pause every
    ten minutes.
    """

    def __init__(self, limits: Limits, clock: Clock, notify: Notify = ignore, hours: Hours | None = None) -> None:
        self._of_settings = self._asked = limits
        self._clock = clock
        self._hours = hours
        self._share, self._until = 1.0, 0.0
        self._notify = notify
        import asyncio  # `status` reads orders, and starts without an event loop

        self._now: Callable[[], float] = asyncio.get_running_loop().time
        self._path: Path | None = None
        self._looked = self._told = -TOLD
        self._seen: tuple[int, int] | None = None  # inode and modification time of the file
        self._orders = Orders()
        self.limits = limits

    def follow(self, path: Path) -> None:
        """Obey the orders in this file from now on."""
        self._path = path
        self.look(again=True)

    def closed(self, kind: RequestKind) -> tuple[float, str] | None:
        """Return for how many seconds no request of this kind may begin, and why; None if it may begin."""
        if self._paused():
            return LOOK, PAUSED
        now = self._clock.time()
        if self._hours is not None:
            self._apply_hours(self._hours, now)
        return (self._until - now, HOURS) if not self._share and kind == "migration" else None

    def _apply_hours(self, hours: Hours, now: float) -> None:
        """Set the limits to the timetable's share at this moment."""
        if now < self._until:
            return
        share, self._until = hours.share(now), hours.until(now)
        if share == self._share:
            return
        self._share, self.limits = share, part_of(self._asked, share or 1.0)
        if share:
            self._notify(Steered("hours", str(self.limits)))

    def _paused(self) -> bool:
        self.look()
        if self._orders.paused and self._now() - self._told >= TOLD:
            self._told = self._now()
            self._notify(Waiting(PAUSED, "paused by the operator: `streammig unpause` lets it go on"))
        return self._orders.paused

    def look(self, again: bool = False) -> bool:
        """Read new orders, at most once a second unless `again`; return whether there were any."""
        if self._path is None or (self._now() - self._looked < LOOK and not again):
            return False
        self._looked = self._now()
        try:
            found = self._path.stat()
            seen = found.st_ino, found.st_mtime_ns
        except OSError:
            seen = None
        if seen == self._seen:
            return False
        self._seen = seen
        try:
            orders = read_orders(self._path)
        except Problem as problem:
            self._notify(Warned(problem.code, f"{problem.what}; the run goes on as before"))
            return False
        self._obey(orders)
        return True

    def _obey(self, orders: Orders) -> None:
        before, self._orders = self._orders, orders
        self._asked = parse_limits(orders.limits, {}) if orders.limits else self._of_settings
        self.limits = part_of(self._asked, self._share or 1.0)
        if orders.limits != before.limits:
            self._notify(Steered("limits", str(self._asked)))
        if before.paused and not orders.paused:
            self._told = -TOLD
            self._notify(Steered("unpaused", str(self._asked)))
