"""The limits of an account, and their text form: `1/5s,250/1h;general=1000/1d`."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from streammig.errors import Unusable

RequestKind = Literal["migration", "general"]

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_WINDOW = re.compile(r"([0-9]{1,9})/([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)")
_LONGEST = 366 * 86400.0
_HINT = "Limits are written like 1/5s,250/1h;general=1000/1d (units ms, s, m, h, d), or {presets}."


@dataclass(frozen=True, slots=True)
class Window:
    """At most `count` requests in any period of `seconds` (a sliding window)."""

    count: int
    seconds: float

    def __str__(self) -> str:
        for unit in ("d", "h", "m", "s"):
            number = self.seconds / _UNITS[unit]
            if number >= 1 and number == int(number):
                return f"{self.count}/{int(number)}{unit}"
        return f"{self.count}/{self.seconds:.9f}".rstrip("0").rstrip(".") + "s"


class Limits(NamedTuple):
    """All windows of an account: `migration` ones count migration requests, `general` ones count all requests."""

    migration: tuple[Window, ...] = ()
    general: tuple[Window, ...] = ()

    def counted(self, kind: RequestKind) -> tuple[tuple[RequestKind, Window], ...]:
        """Return the windows that count a request of this kind, each with the kind of requests that it counts."""
        general: tuple[tuple[RequestKind, Window], ...] = tuple(("general", window) for window in self.general)
        if kind == "general":
            return general
        return (*(("migration", window) for window in self.migration), *general)

    @property
    def longest(self) -> float:
        """The length of the longest window, in seconds."""
        return max((window.seconds for window in (*self.migration, *self.general)), default=0.0)

    def __str__(self) -> str:
        migration = ",".join(map(str, self.migration))
        general = ",".join(map(str, self.general))
        return ";".join(part for part in (migration, general and f"general={general}") if part) or "off"


OFF = Limits()


class Use(NamedTuple):
    """The use of one window now; `resets_in` is the seconds until its oldest request leaves it."""

    window: str
    kind: RequestKind
    limit: int
    used: int
    left: int
    resets_in: float


class Starts(NamedTuple):
    """The times of the requests that the windows count, in order: migration requests, and all requests (`general`).

    No request may start before `hold`. All times are in seconds since the epoch.
    """

    migration: Sequence[float] = ()
    general: Sequence[float] = ()
    hold: float = 0.0

    def later(self, seconds: float) -> Starts:
        """Return these times by a clock that is ahead by so many seconds."""
        migration, general = ([at + seconds for at in made] for made in (self.migration, self.general))
        return Starts(migration, general, self.hold + seconds)

    def usage(self, limits: Limits, now: float) -> list[Use]:
        """Return the use of every window at this moment."""
        uses = []
        for kind, window in limits.counted("migration"):
            made = self.migration if kind == "migration" else self.general
            within = made[bisect_right(made, now - window.seconds) :]
            resets = max(0.0, within[0] + window.seconds - now) if within else 0.0
            left = max(0, window.count - len(within))
            uses.append(Use(str(window), kind, window.count, len(within), left, round(resets, 3)))
        return uses


def parse_limits(text: str, presets: Mapping[str, Limits]) -> Limits:
    """Parse limits, or the name of a preset. Raises `Unusable` and names the wrong part."""
    hint = _HINT.format(presets=", ".join([*sorted(presets), "off"]))
    wanted = text.strip()
    if wanted in presets:
        return presets[wanted]
    if wanted == "off":
        return OFF
    found: dict[str, tuple[Window, ...]] = {}
    for part in wanted.split(";"):
        name, equals, windows = part.rpartition("=")
        kind = name.strip() if equals else "migration"
        if kind not in ("migration", "general"):
            raise Unusable("limits-invalid", f"limits {text!r}: {kind!r} is neither migration nor general", hint)
        if kind in found:
            raise Unusable("limits-invalid", f"limits {text!r}: {kind} occurs twice", hint)
        found[kind] = tuple(_window(one.strip(), text, hint) for one in windows.split(","))
    return Limits(**found)


def _window(one: str, text: str, hint: str) -> Window:
    match = _WINDOW.fullmatch(one)
    if match is None:
        raise Unusable("limits-invalid", f"limits {text!r}: {one!r} is no COUNT/TIME", hint)
    count, seconds = int(match[1]), round(float(match[2]) * _UNITS[match[3]], 9)
    if count < 1 or not 0 < seconds <= _LONGEST:
        raise Unusable(
            "limits-invalid",
            f"limits {text!r}: {one!r} must be at least 1 request in more than 0 and at most 366 days",
            hint,
        )
    return Window(count, seconds)
