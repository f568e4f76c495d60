"""`streammig retry`: send dead letters again, corrected or as they are."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streammig.cli import options
from streammig.records import STAGES

if TYPE_CHECKING:
    from streammig.aftercare.counts import Counts
    from streammig.migration import Choice


@click.command()
@options.checkpoint
@click.option(
    "--input", "repaired", type=click.Path(path_type=Path), metavar="FIXED.ndjson",
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
    repaired: Path | None,
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
    from streammig.aftercare.counts import counts
    from streammig.aftercare.repaired import check
    from streammig.cli.exit import Ended, finish
    from streammig.cli.runtime import beside
    from streammig.migration import Choice
    from streammig.spool import forget

    choice = Choice(frozenset(stages), frozenset(codes), repaired is not None)
    if repaired is not None:
        check(repaired, checkpoint)
    before = counts(checkpoint)
    called = shlex.join(["streammig", *sys.argv[1:]])
    whole, problem, began = beside(checkpoint, toml, called, lambda run: run.retry(choice, repaired), quiet, current)
    said = "\n".join([*_unmatched(choice, before), _in_words(before, counts(checkpoint))])
    code = finish(checkpoint, Ended(whole is True, problem, began, said=said), as_json=as_json, quiet=quiet)
    if code == 0:
        forget(checkpoint)
    sys.exit(code)


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


def _unmatched(choice: Choice, before: Counts) -> list[str]:
    """A sentence for each chosen code that no letter has."""
    there = {code for stage in choice.stages or STAGES for code in before.codes.get(stage, ())}
    found = f"there {'are' if there else 'is'} {', '.join(sorted(there)) or 'none at all'}"
    return [f"No dead letter that was asked for has the code {code}: {found}." for code in sorted(choice.codes - there)]
