"""Plan a run: requests, bytes, hours and the time of its end under several limits, and the disk it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from streammig.bodies import room_of_outbox
from streammig.check.stage import Checked
from streammig.dedup import most_customers, room_of_index
from streammig.inputs import StageInput
from streammig.ratelimit import Limits, parse_hours, parse_limits, part_of
from streammig.report.document import iso
from streammig.report.progress import Outlook, Pace, outlook
from streammig.settings import Settings
from streammig.stages import STAGES
from streammig.telemetry import Account, Expected


def paces(settings: Settings, presets: Mapping[str, Limits]) -> dict[str, Pace]:
    """Return the paces to compare, by name: each preset, and last the run's own limits with its share and hours."""
    settle, lanes = settings.settle_time, settings.concurrency
    found = {name: Pace(it, settle=settle, lanes=lanes) for name, it in presets.items() if name != settings.limits}
    limits = part_of(parse_limits(settings.limits, presets), settings.budget_share)
    name = settings.limits
    if settings.budget_share != 1:
        name += f" at {settings.budget_share:.0%}"
    if settings.hours:
        name += f", {settings.hours}"
    return found | {
        name: Pace(limits, settle=settle, lanes=lanes, hours=parse_hours(settings.hours, settings.hours_zone))
    }


def disk(settings: Settings, inputs: Mapping[str, StageInput]) -> dict[str, int]:
    """Return the most bytes that a run needs on the checkpoint's disk at once, by purpose."""
    marks = {name: it.source.fingerprints() for name, it in inputs.items()}
    if not marks:
        return {}
    indexed = [files for name, files in marks.items() if name == STAGES[0] or inputs[name].rules.once]
    most = sum(most_customers(it) for files in indexed for it in files)
    return {**room_of_index(most), **room_of_outbox(settings, marks, Path(settings.checkpoint))}


def plan(
    checked: Sequence[Checked],
    paces: Mapping[str, Pace],
    readable: Mapping[str, bool],
    disk: Mapping[str, int],
    now: float,
) -> dict[str, Any]:
    """Predict how long a run that starts now takes at each of these `paces`, barriers included. The last is its own.

    Times are in seconds, moments in ISO 8601, `disk` in bytes. The target's time to answer is unknown and counts as 0.
    """
    accounts = {
        it.name: Account(complete=True, waiting=it.requests, expected=Expected(readable=readable[it.name]))
        for it in checked
    }
    found = {name: outlook(accounts, pace, now) for name, pace in paces.items()}
    return {
        "requests": sum(it.requests for it in checked),
        "bytes": sum(it.bytes for it in checked),
        "starts": iso(now),
        "own": [*paces][-1],
        "disk": dict(disk),
        "limits": {
            name: {
                "windows": str(paces[name].limits),
                "seconds": round(it.whole or 0.0, 1),
                "ends": iso(now + (it.whole or 0.0)),
                "stages": {stage: round(seconds or 0.0, 1) for stage, seconds in it.stages.items()},
                "calendar": {
                    stage: {"begins": iso(now + begin), "ends": iso(now + end)}
                    for stage, (begin, end) in zip(it.stages, pairwise([0.0, *_ends(it)]), strict=True)
                },
                "requests_a_day": _a_day(paces[name].limits),
            }
            for name, it in found.items()
        },
    }


def _ends(found: Outlook) -> list[float]:
    return [seconds or 0.0 for seconds in found.stages.values()]


def _a_day(limits: Limits) -> int | None:
    """Return the fewest requests that a window of a day or more allows; None if no window is that long."""
    return min((it.count for it in (*limits.migration, *limits.general) if it.seconds >= 86_400.0), default=None)
