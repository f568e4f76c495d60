"""`streammig dead-letters`: the records that were not sent, with the reason."""

from __future__ import annotations

import json
import sys
from itertools import islice
from pathlib import Path

import click

from streammig.cli import options, say

SHOWN = 10  # dead letters that are also printed on stderr


@click.command()
@options.checkpoint
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help="A new file instead of stdout, owner-only."
)
def command(checkpoint: Path, out: Path | None) -> None:
    """Write the dead letters of a run as NDJSON: stage, file, line, offset, code, message, record.

    `line` counts lines of an NDJSON file and records of any other, from 1; `offset` counts bytes, of the decompressed
    file. The checkpoint holds no records, so they are read from the export again. It must be where it was, unchanged.
    """
    from streammig.dead_letters.export import export_letters
    from streammig.disk import new_file
    from streammig.errors import counted

    if out is None:
        count = export_letters(checkpoint, sys.stdout.buffer)
    else:
        with new_file(out) as file:  # not over another one: it may hold corrected letters, or be the export itself
            count = export_letters(checkpoint, file)
    click.echo(counted(count, "dead letter"), err=True)
    if out is not None:
        _show(out, count)


def _show(path: Path, count: int) -> None:
    """Print the first of them, without their records."""
    with path.open(encoding="utf-8") as lines:
        for letter in map(json.loads, islice(lines, SHOWN)):
            where = f"{Path(letter['file']).name}, record {letter['line']:,}"
            say(f"  {where}: {letter['code']}\n    {letter['message']}")
    if count > SHOWN:
        click.echo(f"  and {count - SHOWN:,} more in {path}", err=True)
