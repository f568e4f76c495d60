"""`streammig status`: how far a run is, also while it is on."""

from __future__ import annotations

from pathlib import Path

import click

from streammig.cli import options


@click.command(short_help="Show how far a run is, also while it is on.")
@options.checkpoint
@options.as_json("Print one JSON document.")
def command(checkpoint: Path, as_json: bool) -> None:
    """Show the books of a run: what was read, accepted, filtered, is dead, unknown or pending.

    Reads only, so it may be called from another shell while the run is on. Exits with 1 if the books do not balance.
    """
    from streammig.cli.outcome import print_document, read_document

    found = read_document(checkpoint)
    print_document(found, as_json)
    if not found["balanced"]:
        raise SystemExit(1)
