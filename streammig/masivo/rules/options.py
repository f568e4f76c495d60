"""What the rules can be told: every setting of theirs, with its default."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from streammig.errors import Unusable

_TIME = re.compile(r"([01][0-9]|2[0-3])(:[0-5][0-9]){2}")
MAX_DIGITS = 30  # of a number, before and behind the point together: the sums are exact with room for 10**30 of them


class Match(NamedTuple):
    """A field of a record holds a value, compared as text; None: any that is not nothing."""

    field: str
    value: str | None


class RuleOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How records are judged; all of it shapes batches, so a checkpoint is bound to it.

    `now` is what lots expire against: an aware time that stays the same when a run is resumed. `deleted` and
    `reversed` are "field=value" pairs that mark a customer as deleted or an event as reversed, beside those that are
    known (see `rules.filters`). `owner` names the field that holds the customer's id where a record is a single event.
    `time_zone` is the IANA name of the zone that dates without one are in, `time_of_day` what stands behind a date
    without a time, like 00:00:00.
    """

    now: datetime
    unknown_fields: Literal["drop", "reject", "send"] = "drop"
    fraction_digits: int = 2
    include_inactive: bool = False
    send_anonymous: bool = False
    zero_orders: bool = False
    send_redeem: bool = False
    trim_emails: bool = False
    time_zone: str | None = None
    time_of_day: str = ""
    deleted: tuple[str, ...] = ()
    reversed: tuple[str, ...] = ()
    owner: str | None = None
    max_units: int = 1000
    max_bytes: int = 4_000_000

    def check(self) -> None:
        """Raises `Unusable` for a time of day that is none, or without a zone."""
        timed = self.time_zone is not None and _TIME.fullmatch(self.time_of_day)
        if self.time_of_day and not timed:
            said = f"time_of_day: {self.time_of_day!r} is no time like 00:00:00, or time_zone is not set."
            raise Unusable("settings-invalid", said, "Set both, or leave both out.")

    def zone(self) -> ZoneInfo | None:
        """The zone of dates without one; raises `Unusable` if this machine does not know it."""
        if self.time_zone is None:
            return None
        try:
            return ZoneInfo(self.time_zone)
        except (KeyError, ValueError, OSError) as error:  # not known; a bad path; a folder of zones
            raise Unusable(
                "time-zone-unknown",
                f"time_zone: this machine knows no zone named {self.time_zone!r}.",
                "Use an IANA name such as America/Bogota; a machine without time zones needs the package tzdata.",
            ) from error


def matches(pairs: Sequence[str], setting: str) -> tuple[Match, ...]:
    """The pairs of a setting, taken apart at their first `=`; raises `Unusable` for one without a field."""
    found = []
    for pair in pairs:
        field, sign, value = pair.partition("=")
        if not field:
            raise Unusable(
                "settings-invalid",
                f"{setting}: {pair!r} names no field.",
                f'Write it like {setting} = ["state=GONE"].',
            )
        found.append(Match(field, value if sign else None))
    return tuple(found)
