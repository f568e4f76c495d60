"""How far a run is off its plan: requests and time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streammig.errors import counted
from streammig.report.progress import Outlook
from streammig.telemetry import Account, spoken


def drift(
    plan: Mapping[str, Any] | None, accounts: Mapping[str, Account], ahead: Outlook, now: float, ended: float | None
) -> dict[str, Any] | None:
    """The plan beside what it comes to now, JSON-ready; None without a plan. `ended` is when the run was done, None of
    one that is not. Times are seconds since the plan was made, breaks between two calls included."""
    if plan is None:
        return None
    used = {name: it.requests for name, it in accounts.items()}
    requests_left, seconds_left = (0.0, 0.0) if ended is not None else (ahead.requests, ahead.whole)
    is_known = requests_left is not None and seconds_left is not None
    taken = (ended or now) - plan["at"]
    return {
        "exact": plan["exact"],
        "requests": sum(plan["requests"].values()),
        "requests_now": round(sum(used.values()) + (requests_left or 0.0)) if is_known else None,
        "seconds": round(plan["seconds"], 1),
        "seconds_now": round(taken + (seconds_left or 0.0), 1) if is_known else None,
        "stages": {name: {"planned": plan["requests"].get(name, 0), "used": count} for name, count in used.items()},
    }


def drift_words(found: Mapping[str, Any] | None, done: bool) -> list[str]:
    """The plan and the drift, in a line."""
    if found is None:
        return []
    about = "" if found["exact"] else "about "
    said = f"Plan: {about}{counted(found['requests'], 'request')} in {spoken(found['seconds'])}."
    if found["requests_now"] is None:
        return [said]
    more, later = found["requests_now"] - found["requests"], found["seconds_now"] - found["seconds"]
    came = "It took" if done else "Expected now:"
    requests, seconds = f"{found['requests_now']:,}", spoken(found["seconds_now"])
    return [f"{said} {came} {requests} ({more:+,}) in {seconds} ({'-' if later < 0 else '+'}{spoken(abs(later))})."]
