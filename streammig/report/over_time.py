"""What happened over time as charts: units accepted, requests by their answers, and how long answers took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from streammig.errors import counted
from streammig.model import Kind
from streammig.report.parts import columns, day, folded, section, table

Found = Mapping[str, Any]
# The colour of an outcome, as a CSS class, in the order in which outcomes are stacked. All others share the last one.
COLOURS: Mapping[str, str] = {
    Kind.ACCEPTED: "accepted",
    Kind.THROTTLED: "pending",
    Kind.REJECTED: "dead",
    Kind.UNKNOWN: "unknown",
}
OTHER = "filtered"
LOW = 48  # pixels of the charts below the first one


def over_time(found: Found) -> str:
    """The section of a page: for each stage three charts on one axis of time, and their numbers as a table."""
    numbers = [slot["number"] for it in found["stages"].values() for slot in it["timeline"]]
    if found["first_request"] is None or not numbers:
        return ""
    count = max(numbers) + 1
    figures = [_figure(found, name, count) for name, it in found["stages"].items() if it["timeline"]]
    said = f"In each {_width(found['slot'])}: units accepted, requests by their answer, and how long answers took."
    return section("Over time", f"<p>{escape(said)}</p>", *figures)


def _figure(found: Found, name: str, count: int) -> str:
    slots = {slot["number"]: slot for slot in found["stages"][name]["timeline"]}
    every, shown = _width(found["slot"]), [slots.get(at, {}) for at in range(count)]
    units = [slot.get("units", 0) for slot in shown]
    most = f"at most {counted(max(units), 'unit')} in {every}"
    ends = [escape(day(found[end], found["slot"])) for end in ("first_request", "last_answer")]
    return (
        f"<figure><figcaption>{escape(name)}<span>{escape(most)}</span></figcaption>"
        + columns(f"time-{name}", f"{name}: units accepted over time", most, [("accepted", units)])
        + _answers(name, shown)
        + _latency(name, shown)
        + f'<div class="axis"><span>{ends[0]}</span><span>{ends[1]}</span></div>'
        + folded("The numbers", _numbers(found, [slots[at] for at in sorted(slots)]))
        + "</figure>"
    )


def _answers(name: str, shown: Sequence[Found]) -> str:
    """Requests by the answer, stacked in the order of `COLOURS`: each layer is drawn with all below it, the last first,
    and covered by the next."""
    totals = Counter[str]()
    for slot in shown:
        totals.update(slot.get("answers", {}))
    held: dict[str, list[str]] = {}  # the answers of each colour
    for answer in sorted(totals, key=lambda it: -totals[it]):
        held.setdefault(COLOURS.get(answer.partition(" ")[0], OTHER), []).append(answer)
    order = [colour for colour in (*COLOURS.values(), OTHER) if colour in held]
    sums, layers = [0] * len(shown), []
    for colour in order:
        sums = [
            sum(slot.get("answers", {}).get(answer, 0) for answer in held[colour]) + below
            for slot, below in zip(shown, sums, strict=True)
        ]
        layers.append((colour, sums))
    said = ", ".join(f"{count:,} {answer}" for answer, count in totals.most_common())
    legend = "".join(f'<li class="{colour}">{escape(", ".join(held[colour]))}</li>' for colour in order)
    chart = columns(f"answers-{name}", f"{name}: requests by their answer over time", said, layers[::-1], LOW)
    return f"{_legend(f'<li>requests, at most {max(sums):,}</li>{legend}')}{chart}"


def _latency(name: str, shown: Sequence[Found]) -> str:
    half, most = ([slot.get(key) or 0.0 for slot in shown] for key in ("p50", "p90"))
    if not any(most):
        return ""
    said = f"at most {max(most):.2f} s for 90 % of the answers"
    chart = columns(
        f"latency-{name}",
        f"{name}: how long answers took over time",
        said,
        [("pending", most), ("requests", half)],
        LOW,
    )
    legend = f'<li>{said}</li><li class="requests">half within</li><li class="pending">90 % within</li>'
    return f"{_legend(legend)}{chart}"


def _legend(items: str) -> str:
    return f'<ul class="legend of">{items}</ul>'


def _numbers(found: Found, slots: Sequence[Found]) -> str:
    answers = sorted({answer for slot in slots for answer in slot["answers"]})
    rows = [
        (
            day(slot["from"], found["slot"])[:-4],
            slot["units"],
            *(slot["answers"].get(answer, 0) for answer in answers),
            *("" if slot[key] is None else f"{slot[key]:.2f} s" for key in ("p50", "p90")),
        )
        for slot in slots
    ]
    return table(["from (UTC)", "units accepted", *answers, "half within", "90 % within"], rows)


def _width(seconds: int) -> str:
    """A slot as people say it."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
