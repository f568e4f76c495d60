"""The report as one HTML file: no network, no script that runs, light and dark, for paper and for a phone; and its
sections for the page of a run that is on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from html import escape
from typing import Any
from urllib.parse import urlsplit

from streammig.errors import counted
from streammig.report.over_time import over_time
from streammig.report.parts import columns, day, embedded, folded, section, stacked, table, whole_page
from streammig.report.text import drift_words, shared, state_sentence, state_word
from streammig.telemetry import spoken

NOUNS = {
    "accepted": "accepted",
    "filtered": "filtered",
    "dead": "dead letters",
    "unknown": "outcome unknown",
    "pending": "still to be sent",
    "reverted": "reverted",
}
ALWAYS = ("accepted", "filtered", "dead", "unknown", "pending")  # shown also where there is none
MOST_ROWS = 200  # of a table of decisions
Found = Mapping[str, Any]


def rendered(found: Found) -> bytes:
    """The whole file of what `history` found, with its checksum. Every text in it is escaped."""
    parts = [
        _head(found),
        _left(found["next"]),
        _units(found["stages"]),
        _money(found["stages"]),
        over_time(found),
        _answers(found["stages"]),
        _latencies(found["stages"]),
        _retries(found["stages"]),
        _drift(found["status"]),
        _dead(found["stages"]),
        _decisions(found["decisions"]),
        _verification(found),
        _proof(found),
    ]
    return whole_page(f"Migration to {_host(found)}", parts)


def _host(found: Found) -> str:
    return urlsplit(found["target"]).hostname or "a folder"


def live_sections(found: Found, doing: Sequence[str]) -> dict[str, str]:
    """What `glance` found, as the sections of a page by their name, in their order. One that has nothing to say is
    empty. `doing` says what the run waits for."""
    stages, status = found["stages"], found["status"]
    watches = status["state"] == "running"
    steps = found["next"][:-1] if watches else found["next"]  # the last of them is to watch the run
    return {
        "now": _now(found, doing),
        "stages": _progress(status),
        "plan": _drift(status),
        "permits": _permits(status["budget"]),
        "parked": _undecided(status["undecided"]) + _decisions([it for it in found["decisions"] if not it["open"]]),
        "left": _left(steps) if steps or not watches else "",
        "time": over_time(found),
        "answers": _answers(stages),
        "latency": _latencies(stages),
        "dead": _dead(stages),
        "units": _units(stages),
    }


# -- the sections -----------------------------------------------------------------------------------------------------


def _head(found: Found) -> str:
    status = found["status"]
    when = [("Begun", day(found["began"])), ("Last answer", day(found["last_answer"])), ("Made", day(found["made"]))]
    facts = " · ".join(f'<span class="whole">{name} {escape(value)}</span>' for name, value in when if value)
    sums = "The totals add up." if status["balanced"] else "The totals do not add up."
    kind = " A dry run: nothing was sent." if status["dry_run"] else ""
    return (
        f'<header><p class="over">Migration report</p><h1>{escape(_host(found))}</h1>'
        f'<p class="state {escape(status["state"])}">{escape(state_sentence(status))} {sums}{kind}</p>'
        f'{_cards(_figures(found))}<p class="small">Counted in units: customers, events, transactions.'
        f" {facts}</p>{_warnings(status)}</header>\n"
    )


def _figures(found: Found) -> list[tuple[str, str, str]]:
    """The units of all stages by what became of them, and the requests: number, noun and CSS class of each."""
    units = {part: sum(stage["units"][part] for stage in found["stages"].values()) for part in NOUNS}
    requests = sum(stage["requests"] for stage in found["status"]["stages"].values())
    placed = [(f"{units[part]:,}", noun, part) for part, noun in NOUNS.items() if units[part] or part == "accepted"]
    return [*placed, (f"{requests:,}", "requests", "requests")]


def _cards(figures: Sequence[tuple[str, str, str]]) -> str:
    cards = (
        f'<div class="{part}"><dt>{escape(noun)}</dt><dd>{escape(text)}</dd></div>' for text, noun, part in figures
    )
    return f'<dl class="figures">{"".join(cards)}</dl>'


def _warnings(status: Found) -> str:
    return "".join(f'<p class="warning">{escape(text)}</p>' for text in status["warnings"])


def _left(steps: Sequence[Found]) -> str:
    if not steps:
        return section("What is left to do", "<p>Nothing.</p>")
    items = "".join(f"<li>{escape(it['why'])}<pre><code>{escape(it['command'])}</code></pre></li>" for it in steps)
    return section("What is left to do", f'<ol class="steps">{items}</ol>')


def _units(stages: Mapping[str, Found]) -> str:
    if not stages:
        return ""
    used = [part for part in NOUNS if part in ALWAYS or any(it["units"][part] for it in stages.values())]
    bars = "".join(
        f'<div class="bar"><span>{escape(name)}</span>'
        f"{stacked(f'units-{name}', f'Where the units of {name} are', [(part, it['units'][part]) for part in NOUNS])}"
        "</div>"
        for name, it in stages.items()
    )
    legend = "".join(f'<li class="{part}">{escape(NOUNS[part])}</li>' for part in used)
    rows = [(NOUNS.get(part, part), *(it["units"][part] for it in stages.values())) for part in ("read", *used)]
    records = [(f"{name}: records read", it["records"]["read"]) for name, it in stages.items()]
    other = [f"{said} {count:,}" for (said, count), it in zip(records, stages.values(), strict=True)
             if count != it["units"]["read"]]  # fmt: skip
    return section(
        "Where every unit is",
        f'<figure>{bars}<ul class="legend">{legend}</ul></figure>',
        table(["units", *stages], rows),
        f'<p class="small">{escape("; ".join(other))}.</p>' if other else "",
    )


def _money(stages: Mapping[str, Found]) -> str:
    tables = []
    for name, it in stages.items():
        used = {part: noun for part, noun in NOUNS.items() if any(Decimal(sums[part]) for sums in it["sums"].values())}
        rows = [(key, *(f"{Decimal(sums[part]):,f}" for part in ("read", *used))) for key, sums in it["sums"].items()]
        tables += [table(["sum of", "read", *used.values()], rows, name)] if rows else []
    said = "<p>Exact decimal sums of points by reward, and of purchases.</p>" if tables else ""
    return section("Amounts", said, *tables)


def _answers(stages: Mapping[str, Found]) -> str:
    rows = [
        (
            name,
            each["kind"] or "no answer was noted",
            each["status"] and str(each["status"]),
            each["code"],
            each["count"],
        )
        for name, it in stages.items()
        for each in it["answers"]
    ]
    return section("Answers", table(["stage", "outcome", "status", "code", "requests"], rows) if rows else "")


def _latencies(stages: Mapping[str, Found]) -> str:
    parts, rows = [], []
    for name, it in stages.items():
        if not (found := it["latency"]):
            continue
        rows.append((name, *(f"{found[key]:.2f} s" for key in ("p50", "p90", "p99", "longest"))))
        counts = [each["answers"] for each in found["classes"]]
        upto = [each["up_to"] for each in found["classes"]]
        labels = ["longer" if end is None else f"up to {end:g} s" for end in upto]
        said = ", ".join(f"{label}: {count:,}" for label, count in zip(labels, counts, strict=True) if count)
        chart = columns(f"wait-{name}", f"{name}: how long answers took", said, [("requests", counts)], 64)
        axis = f'<div class="axis"><span>{labels[0]}</span><span>{labels[-1]}</span></div>'
        numbers = table(["took", "answers"], zip(labels, counts, strict=True))
        caption = f"<figcaption>{escape(name)}<span>answers by how long they took</span></figcaption>"
        parts.append(f"<figure>{caption}{chart}{axis}{folded('The numbers', numbers)}</figure>")
    if not rows:
        return ""
    head = ["stage", "half within", "90 % within", "99 % within", "longest"]
    return section("How long answers took", table(head, rows), *parts)


def _retries(stages: Mapping[str, Found]) -> str:
    rows = [
        (name, counted(int(requests), "request"), count)
        for name, it in stages.items()
        for requests, count in it["requests_a_batch"].items()
    ]
    return section("Retries", table(["stage", "a batch took", "batches"], rows) if rows else "")


def _drift(status: Found) -> str:
    if (found := status["plan"]) is None:
        return ""
    rows = [
        (name, it["planned"], it["used"], f"{it['used'] - it['planned']:+,}") for name, it in found["stages"].items()
    ]
    words = "".join(f"<p>{escape(line)}</p>" for line in drift_words(found, status["state"] == "complete"))
    return section("Plan and drift", words, table(["stage", "requests planned", "used so far", "difference"], rows))


def _dead(stages: Mapping[str, Found]) -> str:
    rows = [(it["code"], it["field"], name, it["count"]) for name, found in stages.items() for it in found["dead"]]
    return section("Dead letters", table(["code", "field", "stage", "dead letters"], rows) if rows else "")


def _decisions(decisions: Sequence[Found]) -> str:
    rows = [
        (f"{it['stage']}, batch {it['batch']:,}", it["units"], it["state"], it["ruling"], it["note"])
        for it in sorted(decisions, key=lambda it: not it["open"])[:MOST_ROWS]
    ]
    more = f'<p class="small">And {len(decisions) - MOST_ROWS:,} more.</p>' if len(decisions) > MOST_ROWS else ""
    listed = table(["batch", "units", "state", "decision", "what decided it"], rows) if rows else ""
    return section("Decisions about unknown outcomes", listed, more)


def _verification(found: Found) -> str:
    status, looked = found["status"], found["status"]["verification"]
    if status["dry_run"]:
        return section("Verification", "<p>A dry run: accepted means written to a file.</p>")
    if looked is None:
        said = "Accepted, not verified. Accepted means that the target has enqueued it, not that it has applied it."
        return section("Verification", f"<p>{said} Samples were read back between stages; the rest was not.</p>")
    same = "What was read back is as it was sent." if looked["same"] else "The target does not hold what was sent."
    since = " Something was sent since: verify again." if looked["outdated"] else ""
    said = f"Read back on {day(looked['at'])} ({looked['kind']}). {same}{since}"
    names = list(next(iter(looked["stages"].values()), {}))
    rows = [(name.replace("_", " "), *(it[name] for it in looked["stages"].values())) for name in names]
    bounds = "".join(
        f"<p>At most {bound['missing']:.2%} of {escape(stage)} are missing and {bound['different']:.2%} different, with"
        f" {looked['confidence']:.0%} confidence.</p>"
        for stage, bound in looked["at_most"].items()
    )
    listed = table(["records", *looked["stages"]], rows) if rows else ""
    return section("Verification", f"<p>{escape(said)}</p>", listed, bounds)


def _proof(found: Found) -> str:
    known = found["proof"]
    hashes = [(f"export: {known['export']}"), f"settings: {known['settings']}", f"decisions: {known['decisions']}"]
    hashes += [f"batches of {name}: {end}" for name, end in known["batches"].items()]
    if "records" in known:
        hashes.append(f"records file: {known['records']['sha256']} ({known['records']['lines']:,} lines)")
    files = [(it["name"], name, it["bytes"]) for name, marks in found["files"].items() for it in marks]
    lines = "".join(f"<li><code>{escape(text)}</code></li>" for text in hashes)
    return section(
        "What this report rests on",
        table(["file of the export", "stage", "bytes"], files) if files else "",
        f"<p>SHA-256. Each can be made again from the checkpoint of run {escape(known['run'])}.</p>"
        f'<ul class="hashes">{lines}</ul>',
        "<p>The file has a checksum over all of its bytes: a change that was not meant is found, one made on purpose"
        " with a new checksum is not. So compare the hashes with the checkpoint, or with a copy kept elsewhere. The"
        " hash of the export covers name, size, head, tail and samples of each file, not every byte.</p>"
        "<pre><code>streammig report --audit FILE.html</code></pre>",
        f'<p class="small">streammig {escape(found["version"])}</p>',
        embedded(known),
    )


# -- sections of a page that is live -----------------------------------------------------------------------------------


def _now(found: Found, doing: Sequence[str]) -> str:
    status, figures = found["status"], _figures(found)
    left, ahead = status["seconds_left"], status["next_request_in"]
    if left is not None and status["state"] != "complete":
        waits = status["paused"] or status["state"] != "running"
        figures.append((spoken(left), "time left" + (" once it goes on" if waits else ""), "requests"))
    if ahead and status["state"] == "running":
        figures.append((spoken(ahead), "until the next request", "requests"))
    lines = "".join(f"<p>{escape(line)}</p>" for line in doing)
    return (
        f'{_cards(figures)}{lines}{_warnings(status)}<p class="small">Counted in units: customers, events,'
        f' transactions. <span class="whole">As of {day(found["made"], 1)}</span></p>'
    )


def _progress(status: Found) -> str:
    rows = []
    for name, it in status["stages"].items():
        done = "" if it["done"] is None else shared(it["done"])
        left = "" if it["seconds_left"] is None else spoken(it["seconds_left"])
        rows.append((name, done, left, it["in_units"]["accepted"], it["requests"], state_word(status, it)))
    head = ["stage", "done", "time left", "units accepted", "requests", "state"]
    return section("Stages", table(head, rows) if rows else "")


def _undecided(undecided: Sequence[Found]) -> str:
    """The batches of unknown outcome, each with what is known of it."""
    rows = [
        (
            f"{it['stage']}, batch {it['batch']:,}",
            it["units"],
            it["state"],
            day(it["since"], 1),
            it["answer"] or "none",
            it["known"] or "not read back yet",
        )
        for it in undecided[:MOST_ROWS]
    ]
    head = ["batch", "units", "state", "sent", "answer", "what is known"]
    return section("Unknown outcomes", table(head, rows) if rows else "")


def _permits(budget: Sequence[Found]) -> str:
    """How much of each window is used, as a bar and as numbers."""
    bars = "".join(
        f'<div class="bar"><span>{escape(it["window"])} {escape(it["kind"])}</span>'
        + stacked(f"permits-{at}", f"Permits of {it['window']}", [("requests", it["used"]), ("pending", it["left"])])
        + "</div>"
        for at, it in enumerate(budget)
    )
    rows = [
        (f"{it['window']} {it['kind']}", it["used"], it["left"], spoken(it["resets_in"]) if it["used"] else "")
        for it in budget
    ]
    head = ["window", "requests made", "permits left", "next comes back in"]
    legend = '<ul class="legend"><li class="requests">requests made</li><li class="pending">permits left</li></ul>'
    return section("Permits", f"<figure>{bars}{legend}</figure>", table(head, rows)) if rows else ""
