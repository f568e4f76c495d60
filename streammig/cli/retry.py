"""`streammig retry`: send dead letters again, corrected or as they are."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import click

from streammig.cli import options
from streammig.records import STAGES

if TYPE_CHECKING:
    from streammig.checkpoint import Checkpoint
    from streammig.migration import Choice


T = TypeVar("T")


@click.command()
@options.checkpoint
@click.option(
    "--input", "corrected", type=click.Path(path_type=Path), metavar="FIXED.ndjson",
    help="Only these: lines of `dead-letters` with corrected records.",
)  # fmt: skip
@click.option("--stage", "stages", multiple=True, type=click.Choice(STAGES), help="Only those of this stage.")
@click.option("--code", "codes", multiple=True, metavar="CODE", help="Only those with this code.")
@options.settings_on_top()
@options.current
@options.as_json()
@options.quiet()
def command(
    checkpoint: Path,
    corrected: Path | None,
    stages: tuple[str, ...],
    codes: tuple[str, ...],
    toml: Path | None,
    current: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Send dead letters of a run again: all of them as they are, or corrected ones from a file.

    A record that is still bad stays a dead letter, with its new reason. Events and transactions that waited for a
    customer follow in the same call, once the customer can be seen at the target. If it is interrupted, the same
    command goes on: nothing is sent twice.
    """
    from streammig.cli.exit import Ended, finish
    from streammig.cli.runtime import beside
    from streammig.migration import Choice, Corrected
    from streammig.spool import forget

    choice = Choice(
        frozenset(stages), frozenset(codes), Corrected.read(corrected, checkpoint) if corrected is not None else None
    )
    before, unmatched = _ask(checkpoint, _counts), _ask(checkpoint, lambda file: _unmatched(choice, file))
    called = shlex.join(["streammig", *sys.argv[1:]])
    whole, problem, began = beside(checkpoint, toml, called, lambda run: run.retry(choice), quiet, current)
    said = "\n".join([*unmatched, _in_words(before, _ask(checkpoint, _counts))])
    code = finish(checkpoint, Ended(whole is True, problem, began, said=said), as_json=as_json, quiet=quiet)
    if code == 0:
        forget(checkpoint)
    sys.exit(code)


class Counts(NamedTuple):
    """How many letters replays have sealed so far, records by what became of them, and the letters that are left;
    `waiting` are those of them that wait for their customer."""

    sent: int
    accepted: int
    filtered: int
    undecided: int
    left: int
    waiting: int


def _counts(file: Checkpoint) -> Counts:
    """As the checkpoint stands now: before and after a replay, they tell what it did."""
    names = [row.name for row in file.stages()]
    books = [file.books(name) for name in names]
    letters = [it for name in names for it in file.dead_codes(name).items()]
    return Counts(
        file.replayed(),
        sum(it.accepted.records for it in books),
        sum(it.filtered.records for it in books),
        sum(it.unknown.records + it.pending.records for it in books),
        sum(count for _, count in letters),
        sum(count for code, count in letters if code.startswith("owner-")),
    )


def _ask(checkpoint: Path, question: Callable[[Checkpoint], T]) -> T:
    from streammig.checkpoint import Checkpoint

    file = Checkpoint.open(checkpoint, read_only=True)
    try:
        return question(file)
    finally:
        file.close()


def _in_words(before: Counts, after: Counts) -> str:
    """The result of one call of `retry`, as a sentence."""
    from streammig.errors import counted

    sent, accepted, filtered, undecided = (now - then for now, then in zip(after[:4], before[:4], strict=True))
    parts = [f"{counted(sent, 'dead letter')} sent", f"{counted(accepted, 'record')} accepted"]
    parts += [f"{filtered:,} filtered"] if filtered else []
    parts += [f"{undecided:,} undecided or still to be sent"] if undecided > 0 else []
    left = f"{counted(after.left, 'dead letter')} left" if after.left else "no dead letters left"
    waits = "waits for its" if after.waiting == 1 else "wait for their"
    waiting = f", of which {after.waiting:,} {waits} customer" if after.waiting else ""
    return f"This retry: {', '.join(parts)}; {left}{waiting}."


def _unmatched(choice: Choice, file: Checkpoint) -> list[str]:
    """A sentence for each chosen code that no letter has, and for lines that name no letter."""
    from streammig.errors import counted

    names = [row.name for row in file.stages() if row.name in (choice.stages or STAGES)]
    there = {code for name in names for code in file.dead_codes(name)}
    found = f"there {'are' if there else 'is'} {', '.join(sorted(there)) or 'none at all'}"
    said = [f"No dead letter that was asked for has the code {code}: {found}." for code in sorted(choice.codes - there)]
    if choice.corrected is not None and (strangers := choice.corrected.strangers):
        name = "names" if strangers == 1 else "name"
        said.append(f"{choice.corrected.path}: {counted(strangers, 'line')} {name} what is no dead letter (any more).")
    return said
