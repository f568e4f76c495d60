"""The plan of a run, which its checkpoint keeps from before the first request, and how far it has drifted from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streammig.report.progress import Outlook, Pace, outlook, requests_left
from streammig.telemetry import Account


def planned(known: Mapping[str, Any], accounts: Mapping[str, Account], pace: Pace, now: float) -> Mapping[str, Any]:
    """The plan to keep, JSON-ready: the `known` one, until a stage or a file of one is added. `at` and `ends` are
    seconds since the epoch, `ends` None where that can't be told."""
    sizes = {name: sum(it.sizes or ()) for name, it in accounts.items()}
    if known.get("sizes") == sizes:
        return known
    whole = outlook(accounts, pace, now).whole
    return {
        "at": now,
        "ends": None if whole is None else now + whole,
        "sizes": sizes,
        "requests": {name: _requests(it) for name, it in accounts.items()},
    }


def drift(
    known: Mapping[str, Any], accounts: Mapping[str, Account], ahead: Outlook | None, now: float, ended: float | None
) -> dict[str, Any] | None:
    """The plan beside what is expected now; None without a plan. Times are in seconds since the epoch.

    `ahead` is what lies ahead of a run that is on, None of one that waits; `ended` is when it was complete. `later` is
    by how many seconds the end is later than planned, less than 0 where it is earlier.
    """
    if not known:
        return None
    ends = known["ends"]
    expected = (
        ended if ended is not None else now + ahead.whole if ahead is not None and ahead.whole is not None else None
    )
    return {
        "made": known["at"],
        "requests": known["requests"],
        "requests_now": {name: _requests(it) for name, it in accounts.items()},
        "ends": ends,
        "ends_now": expected,
        "later": round(expected - ends, 1) if expected is not None and ends is not None else None,
    }


def _requests(account: Account) -> int | None:
    """The requests that a stage takes in all: those made, and those left."""
    left = requests_left(account)
    return None if left is None else round(account.requests + left)
