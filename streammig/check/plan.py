"""The plan of a run: requests, bytes, hours and the moment of its end, under several limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from streammig.check.stage import Checked
from streammig.ratelimit import Limits
from streammig.report.document import iso
from streammig.report.progress import Pace, outlook
from streammig.telemetry import Account, Expected


def plan(
    checked: Sequence[Checked],
    limits: Mapping[str, Limits],
    settle: float,
    lanes: int,
    readable: Mapping[str, bool],
    now: float,
) -> dict[str, Any]:
    """How long a run that starts now would take under each of these `limits`, by name, barriers included.

    Times are in seconds, moments in ISO 8601. The target's time to answer is unknown, and counts as 0.
    """
    accounts = {
        it.name: Account(complete=True, waiting=it.requests, expected=Expected(readable=readable[it.name]))
        for it in checked
    }
    paces = {name: outlook(accounts, Pace(own, settle=settle, lanes=lanes), now) for name, own in limits.items()}
    return {
        "requests": sum(it.requests for it in checked),
        "bytes": sum(it.bytes for it in checked),
        "starts": iso(now),
        "limits": {
            name: {
                "windows": str(limits[name]),
                "seconds": round(found.whole or 0.0, 1),
                "ends": iso(now + (found.whole or 0.0)),
                "stages": {stage: round(seconds or 0.0, 1) for stage, seconds in found.stages.items()},
                "requests_a_day": _a_day(limits[name]),
            }
            for name, found in paces.items()
        },
    }


def _a_day(limits: Limits) -> int | None:
    """The requests that a window of a day or more allows; None without one."""
    return min((it.count for it in (*limits.migration, *limits.general) if it.seconds >= 86_400.0), default=None)
