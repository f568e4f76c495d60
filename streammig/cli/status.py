"""`streammig status`: how far a run is, also while it runs."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from streammig.cli import options
from streammig.errors import Held, Unusable

EVERY = 2.0  # seconds between two looks


@click.command()
@options.checkpoint
@click.option("--watch", is_flag=True, help="Look again every two seconds, until the run ends.")
@click.option("--exit-code", is_flag=True, help="End with the exit code that the run would have; 11 while it is on.")
@options.as_json("Print one JSON document.")
def command(checkpoint: Path, watch: bool, exit_code: bool, as_json: bool) -> None:
    """Show the totals of a run: read, accepted, filtered, dead, unknown and pending.

    It changes nothing, so it may be called from another shell during a run. Exits with 1 if the totals do not add up.
    """
    from streammig.cli.exit import Ended, print_document
    from streammig.cli.exit import exit_code as code_of
    from streammig.report.reports import Report

    if watch and as_json:
        raise Unusable("usage", "--watch and --json exclude each other", "Call status --json as often as you like.")
    found = Report.read(checkpoint).document
    while watch and found["state"] == "running":
        _show(found)
        time.sleep(EVERY)
        found = Report.read(checkpoint).document
    print_document(found, as_json)
    if exit_code and found["state"] == "running":
        sys.exit(Held.exit_code)
    if exit_code or not found["balanced"]:
        sys.exit(code_of(found, Ended(True)))


def _show(found: dict[str, Any]) -> None:
    """The counts and the time left in place of what was shown before; on a terminal, for it has no more room."""
    from streammig.report.text import brief

    click.clear()
    click.echo(brief(found))
