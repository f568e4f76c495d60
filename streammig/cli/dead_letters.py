"""`streammig dead-letters`: the records that were not sent, with the reason."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click


@click.command(short_help="Write the records that were not sent, with the reason.")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="A file instead of stdout, owner-only.")
def command(checkpoint: Path, out: Path | None) -> None:
    """Write the dead letters of a run as NDJSON: stage, file, line, offset, code, message, record.

    The records are read from the export again, for the checkpoint holds none of them; so the export must lie where it
    lay, unchanged.
    """
    from streammig.aftercare.letters import export_letters
    from streammig.errors import MachineFault

    if out is None:
        count = export_letters(checkpoint, sys.stdout.buffer)
    else:
        try:
            descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(descriptor, "wb") as file:
                count = export_letters(checkpoint, file)
        except OSError as error:
            raise MachineFault(f"{out}: {error.strerror}", "Name a file that can be written with --out.") from None
    click.echo(f"{count:,} dead letters", err=True)
