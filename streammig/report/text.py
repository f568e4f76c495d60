"""A run in words: the table of its totals, and what is to be said beside them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from streammig.errors import counted
from streammig.telemetry import PILOT

MOST_UNDECIDED = 5  # that are listed one by one
ROWS = ("read", "accepted", "filtered", "dead", "unknown", "sending", "pending", "requests")


def totals_table(document: Mapping[str, Any]) -> str:
    """The counts of records of a document, a column for each stage: whatever the numbers, it fits in 80 columns."""
    stages = document["stages"].values()
    lines = [["stage", *document["stages"]], ["state", *(state_word(it["state"], it["code"]) for it in stages)]]
    lines += [[row, *(f"{it[row]:,}" for it in stages)] for row in ROWS]
    lines += [[row, *("-" if it[row] is None else shared(it[row]) for it in stages)] for row in ("fill", "done")]
    if any(it["eta"] for it in stages):
        lines.append(["eta (UTC)", *("-" if it["eta"] is None else it["eta"][5:16].replace("T", " ") for it in stages)])
    return aligned(lines)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns of text: the first to the left, the others to the right."""
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def state_word(state: str, code: str) -> str:
    """A stage's state for people: a pilot that is done has been interrupted by nobody."""
    return "paused" if state == "interrupted" and code == PILOT else state


def state_sentence(document: Mapping[str, Any]) -> str:
    """How a run stands, and what of it waits for people, with the command that shows it."""
    stages, checkpoint = document["stages"].values(), document["checkpoint"]
    words = {state_word(it["state"], it["code"]) for it in stages}
    said = {"running": "The run is on.", "failed": "The run has failed."}.get(
        document["state"], f"The run is {document['state']}."
    )
    if document["state"] == "interrupted" and "paused" in words and words <= {"paused", "complete"}:
        said = "The pilot is done; the rest waits for the full run."
    if parked := sum(it["state"] == "parked" for it in document["undecided"]):
        if document["state"] == "complete":
            said = "All is sent."
        said += f"\nParked until you decide: {counted(parked, 'batch', 'es')}. See: streammig resolve {checkpoint}"
    return said


def waiting_for_people(parked: int) -> str:
    return f"{counted(parked, 'batch', 'es')} {'waits' if parked == 1 else 'wait'} for you to decide"


def summary(document: Mapping[str, Any]) -> str:
    """The totals, whether they add up, and the reasons behind what was not sent."""
    parts = [totals_table(document)]
    for name, stage in document["stages"].items():
        parts += _reasons(name, stage)
    parts.extend(
        f"  slots of {use['window']} ({use['kind']}): {use['used']:,} used, {use['left']:,} left"
        for use in document["budget"]
    )
    parts.append("The totals add up." if document["balanced"] else "THE TOTALS DO NOT ADD UP.")
    if document["dry_run"]:
        parts.append("A dry run: nothing was sent. Accepted means written to a file.")
    elif any(stage["accepted"] for stage in document["stages"].values()):
        parts.append("Accepted means that the target has enqueued it, not that it has applied it.")
    if any(stage["dead"] for stage in document["stages"].values()):
        parts.append(f"What was not sent, and why: streammig dead-letters {document['checkpoint']}")
    parts.extend(undecided_line(it, document["checkpoint"]) for it in document["undecided"][:MOST_UNDECIDED])
    if more := document["undecided"][MOST_UNDECIDED:]:
        parts.append(
            f"  and {counted(len(more), 'more undecided batch', 'es')}: streammig resolve {document['checkpoint']}"
        )
    parts.extend(f"WARNING: {text}" for text in document["warnings"])
    return "\n".join(parts)


def _reasons(name: str, stage: Mapping[str, Any]) -> list[str]:
    """What is to be said of a stage beside its counts."""
    lines = []
    for reason, tally in stage["filtered_by"].items():
        units = f", {counted(tally['units'], 'unit')}" if tally["units"] != tally["records"] else ""
        lines.append(f"  {name}: filtered as {reason}: {counted(tally['records'], 'record')}{units}")
    if stage["dead_by"]:
        lines += _wrapped(f"  {name}: dead letters as", [f"{code}: {it:,}" for code, it in stage["dead_by"].items()])
    if stage["not_sent"]:
        lines.append(f"  {name}: attempts without a connection, not counted as requests: {stage['not_sent']:,}")
    if stage["dropped_fields"]:
        fields = ", ".join(f"{path} ({count:,})" for path, count in stage["dropped_fields"].items())
        lines.append(f"  {name}: unknown fields left out: {fields}")
    if stage["sending"]:
        held = counted(stage["sending"], "record")
        they = "it" if stage["sending"] == 1 else "they"
        lines.append(f"  {name}: cut off while sending {held}: the next run looks whether {they} landed")
    if stage["message"] and stage["state"] != "complete":  # there it is a warning
        lines.append(f"  {name}: {stage['message']}")
    if stage["imbalance"]:
        lines.append(f"  {name}: read {stage['imbalance']['read']}, but accounted for {stage['imbalance']['placed']}")
    return lines


def _wrapped(head: str, parts: Sequence[str]) -> list[str]:
    """A list in lines of less than 80 columns, its parts kept whole."""
    text = f"{head} " + ", ".join(part.replace(" ", "\0") for part in parts)
    lines = textwrap.wrap(text, 79, subsequent_indent="    ", break_on_hyphens=False, break_long_words=False)
    return [text.replace("\0", " ") for text in lines]


def undecided_line(it: Mapping[str, Any], checkpoint: str) -> str:
    """An undecided batch, and the command that says what is known of it."""
    held = f"{counted(it['records'], 'record')}, {counted(it['units'], 'unit')}"
    doubt = f"was being sent at {it['since']}" if it["state"] == "sending" else f"is {it['state']} since {it['since']}"
    return (
        f"  {it['stage']}: batch {it['batch']} ({held}) {doubt}:\n"
        f"    its outcome is unknown. See: streammig resolve {checkpoint} {it['batch']} --stage {it['stage']}"
    )


def shared(share: float) -> str:
    """A share in percent, cut off: 100 % is all of it."""
    return f"{math.floor(round(share * 1000, 6)) / 10:.1f}%"
