"""`streammig report`: a run as one HTML file, as JSON, or unit by unit; and the check of a report made earlier."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from streammig.checkpoint import Checkpoint, Timeline
from streammig.cli import options, say
from streammig.dead_letters.export import check_unchanged
from streammig.disk import new_file
from streammig.errors import counted
from streammig.migration import Migration
from streammig.report.audit import audit, is_report
from streammig.report.history import history
from streammig.report.html import rendered
from streammig.report.records import Input, write_records
from streammig.selection import WithOwners
from streammig.settings import from_checkpoint


@click.command()
@options.checkpoint_or_none
@options.path("--out", "FILE.html", "Write the report to this file.")
@options.path("--records", "FILE.ndjson", "Write a line for each unit of the export to this new file.")
@options.path("--audit", "FILE.html", "Check a report that was written before; with CHECKPOINT, against it.", "audited")
@options.as_json("Print what the report says as one JSON document on stdout.")
def command(
    checkpoint: Path | None, out: Path | None, records: Path | None, audited: Path | None, as_json: bool
) -> None:
    """Write the report on a run: one HTML file, for its owner alone, that needs no network.

    It changes nothing, so it may be called from another shell during a run. --records reads the export again, which
    must be where it was, unchanged.
    """
    if audited is not None:
        if out is not None or records is not None:
            raise click.UsageError("--audit checks a report: give it without --out and --records")
        _audit(audited, checkpoint, as_json)
        return
    if checkpoint is None:
        raise click.UsageError("Missing argument 'CHECKPOINT'.")
    if out is None and records is None and not as_json:
        raise click.UsageError("say what is to be written: --out FILE.html, --records FILE.ndjson or --json")
    written = _records(checkpoint, records) if records is not None else {}
    if out is not None or as_json:
        found = history(checkpoint)
        found["proof"] |= written
    if out is not None:
        with new_file(out, may_replace=is_report) as file:
            file.write(rendered(found))
        say(f"report: {out}")
    if as_json:
        click.echo(json.dumps(found, indent=2))


def _records(checkpoint: Path, out: Path) -> dict[str, Any]:
    """Write what became of each unit; returns what the report says of that file."""
    with closing(Checkpoint.open(checkpoint, read_only=True)) as file, new_file(out) as lines:
        file.verify()
        run = file.run
        settings, folder = from_checkpoint(checkpoint, run["context"], None)
        inputs = {}
        for name, it in Migration(settings, folder=folder).inputs(run["started"]).items():
            check_unchanged(it.source, file.fingerprints(name))
            if Timeline(file).mappings(name) - {it.mapping}:
                say(
                    f"WARNING: {name}: another mapping made some batches, so their units may be numbered in another way"
                )
            rules = it.rules if file.owns(name) else WithOwners(it.rules, file.filtered_owners)
            inputs[name] = Input(it.source, rules, run["context"]["inputs"][name])
        with file.reading():
            written = write_records(file, inputs, lines)
    say(f"records: {out}, {counted(written.lines, 'line')}")
    return {"records": written._asdict()}


def _audit(report: Path, checkpoint: Path | None, as_json: bool) -> None:
    if checkpoint is None:
        found = audit(report)
        said = f"{report} is as it was written."
    else:
        with closing(Checkpoint.open(checkpoint, read_only=True)) as file:
            found = audit(report, file)
        said = f"{report} is as it was written, and tells what {checkpoint} holds."
    if as_json:
        click.echo(json.dumps(found, indent=2))
    say(said)
