"""The timetable of a run: when it may send, and at which share of its limits, in one time zone."""

from __future__ import annotations

import datetime
import math
import re
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from streammig.errors import Unusable
from streammig.ratelimit.limits import Limits, Window

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
DAY = 24 * 60  # minutes
AHEAD = 9  # days ahead, within which every line of a timetable occurs
_DAYS = r"[A-Z][a-z]{2}(?:-[A-Z][a-z]{2})?"
_LINE = re.compile(
    rf"(?:(?P<days>{_DAYS}(?:,{_DAYS})*)\s*)?(?:(?P<begin>\d\d:\d\d)-(?P<end>\d\d:\d\d))?(?:\s+(?P<share>\d{{1,3}})%)?"
)
_ELSE = re.compile(r"else\s+(\d{1,3})%")
_HINT = 'Hours are written like "Mon-Fri 21:00-07:00; Sat,Sun; else 20%", with the time zone in hours_zone.'


class Line(NamedTuple):
    """One line of a timetable: a share of the limits on some days, from `begin` up to `end`."""

    days: frozenset[int]  # 0 is Monday
    begin: int  # minutes since midnight
    end: int  # minutes since the same midnight; above 1440 if the line ends on the next day
    share: float


class Hours(NamedTuple):
    """A timetable. The first line that covers a moment gives the share, 0 to 1; without one, `otherwise` does."""

    lines: tuple[Line, ...]
    otherwise: float
    zone: ZoneInfo

    def share(self, now: float) -> float:
        """Return the share of the limits at a moment, in seconds since the epoch."""
        for begin, end, share in self._periods(now):
            if begin <= now < end:
                return share
        return self.otherwise

    def until(self, now: float) -> float:
        """Return when the share next changes, in seconds since the epoch; infinity if it never does."""
        share = self.share(now)
        edges = sorted({edge for begin, end, _ in self._periods(now) for edge in (begin, end) if edge > now})
        return next((edge for edge in edges if self.share(edge) != share), math.inf)

    def _periods(self, now: float) -> list[tuple[float, float, float]]:
        """Return begin, end and share of each line on each day around a moment, line by line."""
        today = datetime.datetime.fromtimestamp(now, self.zone).date()
        days = [today + datetime.timedelta(days=offset) for offset in range(-1, AHEAD)]
        return [
            (self._at(day, line.begin), self._at(day, line.end), line.share)
            for line in self.lines
            for day in days
            if day.weekday() in line.days
        ]

    def _at(self, day: datetime.date, minutes: int) -> float:
        """Return a local time as seconds since the epoch.

        A time that the zone skips is moved an hour later. If a time occurs twice, the first counts.
        """
        days, minutes = divmod(minutes, DAY)
        time = datetime.time(*divmod(minutes, 60), tzinfo=self.zone)
        return datetime.datetime.combine(day + datetime.timedelta(days=days), time).timestamp()


def parse_hours(text: str, zone: str) -> Hours | None:
    """Parse a timetable in an IANA time zone; None for an empty text. Raises `Unusable` and names the wrong part."""
    if not text.strip():
        return None
    try:
        clock = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        said = f"hours_zone {zone!r} is no time zone that this machine knows" if zone else "hours has no hours_zone"
        raise Unusable("hours-invalid", said, "Set hours_zone to an IANA name, such as America/Bogota.") from None
    *lines, last = [part.strip() for part in text.split(";")]
    otherwise = 0.0
    if found := _ELSE.fullmatch(last):
        otherwise = _share(found[1], last)
    else:
        lines.append(last)
    hours = Hours(tuple(_line(line) for line in lines), otherwise, clock)
    if not any(share > 0 for share in (otherwise, *(line.share for line in hours.lines))):
        raise Unusable("hours-invalid", f"hours {text!r} never lets a request begin", _HINT)
    return hours


def _line(text: str) -> Line:
    found = _LINE.fullmatch(text)
    if found is None or not (found["days"] or found["begin"]):
        raise Unusable("hours-invalid", f"hours: {text!r} is no line of a timetable", _HINT)
    begin, end = _minutes(found["begin"] or "00:00", text), _minutes(found["end"] or "24:00", text)
    days = frozenset(_days(found["days"] or "Mon-Sun", text))
    return Line(days, begin, end if end > begin else end + DAY, _share(found["share"] or "100", text))


def _days(text: str, line: str) -> list[int]:
    """Parse days like Mon,Wed-Fri as numbers from 0 (Monday). A range may cross the end of the week."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first not in DAYS or (last or first) not in DAYS:
            raise Unusable("hours-invalid", f"hours: {line!r}: the days are {', '.join(DAYS)}", _HINT)
        begin = DAYS.index(first)
        found += [(begin + step) % 7 for step in range((DAYS.index(last or first) - begin) % 7 + 1)]
    return found


def _minutes(text: str, line: str) -> int:
    hours, minutes = int(text[:2]), int(text[3:])
    if minutes > 59 or hours * 60 + minutes > DAY:
        raise Unusable("hours-invalid", f"hours: {line!r}: {text} is no time of day", _HINT)
    return hours * 60 + minutes


def _share(text: str, line: str) -> float:
    if int(text) > 100:
        raise Unusable("hours-invalid", f"hours: {line!r}: more than 100 % of the limits", _HINT)
    return int(text) / 100


def part_of(limits: Limits, share: float) -> Limits:
    """Return the limits at a share above 0: each window allows that share of its requests."""
    if share == 1:
        return limits
    migration, general = (tuple(_part(it, share) for it in windows) for windows in limits)
    return Limits(migration, general)


def _part(window: Window, share: float) -> Window:
    count = math.floor(window.count * share + 1e-9)  # so that 29 % of 100 are 29, not 28
    return Window(count, window.seconds) if count else Window(1, window.seconds / (window.count * share))
