"""`streammig dead-letters`: the records that were not sent, with the reason."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from itertools import islice
from pathlib import Path

import click
from msgspec.structs import replace

from streammig.checkpoint import Checkpoint
from streammig.cli import options, say
from streammig.dead_letters.export import export_letters
from streammig.disk import new_file
from streammig.errors import counted
from streammig.migration import Migration
from streammig.report.letters import Kind, kinds, spot
from streammig.settings import from_checkpoint
from streammig.sources.source import Source
from streammig.stages import ONCE

SHOWN = 10  # dead letters that are also printed on stderr


@click.command()
@options.checkpoint
@options.path("--out", "FILE", "A new file instead of stdout, owner-only.")
@options.stages
@options.codes
@click.option("--summary", is_flag=True, help="Show how many there are of each kind, with an example, and no record.")
def command(checkpoint: Path, out: Path | None, stages: tuple[str, ...], codes: tuple[str, ...], summary: bool) -> None:
    """Write the dead letters of a run as NDJSON: stage, file, line, column, offset, code, message, record.

    `line` counts lines of an NDJSON or CSV file and records of any other, from 1; `offset` counts bytes, of the
    decompressed file. The checkpoint holds no records, so they are read from the export again. It must be where it was,
    unchanged.
    """
    if summary:
        say(_summary(checkpoint, stages, codes), sys.stdout)
        return
    if out is None:
        count = export_letters(checkpoint, sys.stdout.buffer, stages, codes, _grouped)
    else:
        with new_file(out) as file:  # not over another one: it may hold corrected letters, or be the export itself
            count = export_letters(checkpoint, file, stages, codes, _grouped)
    click.echo(counted(count, "dead letter"), err=True)
    if out is not None:
        _show(out, count)


def _grouped(file: Checkpoint, stage: str) -> Source | None:
    """The source of a stage that came as single rows; None of any other."""
    settings, folder = from_checkpoint(file.path, file.run["context"], None)
    if stage not in ONCE or not settings.stage(stage).owner:
        return None
    others = {name: replace(settings.stage(name), files=()) for name in settings.stages if name != stage}
    return Migration(replace(settings, **others), folder=folder).inputs(file.run["started"])[stage].source


def _summary(checkpoint: Path, stages: tuple[str, ...], codes: tuple[str, ...]) -> str:
    """The kinds of dead letters, the most frequent first: causes, then what waits for a customer that is one."""
    with closing(Checkpoint.open(checkpoint, read_only=True)) as file:
        names = [row.name for row in file.stages() if not stages or row.name in stages]
        found = [it for name in names for it in kinds(file, name) if not codes or it.code in codes]
    causes = [it for it in found if not it.cause]
    waiting = [it for it in found if it.cause]
    lines = [line for it in causes for line in _kind(f"{it.code} {it.field}".rstrip(), it)]
    lines += ["These wait for their customer, and follow once it is there:"] if waiting else []
    lines += [line for it in waiting for line in _kind(f"the customer is not there: {it.cause}", it)]
    return "\n".join(lines or ["There are no such dead letters."])


def _kind(what: str, it: Kind) -> list[str]:
    return [f"{it.stage}: {it.letters:,} x {what}", f"    {spot(it.place)}: {it.message}"]


def _show(path: Path, count: int) -> None:
    """Print the first of them, without their records."""
    with path.open(encoding="utf-8") as lines:
        for letter in map(json.loads, islice(lines, SHOWN)):
            say(f"  {spot(letter)}: {letter['code']}\n    {letter['message']}")
    if count > SHOWN:
        click.echo(f"  and {count - SHOWN:,} more in {path}", err=True)
