"""`streammig revert`: take a whole run back at the target."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import click

from streammig.checkpoint import Checkpoint
from streammig.cli import echo_json, options, say
from streammig.cli.runtime import beside, stopped_by
from streammig.errors import Unusable
from streammig.report.document import iso
from streammig.settings import from_checkpoint
from streammig.telemetry import Output

WARNINGS = (
    "Customers that others have migrated in this window are taken back, too: they can't be told apart.",
    "Customers that have made a transaction since they were migrated stay, with all that belongs to them.",
)


@click.command()
@options.checkpoint
@click.option("--dry-run", is_flag=True, help="Show what would be reverted, and send nothing.")
@click.option(
    "--yes-revert", "confirmed", type=int, metavar="N",
    help="Confirm in a script: exactly so many customers are to be reverted.",
)  # fmt: skip
@options.settings_on_top()
@options.current
@options.as_json()
@options.quiet()
def command(
    checkpoint: Path,
    dry_run: bool,
    confirmed: int | None,
    toml: Path | None,
    current: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Take back all that this run has migrated: customers with their events and transactions.

    The target takes back whatever was migrated in a window of time. The number of customers is shown first, and has to
    be typed. Every customer is read back afterwards: gone, or listed. Interrupted, the same command goes on, and never
    asks the target twice without a read-back. Exits with 3 where customers stay.
    """
    with closing(Checkpoint.open(checkpoint, read_only=True)) as file:
        preview = _preview(file, toml)
    if not quiet:
        say(_preview_in_words(preview))
    if dry_run:
        if as_json:
            click.echo(json.dumps(preview, indent=2))
        elif not quiet:
            said = "To revert them" if preview["window"] else "To go on"
            say(f"Nothing was sent. {said}: streammig revert {shlex.quote(str(checkpoint))}")
        return
    customers = preview["customers"] if not preview["window"] else _confirmed(preview["customers"], confirmed)
    with TemporaryFile("w+", encoding="utf-8") as kept:  # a line a customer: there may be many

        def tell(owner: str) -> None:
            print(json.dumps(owner), file=kept)

        output = Output(as_json, quiet)
        ended = beside(checkpoint, toml, lambda run: run.revert(customers, tell), output, current)
        if (code := stopped_by(ended, output)) is not None:
            sys.exit(code)
        found = preview | ended.result | {"at": iso(ended.result["at"])}
        kept.seek(0)
        owners = map(json.loads, kept)
        if as_json:
            echo_json(found, "kept", owners)
        elif not quiet:
            for line in _in_words(found, owners):
                say(line)
    sys.exit(3 if found["stayed"] or found["not_read_back"] else 0)


def _preview(file: Checkpoint, toml: Path | None) -> dict[str, Any]:
    """What would be reverted, JSON-ready. The window is null where a revert is under way: it is only read back."""
    last = file.last_revert()
    owners = next((row.name for row in file.stages() if file.owns(row.name)), "")
    if last is not None and file.is_reverting():
        window, customers = None, last.window.customers
    else:
        settings, _ = from_checkpoint(file.path, file.run["context"], toml)
        found = file.window(owners, settings.settle_time)
        window, customers = {"start": iso(found.start), "end": iso(found.end)}, found.customers
    return {"checkpoint": str(file.path), "customers": customers, "window": window, "warnings": list(WARNINGS)}


def _confirmed(customers: int, given: int | None) -> int:
    """The number that the operator has confirmed. Raises `Unusable` where that was not this one."""
    if given is None and sys.stdin.isatty():
        given = click.prompt("Type the number of customers to revert them", type=int, err=True)
    if given != customers:
        said = "not confirmed" if given is None else f"confirmed: {given:,}"
        raise Unusable(
            "revert-unconfirmed",
            f"customers to be reverted: {customers:,}, {said}; nothing was sent",
            f"Confirm with --yes-revert {customers}",
        )
    return customers


def _preview_in_words(preview: Mapping[str, Any]) -> str:
    window = preview["window"]
    if not window:
        return f"Customers of this run that are being reverted: {preview['customers']:,}. They are only read back."
    return "\n".join(
        [
            f"Customers of this run to be reverted: {preview['customers']:,}",
            f"The window: migrated from {window['start']} up to {window['end']}, by the target's clock",
            *(f"WARNING: {it}" for it in preview["warnings"]),
        ]
    )


def _in_words(found: Mapping[str, Any], kept: Iterable[str]) -> Iterator[str]:
    yield f"Customers that are gone: {found['gone']:,}"
    if found["stayed"]:
        yield f"Customers that are still there: {found['stayed']:,}"
        yield from (f"  {owner}" for owner in kept)
    if found["not_read_back"]:
        yield f"Customers that could not be read back: {found['not_read_back']:,}. They count as still there:"
        yield "  another mapping made them, or a retry corrected their ids"
    yield "The run is reverted. To migrate again: a new --checkpoint, and"
    yield f"  --not-in {shlex.quote(found['checkpoint'])}"
