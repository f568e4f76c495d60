"""A run in words: the table of its totals, the reasons beside them, and the commands that lead on: one list of them for
`status`, the end of `run`, and the report."""

from __future__ import annotations

import math
import re
import shlex
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from operator import or_
from pathlib import Path
from typing import Any, NamedTuple

from streammig.errors import SAMPLES_MISSING, counted
from streammig.report.document import beside_verified
from streammig.telemetry import PILOT, spoken

WIDTH = 79
# What is offered for copying stands at the end of a line, or is a line.
COMMAND = re.compile(r"((?:.*?:)?\s+|)((?:streammig|tail|gzip|zstd|xz|bzip2) .*)")
ROWS = ("read", "accepted", "filtered", "dead", "unknown", "sending", "pending", "reverted")
RARE = ("sending", "reverted")  # told only where there are some
MOST_UNDECIDED = 5  # batches that get a command of their own


def totals_table(document: Mapping[str, Any]) -> str:
    """The counts of a document in units, a column for each stage, with those of records below where they differ.
    Whatever the numbers, it fits in 80 columns."""
    stages = document["stages"].values()
    written = {"accepted": "written"} if document["dry_run"] else {}
    lines = [["", *document["stages"]], ["state", *(state_word(document, it) for it in stages)]]
    for row in ROWS:
        if row in RARE and not any(it["in_units"][row] for it in stages):
            continue
        lines.append([written.get(row, row), *(f"{it['in_units'][row]:,}" for it in stages)])
        if any(it[row] != it["in_units"][row] for it in stages):
            lines.append(["  records", *(f"{it[row]:,}" for it in stages)])
    lines.append(["requests", *(f"{it['requests']:,}" for it in stages)])
    lines += [[row, *("-" if it[row] is None else shared(it[row]) for it in stages)] for row in ("fill", "done")]
    if any(it["seconds_left"] is not None for it in stages):
        left = ("-" if it["seconds_left"] is None else spoken(it["seconds_left"]) for it in stages)
        lines.append(["time left", *left])
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


def wrapped(text: str, width: int = WIDTH) -> str:
    """Text in lines of at most `width` columns. A command that is offered for copying stays whole, on a line of its
    own where it does not fit."""
    lines = []
    for line in text.splitlines():
        indent = " " * (len(line) - len(line.lstrip()) + 2)
        found = COMMAND.fullmatch(line)
        said, command = found.groups() if found and len(line) > width else (line, "")
        if not said.strip():  # nothing but a command
            lines.append(line)
            continue
        lines += textwrap.wrap(said, width, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)
        lines += [f"{indent}{command}"] if command else []
    return "\n".join(lines)


def state_word(document: Mapping[str, Any], stage: Mapping[str, Any]) -> str:
    """A stage's state for people: a pilot that is done is paused, not interrupted, and what is reverted says so."""
    if document["state"] == "reverted":
        return "reverted"
    return "paused" if stage["state"] == "interrupted" and stage["code"] == PILOT else str(stage["state"])


def state_sentence(document: Mapping[str, Any]) -> str:
    """The state of a run, and how many of its batches wait for the operator."""
    told = {"running": "The run is on.", "failed": "The run has failed.", "reverting": "The run is being reverted."}
    said = told.get(document["state"], f"The run is {document['state']}.")
    if document["paused"] and document["state"] != "complete":
        said += f" It is paused: to go on, call streammig unpause {shlex.quote(document['checkpoint'])}"
    if pilot_is_done(document):
        said = "The pilot is done; the full run sends the rest."
    if parked := sum(it["state"] == "parked" for it in document["undecided"]):
        waits = f"{counted(parked, 'batch', 'es')} {'waits' if parked == 1 else 'wait'} for you to decide."
        return f"All is sent, but {waits}" if document["state"] == "complete" else f"{said} {waits}"
    if document["state"] == "complete":
        left = what_is_left(document)
        said = f"The run is complete, with {left}." if left else said
        if last_look_is_left(document):
            said = f"Everything is sent{f', with {left}' if left else ''}; the last look at the target is left."
    return said


def last_look_is_left(document: Mapping[str, Any]) -> bool:
    """Whether all is sent, and the run was stopped before it had seen samples of it at the target."""
    missing = any(it["code"] == SAMPLES_MISSING for it in document["stages"].values())
    return bool(document["state"] == "complete" and document["resume"] and not missing)


def time_left(document: Mapping[str, Any]) -> list[str]:
    """When all will be done, and when the next request may start."""
    left = document["seconds_left"]
    if left is None:
        return []
    stages = document["stages"].values()
    if document["state"] == "running" and not left and all(it["state"] == "complete" for it in stages):
        return ["All is sent. The last look at the target is under way."]
    if not document["eta"]:
        return [f"Time left once it goes on: {spoken(left)}"]
    said = f"Time left: {spoken(left)}, until {document['eta'][:16].replace('T', ' ')} UTC"
    return [said + (f". Next request in {spoken(wait)}" if (wait := document["next_request_in"] or 0) >= 1 else "")]


def what_is_left(document: Mapping[str, Any]) -> str:
    """Dead letters, missing samples and differences, where a run is complete but for them; "" where it is not."""
    stages = document["stages"].values()
    dead = sum(stage["dead"] for stage in stages)
    parts = [counted(dead, "dead letter")] if dead else []
    parts += ["samples missing at the target"] if any(it["code"] == SAMPLES_MISSING for it in stages) else []
    parts += ["differences at the target"] if differs(document.get("verification")) else []
    return " and ".join(parts)


def differs(found: Mapping[str, Any] | None) -> bool:
    """Whether the last verify found anything missing or different, and nothing was sent since."""
    return found is not None and not (found["same"] or found["outdated"])


def summary(document: Mapping[str, Any]) -> str:
    """The totals, whether they add up, the reasons of what was not sent, and the commands that show more."""
    stages = document["stages"]
    parts = [totals_table(document)]
    for name, stage in stages.items():
        parts += _reasons(name, stage, told=document["state"] != "reverted")
    parts += _pace(document)
    parts += _drift(document)
    parts.append("The totals add up." if document["balanced"] else "THE TOTALS DO NOT ADD UP.")
    if document["dry_run"]:
        parts += _written(Path(document["checkpoint"]).parent)
    elif any(stage["accepted"] for stage in stages.values()):
        if (found := document["verification"]) is None or found["outdated"]:
            parts.append("Accepted means that the target has enqueued it, not that it has applied it.")
        parts.append(f"What the target holds: {verified_words(document['verification'])}.")
    parts.extend(f"WARNING: {text}" for text in document["warnings"])
    # The command that goes on with the run is its last word, after what ended it.
    steps = [step for step in next_steps(document) if step.command != document["resume"]]
    parts.extend(f"{why}\n  {command}" for why, command in steps)
    return "\n".join(parts)


def _written(folder: Path) -> Iterator[str]:
    """Where a dry run has put what would be sent."""
    yield f"A dry run: nothing was sent. The request bodies are in {folder}."
    if names := sorted(path.name for path in folder.glob("*.beside.txt")):
        yield f"The first records, each beside what becomes of it: {', '.join(names)} there."


def verified_words(found: Mapping[str, Any] | None) -> str:
    """What is known of what the target holds, in words."""
    if found is None or found["outdated"]:
        return "accepted, not verified"
    words = f"verified ({found['kind']})"
    if aside := beside_verified(found):
        words += f", but for {counted(aside, 'unit')} that can't be compared"
    return words + ("" if found["same"] else ", with differences: `streammig verify` lists them")


def brief(document: Mapping[str, Any]) -> str:
    """The counts, the limits and the time left, in at most 24 lines."""
    return "\n".join([totals_table(document), *_pace(document), *_drift(document), state_sentence(document)])


def _drift(document: Mapping[str, Any]) -> list[str]:
    return drift_words(document["plan"], document["state"] == "complete")


def _pace(document: Mapping[str, Any]) -> list[str]:
    if document["state"] in ("complete", "reverted"):
        return []
    limits = [
        f"  limit {use['window']} ({use['kind']}): {use['used']:,} used, {use['left']:,} left"
        + ("" if use["left"] else f", one is free in {spoken(use['resets_in'])}")
        for use in document["budget"]
    ]
    return limits + time_left(document)


def _reasons(name: str, stage: Mapping[str, Any], *, told: bool) -> list[str]:
    """What is to be said of a stage beside its counts; why it stands as it does, if that is to be told."""
    lines = []
    for reason, tally in stage["filtered_by"].items():
        units = f", {counted(tally['units'], 'unit')}" if tally["units"] != tally["records"] else ""
        lines.append(f"  {name}: filtered as {reason}: {counted(tally['records'], 'record')}{units}")
    if stage["dead_by"]:
        lines += _listed(f"  {name}: dead letters as", [f"{code}: {it:,}" for code, it in stage["dead_by"].items()])
    if stage["not_sent"]:
        lines.append(f"  {name}: failed connection attempts: {stage['not_sent']:,}")
    if stage["dropped_fields"]:
        fields = [f"{path} ({count:,})" for path, count in stage["dropped_fields"].items()]
        lines += _listed(f"  {name}: fields the target does not know, left out:", fields)
    if stage["sending"]:
        lines.append(f"  {name}: records under way when the run was cut off, to be read back: {stage['sending']:,}")
    if told and stage["message"] and stage["state"] != "complete":  # there it is a warning
        lines.append(f"  {name}: {stage['message']}")
    if stage["imbalance"]:
        lines.append(f"  {name}: read {stage['imbalance']['read']}, but accounted for {stage['imbalance']['placed']}")
    return lines


def _listed(head: str, parts: Sequence[str]) -> list[str]:
    """A list in lines of less than 80 columns, its parts kept whole."""
    text = f"{head} " + ", ".join(part.replace(" ", "\0") for part in parts)
    lines = textwrap.wrap(text, WIDTH, subsequent_indent="    ", break_on_hyphens=False, break_long_words=False)
    return [text.replace("\0", " ") for text in lines]


def undecided_line(it: Mapping[str, Any], checkpoint: str) -> str:
    """An undecided batch and, on a line of its own, the command that shows it."""
    return f"  {undecided_words(it)}\n    {undecided_command(it, checkpoint)}"


def shared(share: float) -> str:
    """A share in percent, cut off: 100 % is all of it."""
    return f"{math.floor(round(share * 1000, 6)) / 10:.1f}%"


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


# -- what is left to do ------------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """What is left to do, as a noun and a fact or as an imperative, and the exact command that does it."""

    why: str
    command: str


def next_steps(document: Mapping[str, Any]) -> list[Step]:
    """What is left to do of a run, most urgent first, from its `document`; nothing where all is done."""
    checkpoint = shlex.quote(document["checkpoint"])
    stages, undecided = document["stages"].values(), document["undecided"]
    steps = [Step(undecided_words(it), undecided_command(it, checkpoint)) for it in undecided[:MOST_UNDECIDED]]
    if len(undecided) > MOST_UNDECIDED:
        more = len(undecided) - MOST_UNDECIDED
        steps.append(Step(f"More batches with an unknown outcome: {more:,}", f"streammig resolve {checkpoint}"))
    if dead := sum(stage["dead"] for stage in stages):
        steps.append(Step(f"Dead letters, with their reasons: {dead:,}", f"streammig dead-letters {checkpoint}"))
    if document["state"] == "reverting":
        return [*steps, Step("A revert is under way. Read back what became of it", f"streammig revert {checkpoint}")]
    if document["state"] == "reverted":  # such a checkpoint sends nothing any more
        return steps
    if document["state"] == "running":
        return [*steps, Step("The run is on. Watch it", f"streammig status --watch {checkpoint}")]
    if dead and not document["dry_run"]:
        steps.append(
            Step("Send them again as they are, or corrected with --input FILE", f"streammig retry {checkpoint}")
        )
    if missing := sum(stage["missing"] for stage in stages):
        said = f"Records that are missing at the target: {missing:,}. Send them again"
        steps.append(Step(said, f"streammig retry {checkpoint} --missing"))
    if not document["dry_run"] and any(stage["accepted"] for stage in stages):
        steps += _looks(document, checkpoint)
    if document["resume"]:
        steps.append(Step("Go on with the run", document["resume"]))
    return steps


def _looks(document: Mapping[str, Any], checkpoint: str) -> list[Step]:
    """What shows whether all that was accepted arrived; of a pilot, what takes it back, too."""
    found, is_pilot = document["verification"], pilot_is_done(document)
    steps = []
    if found is None or found["outdated"]:
        if is_pilot:
            steps.append(Step("Read back all that the pilot sent", f"streammig verify {checkpoint} --all"))
        elif document["state"] == "complete":
            steps.append(Step("Read back a sample of what was accepted", f"streammig verify {checkpoint}"))
    if is_pilot:
        steps.append(Step("Take the pilot back, if it is not right", f"streammig revert {checkpoint}"))
    return steps


def pilot_is_done(document: Mapping[str, Any]) -> bool:
    """Whether the run stands behind a pilot, and its other records are still to be sent."""
    stages = document["stages"].values()
    paused = [it["state"] == "interrupted" and it["code"] == PILOT for it in stages]
    ended = [it["state"] == "complete" for it in stages]
    return document["state"] == "interrupted" and any(paused) and all(map(or_, paused, ended))


def undecided_words(it: Mapping[str, Any]) -> str:
    """A batch with an unknown outcome: what it holds, its state, and since when."""
    units = f", {counted(it['units'], 'unit')}" if it["units"] != it["records"] else ""
    held = counted(it["records"], "record") + units
    since = f" since {it['since']}" if it["since"] else ""  # a part of a batch may never have been sent
    return f"{it['stage']}: batch {it['batch']}, {held}, {it['state']}{since}"


def undecided_command(it: Mapping[str, Any], checkpoint: str) -> str:
    return f"streammig resolve {checkpoint} {it['batch']} --stage {it['stage']}"
