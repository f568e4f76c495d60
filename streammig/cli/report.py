"""`streammig report`: a run as one HTML file, as JSON, or unit by unit; and the check of a report made earlier."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import click

from streammig.cli import options, say


@click.command()
@options.checkpoint_or_none
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE.html", help="Write the report to this file.")
@click.option(
    "--audit", "audited", type=click.Path(path_type=Path), metavar="FILE.html",
    help="Check a report that was written before; with CHECKPOINT, against it.",
)  # fmt: skip
@options.as_json("Print what the report says as one JSON document on stdout.")
def command(checkpoint: Path | None, out: Path | None, audited: Path | None, as_json: bool) -> None:
    """Write the report on a run: one HTML file, for its owner alone, that needs no network.

    It changes nothing, so it may be called from another shell during a run.
    """
    from streammig.disk import new_file
    from streammig.report.audit import is_report
    from streammig.report.history import history
    from streammig.report.html import rendered

    if audited is not None:
        if out is not None:
            raise click.UsageError("--audit and --out: give one of them")
        _audit(audited, checkpoint, as_json)
        return
    if checkpoint is None:
        raise click.UsageError("Missing argument 'CHECKPOINT'.")
    if out is None and not as_json:
        raise click.UsageError("say where the report goes: --out FILE.html, or --json")
    if out is None:
        click.echo(json.dumps(history(checkpoint), indent=2))
        return
    with new_file(out, may_replace=is_report) as file:
        found = history(checkpoint)
        file.write(rendered(found))
    if as_json:
        click.echo(json.dumps(found, indent=2))
    say(f"report: {out}")


def _audit(report: Path, checkpoint: Path | None, as_json: bool) -> None:
    from streammig.checkpoint import Checkpoint
    from streammig.report.audit import audit

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
