"""Enforce the account's limits as strict sliding windows. Every attempt counts."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
PRESETS = {
    "dev": "1/5s,250/1h;general=1000/1d",
    "prod": "1/5s,1000/1h",
    "off": "",
}
MIGRATION, GENERAL = "migration", "general"
HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Window:
    """At most `allowed` requests in any `seconds`. Two arrivals exactly `seconds` apart are in different windows."""

    group: str
    allowed: int
    seconds: float
    text: str


def parse_limits(text: str) -> tuple[Window, ...]:
    """Parse a limits text. Raises ValueError with the part that can't be read."""
    windows = []
    for part in filter(None, PRESETS.get(text.strip(), text).split(";")):
        name, separator, listed = part.partition("=")
        group, listed = (name.strip(), listed) if separator else (MIGRATION, part)
        if group not in (MIGRATION, GENERAL):
            raise ValueError(f"limits {text!r}: {group!r} is neither {MIGRATION} nor {GENERAL}")
        windows += [_window(group, rule.strip(), text) for rule in listed.split(",")]
    return tuple(windows)


def _window(group: str, rule: str, text: str) -> Window:
    match = re.fullmatch(r"(\d+)/(\d*\.?\d+)(ms|s|m|h|d)", rule)
    if match is None or int(match[1]) == 0 or float(match[2]) == 0:
        raise ValueError(
            f"limits {text!r}: {rule!r} is not a rule like 1/5s, 250/1h or general=1000/1d "
            "(rules of a group are separated by commas, groups by semicolons; or dev, prod, off)"
        )
    return Window(group, int(match[1]), float(match[2]) * UNITS[match[3]], f"{group}={rule}")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result for one arrival: the windows it broke, and the headers of its answer."""

    broken: tuple[Window, ...]
    headers: Mapping[str, str]


class Limiter:
    """Judges arrivals. A refused attempt counts like any other, so an early request delays the next slot."""

    def __init__(self, windows: tuple[Window, ...]) -> None:
        # The last `allowed` arrivals of a window are enough to decide about one more.
        self._arrivals: dict[Window, deque[float]] = {window: deque(maxlen=window.allowed) for window in windows}

    def judge(self, now: float, migration: bool) -> Verdict:
        """Count an arrival at `now` (seconds); a migration request counts in both groups."""
        applying = [window for window in self._arrivals if migration or window.group == GENERAL]
        broken = tuple(window for window in applying if self._count(window, now))
        if not applying:
            return Verdict((), {})
        shown = max(applying, key=lambda window: _prominence(window, migration))
        headers = self._headers(shown, now)
        if broken:
            wait = max(self._arrivals[window][0] + window.seconds - now for window in broken)
            headers["Retry-After"] = str(max(1, math.ceil(wait)))
        return Verdict(broken, headers)

    def _count(self, window: Window, now: float) -> bool:
        arrivals = self._arrivals[window]
        while arrivals and now - arrivals[0] >= window.seconds:
            arrivals.popleft()
        full = len(arrivals) == window.allowed
        arrivals.append(now)
        return full

    def _headers(self, window: Window, now: float) -> dict[str, str]:
        arrivals = self._arrivals[window]
        return {
            "X-RateLimit-Limit": str(window.allowed),
            "X-RateLimit-Remaining": str(window.allowed - len(arrivals)),
            "X-RateLimit-Reset": str(max(1, math.ceil(arrivals[0] + window.seconds - now))),
        }


def _prominence(window: Window, migration: bool) -> tuple[bool, bool, float]:
    """Sort key of the window that headers describe: an hour of the migration limit first, else the widest."""
    return (migration and window.group == MIGRATION, window.seconds == HOUR, window.seconds)
