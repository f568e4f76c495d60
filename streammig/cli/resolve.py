"""`streammig resolve`: shows a batch with an unknown outcome, and takes the decision about it."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from streammig.cli import options, say
from streammig.errors import counted
from streammig.model import Batch, BatchState
from streammig.stages import STAGES
from streammig.telemetry import Output

IN_PART = "landed-in-part"
PARKED = 4  # the exit code where it is still undecided


@click.command()
@options.checkpoint
@click.argument("batch", required=False, type=click.IntRange(min=1))
@click.option("--stage", type=click.Choice(STAGES), help="The batch's stage, where the number alone is not enough.")
@click.option("--landed", is_flag=True, help="It landed: it is accepted, and never sent again.")
@click.option(
    "--landed-in-part", type=click.Path(path_type=Path), metavar="IDS",
    help="Only these customers of it landed, one id a line of the file IDS: the others become dead letters.",
)  # fmt: skip
@click.option("--not-landed", is_flag=True, help="It did not land: the next run sends it.")
@click.option("--read-back", is_flag=True, help="Ask the target now.")
@click.option("--reject", is_flag=True, help="Its records are the cause of the answer: the next run searches them.")
@click.option("--set-aside", is_flag=True, help="As --reject, but all of it becomes dead letters.")
@options.settings_on_top(", for --read-back")
@options.as_json("Print what is known as JSON on stdout.")
@options.quiet("errors and warnings")
def command(
    checkpoint: Path, batch: int | None, stage: str | None, toml: Path | None, landed_in_part: Path | None,
    as_json: bool, quiet: bool, **flags: bool,
) -> None:  # fmt: skip
    """Show a batch with an unknown outcome, and decide whether it landed.

    Without BATCH: list all such batches. With BATCH alone: show what is known, and change nothing.
    """
    from streammig.checkpoint import Checkpoint, is_held
    from streammig.cli.undecided import RULINGS, decide, decide_in_part, find, known, to_look_up
    from streammig.report.document import undecided, undecided_entry

    flags["reject"] &= not flags["set_aside"]  # which is a way to reject
    answers = [name.replace("_", "-") for name, asked in flags.items() if asked]
    answers += [IN_PART] if landed_in_part is not None else []
    if len(answers) > 1:
        raise click.UsageError(f"--{' and --'.join(answers)}: give one of them")
    answer = answers[0] if answers else None
    if batch is None and answer is not None:
        listing = shlex.join(["streammig", "resolve", str(checkpoint)])
        raise click.UsageError(f"--{answer} needs the number of the batch: {listing} lists them")
    with closing(Checkpoint.open(checkpoint, read_only=True)) as file:
        running = is_held(checkpoint)
        if batch is None:
            _list([undecided_entry(file, it) for it in undecided(file, running)], checkpoint, as_json)
            return
        found = find(file, batch, stage, running, answer in ("reject", "set-aside"))
        facts = known(file, found)
        # Whose records they are is shown on a terminal alone: it is in no log, and in no document.
        look_up = to_look_up(file, found) if answer is None and not as_json and sys.stdout.isatty() else []
        resume = file.run["context"].get("command")
        ways = _ways(found, checkpoint) if answer is None and not as_json else []
    if not as_json and (answer is None or not quiet):
        say("\n".join([in_words(facts), *look_up, *ways]), sys.stdout if answer is None else sys.stderr)
    called = shlex.join(["streammig", *sys.argv[1:]])
    code = 0
    if answer == "read-back":
        code = _read_back(checkpoint, found, toml, called, Output(quiet=quiet))
    elif landed_in_part is not None:
        decide_in_part(checkpoint, called, found, landed_in_part, time.time())
        _say(found, BatchState.SPLIT, None)
    elif answer is not None:
        say(WARNINGS[answer].format(**facts))
        decide(checkpoint, called, found.seq, found.stage, answer, time.time())
        _say(found, RULINGS[answer][0], resume)
    if as_json:  # one document: where the decision failed, that of its error
        click.echo(json.dumps(facts, indent=2))
    sys.exit(code)


WARNINGS = {
    "landed": (
        "WARNING: batch {batch} of {stage} counts as landed from now on. If it did not land, what it holds is never"
        " sent, and nothing else shows that it is missing. Units: {units:,}."
    ),
    "not-landed": (
        "WARNING: the next run SENDS batch {batch} of {stage} AGAIN. If it landed after all, what it holds is at the"
        " target TWICE: events and points of these customers are doubled. Units: {units:,}."
    ),
    "reject": (
        "WARNING: batch {batch} of {stage} counts as rejected from now on: nothing of it was taken. The next run"
        " sends parts of it, to find the records that the target refuses. Units: {units:,}."
    ),
    "set-aside": (
        "WARNING: the next run makes dead letters of batch {batch} of {stage}. It does not send them. Units: {units:,}."
    ),
}


def _ways(batch: Batch, checkpoint: Path) -> list[str]:
    """What the operator does next about a batch that was shown."""
    call = shlex.join(["streammig", "resolve", str(checkpoint), str(batch.seq), "--stage", batch.stage])
    return [
        "Look for these records at the target. Where they are there:",
        f"  {call} --landed",
        "Where none of them is there:",
        f"  {call} --not-landed",
        "Other decisions: streammig guide unknown-outcomes",
    ]


def _list(entries: list[dict[str, Any]], checkpoint: Path, as_json: bool) -> None:
    from streammig.report.text import undecided_line

    if as_json:
        click.echo(json.dumps(entries, indent=2))
    elif entries:
        say("\n".join(undecided_line(it, str(checkpoint)) for it in entries), sys.stdout)
    else:
        say("No batch has an unknown outcome.")


def _read_back(checkpoint: Path, batch: Batch, toml: Path | None, called: str, output: Output) -> int:
    from streammig.cli.runtime import beside

    ended = beside(checkpoint, toml, called, lambda run: run.read_back(batch.stage, batch.seq), output)
    if ended.problem is not None:
        raise ended.problem
    _say(batch, ended.result, None)
    return {BatchState.PARKED: PARKED, BatchState.UNKNOWN: 130}.get(BatchState(str(ended.result)), 0)


def _say(batch: Batch, state: object, resume: str | None) -> None:
    what, command = {
        BatchState.ACCEPTED: ("is accepted", None),
        BatchState.SEALED: ("is sent again by the next run", resume),
        BatchState.REJECTED: ("is rejected; the next run goes on", resume),
        BatchState.SPLIT: ("is settled: what landed is accepted, the rest are dead letters", None),
        BatchState.PARKED: ("is still undecided: the target shows no proof of either", None),
        BatchState.UNKNOWN: ("is still undecided: stopped before the target had shown enough", None),
    }[BatchState(str(state))]
    say(f"batch {batch.seq} of {batch.stage} {what}" + (f": {command}" if command else ""))


def in_words(facts: Mapping[str, Any]) -> str:
    """What is known of a batch, as text for the operator."""
    made = f"sealed {facts['sealed']}" + (", out of dead letters" if facts["retried"] else "")
    made += f", a part of batch {facts['parent']}" if facts["parent"] else ""
    lines = [
        f"batch {facts['batch']} of {facts['stage']}: {facts['state']} since {facts['since']}",
        f"  {made}",
        f"  holds {counted(facts['records'], 'record')}, {counted(facts['units'], 'unit')}, {facts['bytes']:,} bytes",
    ]
    lines += [f"  sum of {key}: {value}" for key, value in facts["sums"].items()]
    for place in facts["places"]:
        lines += [f"  from {place['file']}", f"    {_stretch(place['from'], place['to'])}"]
    if facts["ranges"] > len(facts["places"]):
        lines.append(f"  and from {facts['ranges'] - len(facts['places']):,} more places")
    lines += ["  see the first of them:", f"    {facts['look']}"] if facts["look"] else []
    lines += [_request(it) for it in facts["requests"]]
    lines.append(f"  {facts['note']}" if facts["note"] else "  not read back so far")
    return "\n".join(lines)


def _stretch(begin: Mapping[str, int], end: Mapping[str, int]) -> str:
    """The records from one place up to another, first and last one included."""
    last = end["record"] if end["unit"] else end["record"] - 1
    first = begin["record"]
    records = f"record {first:,}" if last <= first else f"records {first:,} to {last:,}"
    parts = [f"from unit {begin['unit'] + 1:,}"] if begin["unit"] else []
    parts += [f"up to unit {end['unit']:,}" + (" of the last one" if last > first else "")] if end["unit"] else []
    return f"{records}{''.join(f', {part}' for part in parts)} (from byte {begin['byte']:,})"


def _request(it: Mapping[str, Any]) -> str:
    parts = [it["kind"] or "no answer was noted"]
    parts += [f"status {it['status']}"] if it["status"] is not None else []
    parts += [f"after {it['latency']:.1f} s"] if it["latency"] is not None else []
    parts += [f"the target's clock said {it['date']}"] if it["date"] else []
    parts += [it["message"]] if it["message"] else []
    return f"  request {it['number']}, {it['started']}: {', '.join(parts)}"
