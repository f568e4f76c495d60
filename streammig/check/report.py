"""Write a check as one HTML file for the people who approve the migration, with room for a signature."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from streammig.check.text import at_target, cause, verdict
from streammig.report.parts import day, embedded, section, stacked, table, whole_page
from streammig.telemetry import spoken

PARTS = {"sent": ("pending", "to be sent"), "filtered": ("filtered", "filtered"), "dead": ("dead", "dead letters")}
SIGNED = ("Name", "Date", "Signature")
MOST_KINDS = 100  # rows of problems for each stage
Found = Mapping[str, Any]


def rendered(found: Found) -> bytes:
    """Render the document of a check, made with `ids`. Every text is escaped."""
    parts = [
        _head(found),
        _problems(found),
        _warnings(found["warnings"]),
        _at_target(found["at_target"]),
        _units(found["stages"]),
        _money(found["stages"]),
        _plan(found["plan"], found["stages"]),
        _files(found),
        section("Approval", table(["", ""], [(name, "") for name in SIGNED])),
    ]
    return whole_page(f"Check before the migration to {_host(found)}", parts)


def _host(found: Found) -> str:
    return urlsplit(found["target"]).hostname or "a folder"


def _head(found: Found) -> str:
    stages = found["stages"]
    cards = [(f"{it['units']:,}", f"{name} to be sent", "pending") for name, it in stages.items()]
    cards.append((f"{found['plan']['requests']:,}", "requests", "requests"))
    cards.append((f"{sum(it['dead'] for it in stages.values()):,}", "dead letters", "dead"))
    figures = "".join(
        f'<div class="{part}"><dt>{escape(noun)}</dt><dd>{number}</dd></div>' for number, noun, part in cards
    )
    wrong = (
        "failed"
        if found["problems"] or found["unreadable"] or any(it["dead"] or it["repeated"] for it in stages.values())
        else ""
    )
    return (
        f'<header><p class="over">Check before the migration</p><h1>{escape(_host(found))}</h1>'
        f'<p class="state {wrong}">{escape(" ".join(verdict(found)))}</p><dl class="figures">{figures}</dl>'
        '<p class="small">Nothing was sent. Counted in units: customers, events, transactions.'
        f' <span class="whole">Made {day(found["plan"]["starts"])}</span></p></header>\n'
    )


def _problems(found: Found) -> str:
    whole = "".join(
        f"<p><strong>{escape(it['what'])}</strong> [{escape(it['code'])}]<br>{escape(it['hint'])}</p>"
        for it in (*found["unreadable"], *found["problems"])
    )
    kinds = [(cause(it["code"]), it["field"], name, it["count"]) for name, it in _kinds(found["stages"])]
    rows = [
        (kind["code"], each["id"] or "-", Path(each["file"]).name, _line(each), each["offset"], each["message"])
        for _, kind in _kinds(found["stages"])
        for each in kind["examples"]
    ]
    head = ["problem", "customer", "file", "record", "byte", "what is wrong"]
    return section(
        "Problems",
        whole,
        table(["problem", "field", "stage", "records"], kinds, "Records by what is wrong with them") if kinds else "",
        table(head, rows, "The first of each") if rows else "",
    ) or section("Problems", "<p>None.</p>")


def _line(it: Found) -> Any:
    """Return the number of a record; in a table its line, with the column at fault."""
    return f"line {it['line']:,}, {it['column']}" if it["column"] else it["line"]


def _kinds(stages: Mapping[str, Found]) -> Iterator[tuple[str, Found]]:
    for name, stage in stages.items():
        for kind in stage["problems"][:MOST_KINDS]:
            yield name, kind


def _warnings(warnings: Sequence[Found]) -> str:
    lines = "".join(f"<li>{escape(it['what'])} [{escape(it['code'])}]</li>" for it in warnings)
    return section("Warnings", f"<ul>{lines}</ul>" if lines else "")


def _at_target(found: Found | None) -> str:
    return section("At the target already", "".join(f"<p>{escape(it)}</p>" for it in at_target(found))) if found else ""


def _units(stages: Mapping[str, Found]) -> str:
    if not stages:
        return ""
    units = {name: dict(it["in_units"]) for name, it in stages.items()}
    bars = "".join(
        f'<div class="bar"><span>{escape(name)}</span>'
        + stacked(f"units-{name}", f"What becomes of the {name}", [(PARTS[part][0], it[part]) for part in PARTS])
        + "</div>"
        for name, it in units.items()
    )
    legend = "".join(f'<li class="{style}">{noun}</li>' for style, noun in PARTS.values())
    rows: list[tuple[object, ...]] = [("read", *(sum(it.values()) for it in units.values()))]
    rows += [(noun, *(it[part] for it in units.values())) for part, (_, noun) in PARTS.items()]
    rows += [(what, *(it[what] for it in stages.values())) for what in ("requests", "bytes")]
    return section(
        "What would be sent",
        f'<figure>{bars}<ul class="legend">{legend}</ul></figure>',
        table(["units", *stages], rows),
    )


def _money(stages: Mapping[str, Found]) -> str:
    tables = []
    for name, it in stages.items():
        rows = [(key, *(f"{Decimal(sums[part]):,f}" for part in PARTS)) for key, sums in it["amounts"].items()]
        tables += [table(["sum of", *(noun for _, noun in PARTS.values())], rows, name)] if rows else []
    said = "<p>Exact decimal sums of points by reward, and of purchases.</p>" if tables else ""
    return section("Amounts", said, *tables)


def _plan(plan: Found, stages: Mapping[str, Found]) -> str:
    if not plan["requests"]:
        return ""
    rows = [
        (name, it["windows"], spoken(it["seconds"]), day(it["ends"]), it["requests_a_day"] or "-")
        for name, it in plan["limits"].items()
    ]
    own = plan["limits"][plan["own"]]
    begins = [0.0, *own["stages"].values()]
    whole = max(own["seconds"], 1.0)
    bars, calendar = "", []
    for (name, end), begin in zip(own["stages"].items(), begins, strict=False):
        spans = [("gap", begin), ("requests", max(end - begin, whole / 250)), ("gap", whole - end)]
        first, last = (day(own["calendar"][name][at]) for at in ("begins", "ends"))
        chart = stacked(
            f"plan-{name}", f"When the {name} are sent", [(part, round(size)) for part, size in spans],
            said=f"from {first} to {last}",
        )  # fmt: skip
        bars += f'<div class="bar"><span>{escape(name)}</span>{chart}</div>'
        calendar.append((name, first, last, spoken(end - begin), stages[name]["requests"]))
    disk = [(what, f"{size / 1e6:,.0f} MB") for what, size in plan["disk"].items()]
    return section(
        "The plan",
        f"<p>With the limits {escape(plan['own'])}, if it starts on {day(plan['starts'])}:"
        f" {spoken(own['seconds'])}, until {day(own['ends'])}. The target's queue, and the look at samples behind each"
        " stage, are counted in.</p>",
        f"<figure>{bars}</figure>",
        table(["stage", "begins", "ends", "takes", "requests"], calendar, "The calendar"),
        table(["limits", "windows", "takes", "ends", "requests a day"], rows, "With other limits"),
        table(["on this machine's disk", "needs"], disk) if disk else "",
    )


def _files(found: Found) -> str:
    rows = [
        (Path(it["file"]).name, name, it["bytes"], it["sha256"][:16])
        for name, files in found["files"].items()
        for it in files
    ]
    proof = {"check": found["plan"]["starts"], "files": found["files"]}
    return section(
        "What this report rests on",
        table(["file of the export", "stage", "bytes", "hash"], rows) if rows else "",
        "<p>The hash covers head, tail and samples of a file. This report has a checksum over all of its bytes, which"
        " finds a change that was not meant.</p><pre><code>streammig report --audit FILE.html</code></pre>"
        f'<p class="small">streammig {escape(found["version"])}</p>',
        embedded(proof),
    )
