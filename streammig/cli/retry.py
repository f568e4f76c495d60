"""`streammig retry`: send dead letters again, corrected or as they are."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Awaitable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streammig.checkpoint import Checkpoint
from streammig.cli import options
from streammig.cli.exit import Ended, finish
from streammig.cli.runtime import beside
from streammig.errors import Unusable, counted
from streammig.migration import Migration
from streammig.selection import BALANCE_DIFFERS
from streammig.spool import forget
from streammig.stages import STAGES
from streammig.telemetry import Output

if TYPE_CHECKING:
    from streammig.dead_letters.replay import Choice


@click.command()
@options.checkpoint
@options.path("--input", "FIXED.ndjson", "Only these: lines of `dead-letters` with corrected records.", "corrected")
@options.stages
@options.codes
@click.option("--missing", is_flag=True, help="Send what a verify did not find, and no dead letters.")
@options.settings_on_top()
@options.current
@options.on_event
@options.as_json()
@options.quiet()
@options.log
def command(
    checkpoint: Path,
    corrected: Path | None,
    stages: tuple[str, ...],
    codes: tuple[str, ...],
    missing: bool,
    toml: Path | None,
    current: bool,
    on_event: str | None,
    **flags: Any,
) -> None:
    """Send dead letters of a run again: all of them as they are, or corrected ones from a file.

    A record that is still bad stays a dead letter, with its new reason. Events and transactions that waited for a
    customer follow in the same call, once the customer can be seen at the target. If it is interrupted, the same
    command goes on: nothing is sent twice.
    """
    from streammig.dead_letters.corrected import Corrected  # they import the rules, which --help can do without
    from streammig.dead_letters.replay import Choice

    output = Output(*(flags.pop(name) for name in Output._fields))
    if missing and (corrected or stages or codes):
        raise Unusable("usage", "--missing takes no --input, --stage or --code", "It sends all that is missing.")
    given = Corrected.read(corrected, checkpoint) if corrected is not None else None
    choice = Choice(frozenset(stages), frozenset(codes), given)
    with closing(Checkpoint.open(checkpoint, read_only=True)) as file:
        before, unmatched = _counts(file), [] if missing else _unmatched(choice, file)

    def work(run: Migration) -> Awaitable[bool]:
        return run.retry_missing() if missing else run.retry(choice)

    whole, problem, began, notify = beside(checkpoint, toml, work, output, current, tells="retry", on_event=on_event)
    with closing(Checkpoint.open(checkpoint, read_only=True)) as file:
        said = _missing_in_words(file) if missing else "\n".join([*unmatched, _in_words(before, _counts(file))])
    code = finish(checkpoint, Ended(whole is True, problem, began, said=said), output, notify)
    if code == 0:
        forget(checkpoint)
    sys.exit(code)


def _counts(file: Checkpoint) -> tuple[int, ...]:
    """How many letters replays have sent, the records that are accepted, filtered, and undecided or still to be sent;
    then how many letters are left, and how many of them wait for their customer."""
    names = [row.name for row in file.stages()]
    totals = [file.totals(name) for name in names]
    letters = [it for name in names for it in file.dead_codes(name).items()]
    return (
        file.replayed(),
        sum(it.accepted.records for it in totals),
        sum(it.filtered.records for it in totals),
        sum(it.unknown.records + it.pending.records for it in totals),
        sum(count for _, count in letters),
        sum(count for code, count in letters if code.startswith("owner-")),
    )


def _in_words(before: tuple[int, ...], after: tuple[int, ...]) -> str:
    """The result of one call of `retry`, as a sentence."""
    sent, accepted, filtered, undecided = (now - then for now, then in zip(after[:4], before[:4], strict=True))
    remain, wait = after[4:]
    parts = [f"{counted(sent, 'dead letter')} sent", f"{counted(accepted, 'record')} accepted"]
    parts += [f"{filtered:,} filtered"] if filtered else []
    parts += [f"{undecided:,} undecided or still to be sent"] if undecided > 0 else []
    left = f"{counted(remain, 'dead letter')} left" if remain else "no dead letters left"
    waits = "waits for its" if wait == 1 else "wait for their"
    waiting = f", of which {wait:,} {waits} customer" if wait else ""
    return f"This retry: {', '.join(parts)}; {left}{waiting}."


def _missing_in_words(file: Checkpoint) -> str:
    """What is left of what a verify did not find."""
    left = sum(file.totals(row.name).missing.records for row in file.stages())
    if not left:
        return "Records still missing: 0."
    again = f"streammig verify {shlex.quote(str(file.path))} --all"
    return f"Records still missing: {left:,}. Read back what was sent: {again}"


def _unmatched(choice: Choice, file: Checkpoint) -> list[str]:
    """A sentence for each chosen code that no letter has, for letters that stay, and for lines that name no letter."""
    names = [row.name for row in file.stages() if row.name in (choice.stages or STAGES)]
    there = {code for name in names for code in file.dead_codes(name)}
    found = f"there {'are' if there else 'is'} {', '.join(sorted(there)) or 'none at all'}"
    said = [f"No dead letter that was asked for has the code {code}: {found}." for code in sorted(choice.codes - there)]
    left = sum(file.dead_codes(name).get(BALANCE_DIFFERS, 0) for name in names)
    if left and choice.leaves_differing and not choice.codes:
        said.append(
            f"{counted(left, 'dead letter')} with the code {BALANCE_DIFFERS} left out: as they are, the target drops"
            f" them. Correct them for --input, or mend the mapping and name them: --code {BALANCE_DIFFERS}"
        )
    if choice.corrected is not None and (unmatched := choice.corrected.unmatched):
        name = "names" if unmatched == 1 else "name"
        said.append(f"{choice.corrected.path}: {counted(unmatched, 'line')} {name} what is no dead letter (any more).")
    return said
