"""Write a check as text: problems first, then the records to be sent, then the plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from streammig.errors import counted
from streammig.report.letters import FOLLOWS, spot
from streammig.report.parts import day
from streammig.report.text import aligned
from streammig.telemetry import spoken

SHOWN = 20  # kinds of problems listed for each stage


def in_words(found: Mapping[str, Any]) -> str:
    """Render the document of a check."""
    looked = [*at_target(found["at_target"]), ""] if found["at_target"] is not None else []
    parts = [*_problems(found), "", *looked, *_stages(found["stages"]), "", *_plan(found["plan"])]
    return "\n".join(parts).strip()


def _problems(found: Mapping[str, Any]) -> Iterator[str]:
    for it in found["problems"]:
        yield f"{it['what']} [{it['code']}]"
        yield f"    {it['hint']}"
    for it in found["warnings"]:
        yield f"warning: {it['what']} [{it['code']}]"
    for name, stage in found["stages"].items():
        for kind in stage["problems"][:SHOWN]:
            yield from _kind(name, kind)
        if len(stage["problems"]) > SHOWN:
            yield f"{name}: {len(stage['problems']) - SHOWN:,} more kinds of problems; see all of them with --json"
    yield ""
    yield from verdict(found)


def verdict(found: Mapping[str, Any]) -> Iterator[str]:
    """Sum up a check in a few sentences."""
    dead = sum(stage["dead"] for stage in found["stages"].values())
    account = sum(it["wrong"] for it in found["warnings"])
    if found["unreadable"]:
        yield f"Files that can't be read: {len(found['unreadable'])}. The rest was checked."
    if dead:
        yield f"Records that would become dead letters: {dead:,}."
    if found["stops"]:
        yield f"The run stops for these, unless the settings say otherwise: {', '.join(found['stops'])}."
    if repeated := sum(stage["repeated"] for stage in found["stages"].values()):
        yield f"Purchases that would be sent twice: {repeated:,}."
    if found["problems"]:
        yield f"Problems of whole files or stages: {len(found['problems'])}."
    if account:
        yield f"Things that the account lacks, or has no room for: {counted(account, 'warning')}."
    if not (dead or repeated or account or found["problems"] or found["unreadable"]):
        yield "Nothing is wrong with this export."


def cause(code: str) -> str:
    """Return a code for people. Codes of records without a customer name the customer's problem."""
    return f"the customer is not there: {code.removeprefix(FOLLOWS)}" if code.startswith(FOLLOWS) else code


def at_target(found: Mapping[str, Any]) -> list[str]:
    """Describe how many customers are at the target already."""
    there = found["alike"] + found["different"]
    lines = [
        f"At the target already: {there:,} of {counted(found['looked'], 'customer')} looked for"
        + (f" ({found['alike']:,} alike, {found['different']:,} different)" if there else "")
        + (f"; {found['unreadable']:,} can't be told" if found["unreadable"] else "")
        + "."
    ]
    if found["at_most"] is not None and found["confidence"] < 1:
        lines.append(
            f"Of all {found['customers']:,} at most {found['at_most']:.1%} are there, with"
            f" {found['confidence']:.0%} confidence."
        )
    if found["fields"]:
        fields = ", ".join(f"{name} ({count:,})" for name, count in found["fields"].items())
        lines.append(f"Fields that differ: {fields}.")
    if found["places"]:
        shown = ", ".join(f"record {it['line']:,} of {Path(it['file']).name}" for it in found["places"])
        lines.append(f"The first of them: {shown}.")
    if found["stopped"]:
        lines.append(f"The look ended early: {found['stopped']['what']} [{found['stopped']['code']}]")
    return lines


def _kind(name: str, kind: Mapping[str, Any]) -> Iterator[str]:
    yield f"{name}: {kind['count']:,} x {cause(kind['code'])} {kind['field']}".rstrip()
    for it in kind["examples"]:
        yield f"    {spot(it)}, byte {it['offset']:,}: {it['message']}"


def _stages(stages: Mapping[str, Any]) -> Iterator[str]:
    if not stages:
        return
    rows = ("records", "units", "requests", "fill", "bytes", "dead", "filtered")
    lines = [[row, *(_cell(row, stage[row]) for stage in stages.values())] for row in rows]
    yield aligned([["would be sent", *stages], *lines])


def _cell(row: str, value: Any) -> str:
    if row == "filtered":
        return f"{sum(value.values()):,}"
    if row == "fill":
        return "-" if value is None else f"{value:.1%}"
    return f"{value / 1e6:,.1f} MB" if row == "bytes" else f"{value:,}"


def _plan(plan: Mapping[str, Any]) -> Iterator[str]:
    if not plan["requests"]:
        return
    yield f"The plan: {counted(plan['requests'], 'request')}, {plan['bytes'] / 1e6:,.1f} MB; started now,"
    for name, it in plan["limits"].items():
        windows = f" ({it['windows']})" if it["windows"] != name else ""
        yield f"    with limits {name}{windows}: {spoken(it['seconds'])}, until {day(it['ends'])}"
        if it["requests_a_day"]:
            yield f"        at most {counted(it['requests_a_day'], 'request')} a day"
    for what, size in plan["disk"].items():
        yield f"    disk for {what}: {size / 1e6:,.0f} MB"
