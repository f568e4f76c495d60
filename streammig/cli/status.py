"""`streammig status`: how far a run is, also while it runs."""

from __future__ import annotations

from pathlib import Path

import click

from streammig.cli import options


@click.command()
@options.checkpoint
@options.as_json("Print one JSON document.")
def command(checkpoint: Path, as_json: bool) -> None:
    """Show the totals of a run: read, accepted, filtered, dead, unknown and pending.

    It changes nothing, so it may be called from another shell during a run. Exits with 1 if the totals do not add up.
    """
    from streammig.cli.exit import print_document
    from streammig.report.reports import Report

    found = Report.read(checkpoint).document
    print_document(found, as_json)
    if not found["balanced"]:
        raise SystemExit(1)
