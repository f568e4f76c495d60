"""`streammig resolve`: shows a batch with an unknown outcome, and takes the operator's decision about it."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import click

from streammig.address import is_address
from streammig.batching import assemble, ranges_of
from streammig.checkpoint import Checkpoint, is_held, locked
from streammig.cli import called, options, say
from streammig.cli.runtime import beside
from streammig.delivery.in_part import CODE as IN_PART_CODE
from streammig.errors import Problem, Unusable, counted
from streammig.model import Batch, BatchState, DeadLetter
from streammig.report.document import iso, undecided, undecided_entry
from streammig.report.text import undecided_line
from streammig.sources import parse_input
from streammig.sources.packed import PLAIN, UNPACK
from streammig.stages import STAGES
from streammig.telemetry import Output

IN_PART = "landed-in-part"
PARKED = 4  # the exit code where it is still undecided
SHOWN_BYTES = 2_000  # of the export, enough to show whose records they are
SHOWN, MARKS = 5, 6  # customers to look up, and dates or purchases of each
LOOKED_UP = ("registration_date", "issued_at", "purchase_id")
PLACES = 10  # ranges of a batch that are named: a batch of events has one, a batch of transactions hundreds


class Ruling(NamedTuple):
    """A decision about a batch: the state that it leads to, the note that records it, and a warning before it."""

    state: BatchState
    note: str
    warning: str


RULINGS = {
    "landed": Ruling(
        BatchState.ACCEPTED,
        "it landed",
        "counts as landed from now on. If it did not land, what it holds is never sent, and nothing else shows that it"
        " is missing.",
    ),
    "not-landed": Ruling(
        BatchState.SEALED,
        "it did not land",
        "is SENT AGAIN by the next run. If it landed after all, what it holds is at the target TWICE: events and points"
        " of these customers are doubled.",
    ),
    "reject": Ruling(
        BatchState.REJECTED,
        "it is rejected for its records, and its bad ones are to be searched",
        "counts as rejected from now on: nothing of it was taken. The next run sends parts of it, to find the records"
        " that the target refuses.",
    ),
    "set-aside": Ruling(
        BatchState.REJECTED,
        "it is rejected, and all of it is to become dead letters",
        "becomes dead letters in the next run, which does not send it.",
    ),
}


@click.command()
@options.checkpoint
@click.argument("batch", required=False, type=click.IntRange(min=1))
@click.option("--stage", type=click.Choice(STAGES), help="The batch's stage, where the number alone is not enough.")
@click.option("--landed", is_flag=True, help="It landed: it is accepted, and never sent again.")
@options.path(
    "--landed-in-part",
    "IDS",
    "Only these customers of it landed, one id a line of the file IDS: the others become dead letters.",
)
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
    code = 0
    if answer == "read-back":
        code = _read_back(checkpoint, found, toml, Output(quiet=quiet))
    elif landed_in_part is not None:
        decide_in_part(checkpoint, called(), found, landed_in_part, time.time())
        _say(found, BatchState.SPLIT, None)
    elif answer is not None:
        ruling = RULINGS[answer]
        say(f"WARNING: batch {found.seq} of {found.stage} {ruling.warning} Units: {found.tally.units:,}.")
        decide(checkpoint, called(), found.seq, found.stage, answer, time.time())
        _say(found, ruling.state, resume)
    if as_json:  # one document: where the decision failed, that of its error
        click.echo(json.dumps(facts, indent=2))
    sys.exit(code)


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
    if as_json:
        click.echo(json.dumps(entries, indent=2))
    elif entries:
        say("\n".join(undecided_line(it, str(checkpoint)) for it in entries), sys.stdout)
    else:
        say("No batch has an unknown outcome.")


def _read_back(checkpoint: Path, batch: Batch, toml: Path | None, output: Output) -> int:
    ended = beside(checkpoint, toml, lambda run: run.read_back(batch.stage, batch.seq), output)
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


# -- facts and decisions ----


def find(checkpoint: Checkpoint, seq: int, stage: str | None, running: bool, rejecting: bool = False) -> Batch:
    """The undecided batch of this number; with `rejecting` also a batch whose answer stopped the run. Raises `Unusable`
    if there is none, or one in several stages."""
    left = undecided(checkpoint, running) + (checkpoint.stopped() if rejecting else [])
    found = [batch for batch in left if batch.seq == seq and stage in (None, batch.stage)]
    if len(found) > 1:
        names = ", ".join(batch.stage for batch in found)
        raise Unusable(
            "batch-ambiguous", f"batch {seq} is undecided in several stages: {names}", "Name one with --stage."
        )
    if found:
        return found[0]
    states = [
        f"batch {seq} of {row.name} is {batch.state}"
        for row in checkpoint.stages()
        if stage in (None, row.name)
        for batch in checkpoint.batches(row.name, *BatchState)
        if batch.seq == seq
    ]
    numbers = ", ".join(f"{batch.seq} of {batch.stage}" for batch in left[:20]) or "none"
    raise Unusable(
        "nothing-to-decide",
        f"{'; '.join(states) or f'there is no batch {seq}'}: there is nothing to decide",
        f"Undecided in {checkpoint.path}: {numbers}.",
    )


def known(checkpoint: Checkpoint, batch: Batch) -> dict[str, Any]:
    """The facts about a batch, JSON-ready: what it holds, where that stands in the export, its requests with their
    answers, and what a read-back showed."""
    about = checkpoint.about(batch)
    return undecided_entry(checkpoint, batch) | {
        "sums": {key: f"{value:f}" for key, value in sorted(batch.tally.sums.items())},
        "bytes": batch.size,
        "sealed": iso(about["sealed"]),
        "retried": batch.retried,
        "parent": batch.parent,
        "places": _places(checkpoint, batch),
        "look": _look(checkpoint, batch),
        "ranges": len(batch.ranges),
        "requests": [
            {name: it for name, it in attempt._asdict().items() if name not in ("stopped", "in_part")}
            | {"started": iso(attempt.started)}
            for attempt in checkpoint.attempts(batch)
        ],
        "note": about["note"],
    }


def _files(checkpoint: Checkpoint, batch: Batch) -> Sequence[str]:
    found: Sequence[str] = checkpoint.run["context"].get("inputs", {}).get(batch.stage, ())
    return found


def _places(checkpoint: Checkpoint, batch: Batch) -> list[dict[str, Any]]:
    files = _files(checkpoint, batch)
    return [
        {
            "file": files[begin.source] if begin.source < len(files) else f"file {begin.source + 1}",
            "from": {"record": begin.ordinal, "unit": begin.unit, "byte": begin.offset},
            "to": {"record": end.ordinal, "unit": end.unit, "byte": end.offset},
        }
        for begin, end in batch.ranges[:PLACES]
    ]


def _look(checkpoint: Checkpoint, batch: Batch) -> str | None:
    """A shell command that shows the begin of a batch in the export: the checkpoint has no ids."""
    files = _files(checkpoint, batch)
    if not batch.ranges or batch.ranges[0].begin.source >= len(files):
        return None
    begin, end = batch.ranges[0]
    if is_address(files[begin.source]):
        return None
    file, before = shlex.quote(parse_input(files[begin.source]).file), begin.offset + 1
    length = min(end.offset - begin.offset, SHOWN_BYTES) or SHOWN_BYTES
    packed = checkpoint.fingerprints(batch.stage)[begin.source].get("compression", PLAIN)
    read = f"{UNPACK[packed]} {file} | tail -c +{before}" if packed else f"tail -c +{before} {file}"
    return f"{read} | head -c {length}"


def to_look_up(checkpoint: Checkpoint, batch: Batch) -> list[str]:
    """Lines with what the target said of a batch, as it came; then with some customers of it, and the dates and
    purchases by which to find them at the target."""
    said = checkpoint.outbox.answer(batch)
    lines = ["  the target said:", f"    {said}"] if said else []
    try:
        records = checkpoint.outbox.contents(batch, SHOWN).records
    except Problem:
        return lines
    lines.append("  look up at the target:")
    for record in records[:SHOWN]:
        marks = list(dict.fromkeys(_marks(json.loads(record.body))))
        lines.append(f"    customer {record.owner}" + (f": {', '.join(marks[:MARKS])}" if marks else ""))
    return lines


def _marks(value: Any) -> Iterator[str]:
    """The dates and the ids of purchases that a record holds, in its order."""
    if isinstance(value, list):
        for it in value:
            yield from _marks(it)
    elif isinstance(value, dict):
        yield from (f"{name} {value[name]}" for name in LOOKED_UP if isinstance(value.get(name), str))
        for it in value.values():
            yield from _marks(it)


def decide_in_part(path: Path, command: str, batch: Batch, ids: Path, at: float) -> None:
    """Keep the operator's decision that only the customers named in a file landed. The others of the batch become dead
    letters, which a retry sends. Raises `Unusable` where the file names none of the batch, all of it, or others."""
    landed = _ids(ids)
    with locked(path, command), closing(Checkpoint.open(path)) as file:
        file.recover()
        batch = find(file, batch.seq, batch.stage, running=False)
        head, tail, records = file.outbox.contents(batch)
        owners = {record.owner for record in records}
        if foreign := [at for it, at in landed.items() if it not in owners]:
            said = f"{ids}: customers that are not in batch {batch.seq} of {batch.stage}: {len(foreign):,}; the first"
            said += f" is in line {foreign[0]:,}"
            raise Unusable("ids-foreign", said, "Name only customers of this batch.")
        if not landed or landed.keys() == owners:
            none_or_all = "none of" if not landed else "all of"
            said = f"{ids} names {none_or_all} the customers of batch {batch.seq} of {batch.stage}"
            raise Unusable("ids-whole", said, f"Use --{'landed' if landed else 'not-landed'}.")
        there = [record for record in records if record.owner in landed]
        missing = [record for record in records if record.owner not in landed]
        accepted, dead = (assemble(it, head, tail, ranges_of(it)) for it in (there, missing))
        why = f"the operator, {iso(at)}: a part of its batch landed, and this did not"
        letters = [DeadLetter(it.position, it.unit, IN_PART_CODE, why, it.tally) for it in missing]
        with file.transaction():
            file.move(batch, BatchState.PARKED, BatchState.UNKNOWN)
            file.settle_in_part(batch, accepted, dead, letters, at, [it.owner for it in missing])


def _ids(path: Path) -> dict[str, int]:
    """The ids in a file, each with its line."""
    try:
        lines = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        return {line.strip(): at for at, line in lines if line.strip()}
    except (OSError, UnicodeDecodeError):
        said = f"{path}: no ids can be read there"
        raise Unusable("ids-unreadable", said, "Name a text file in UTF-8 with one id a line.") from None


def decide(path: Path, command: str, seq: int, stage: str | None, ruling: str, at: float) -> Batch:
    """Keep the operator's decision about a batch, one of `RULINGS`. Raises `Held` while another process holds the
    checkpoint, and `Unusable` like `find`, or where nothing of the stage was accepted before the run stopped."""
    rejecting = ruling in ("reject", "set-aside")
    with locked(path, command), closing(Checkpoint.open(path)) as file:
        file.recover()
        batch = find(file, seq, stage, running=False, rejecting=rejecting)
        if batch.state is BatchState.SEALED and not file.counts(batch.stage)["accepted"]:
            raise Unusable(
                "nothing-accepted",
                f"nothing of {batch.stage} was accepted yet: the records of batch {seq} are not the cause",
                "Find the cause of the target's answer: the address, the key, or a permission.",
            )
        state, note, _ = RULINGS[ruling]
        ruled = file.rule(batch, state, ruling, at, f"the operator, {iso(at)}: {note}")
        assert ruled, "nobody else can have decided it: the checkpoint is locked"
    return batch
