"""`streammig verify`: read back what was accepted, and compare it with the export."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, TextIO

import click

from streammig.checkpoint import Checkpoint
from streammig.cli import echo_json, options, say
from streammig.cli.runtime import beside, stopped_by
from streammig.errors import Unusable, counted
from streammig.model import spoken_place
from streammig.report.document import iso
from streammig.report.text import aligned
from streammig.telemetry import Output, RunEnded
from streammig.verify.verdict import Told

SAMPLE, MOST = 1_000, 100_000
SHOWN = 20  # differences that are listed on the terminal
COLUMNS = ("looked", "same", "missing", "different", "not_visible_yet", "unreadable", "not_readable", "not_comparable")


@click.command()
@options.checkpoint
@click.option(
    "--sample", "count", type=click.IntRange(1, MOST), metavar="N",
    help=f"Read back N customers with all that belongs to them. [{SAMPLE}]",
)  # fmt: skip
@click.option("--all", "everything", is_flag=True, help="Read back every customer.")
@options.path("--out", "FILE.ndjson", "Write each difference with its values to a new file, readable by you alone.")
@options.concurrency
@options.settings_on_top()
@options.current
@options.on_event
@options.as_json()
@options.quiet()
def command(
    checkpoint: Path,
    count: int | None,
    everything: bool,
    out: Path | None,
    concurrency: int | None,
    toml: Path | None,
    current: bool,
    on_event: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Read back what the target accepted, and compare it with the export: all, or a sample.

    It sends nothing. Interrupted, the same command goes on. Exits with 3 where anything is missing or different.
    """
    if everything and count is not None:
        raise Unusable("usage", "--all and --sample exclude each other", "Give one of them.")
    size = None if everything else count or SAMPLE
    told: list[Told] = []
    with closing(Checkpoint.open(checkpoint, read_only=True)) as file, ExitStack() as stack:
        tell = _writer(stack.enter_context(_created(out)), file) if out is not None else None

        def hear(it: Told) -> None:
            if len(told) < SHOWN:
                told.append(it)
            if tell is not None:
                tell(it)

        output = Output(as_json, quiet)
        ended = beside(
            checkpoint, toml, lambda run: run.verify(size, hear), output, current, tells="verify",
            concurrency=concurrency, on_event=on_event,
        )  # fmt: skip
    code = stopped_by(ended, output)
    if code is None:
        code = _show(checkpoint, told, out, output)
    ended.notify(RunEnded(code, ended.problem.json() if ended.problem is not None else None))
    sys.exit(code)


def _show(checkpoint: Path, told: Sequence[Told], out: Path | None, output: Output) -> int:
    """Print what was found; returns the exit code. `out` is the file of the differences."""
    with closing(Checkpoint.open(checkpoint, read_only=True)) as file:
        found = document(file)
        if output.as_json:
            echo_json(found, "findings", _findings(file))
        elif not output.quiet:
            listed = f"{out} lists all of them" if out is not None else "--json lists all of them"
            say("\n".join(_in_words(found, told, file, listed, values=sys.stderr.isatty())))
    return 0 if found["same"] else 3


def document(file: Checkpoint) -> dict[str, Any]:
    """What the last verify found, JSON-ready, without any value of a record. The findings come on their own."""
    found = file.verification() or {}
    missing = any(it["missing"] for it in found["stages"].values())
    return {
        **found,
        "at": iso(found["at"]),
        "findings": [],
        "checkpoint": str(file.path),
        "next": f"streammig retry {shlex.quote(str(file.path))} --missing" if missing else None,
    }


def _findings(file: Checkpoint) -> Iterator[dict[str, Any]]:
    files = _files(file)
    for it in file.findings():
        yield {
            "stage": it.stage, "file": files[it.stage][it.source], "record": it.record, "byte": it.offset,
            "unit": it.unit, "batch": it.seq, "field": it.field, "reason": it.reason,
        }  # fmt: skip


def _files(file: Checkpoint) -> Mapping[str, Sequence[str]]:
    """The names of each stage's files."""
    return {row.name: [mark["file"] for mark in file.fingerprints(row.name)] for row in file.stages()}


def _created(path: Path) -> TextIO:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Unusable("output-unusable", f"{path}: {error.strerror}", "Name a new file with --out.") from None
    return open(descriptor, "w", encoding="utf-8")


def _writer(out: TextIO, file: Checkpoint) -> Any:
    files = _files(file)

    def tell(it: Told) -> None:
        print(json.dumps(it.json(files[it.stage][it.place.source])), file=out)

    return tell


def _in_words(
    found: Mapping[str, Any], told: Sequence[Told], file: Checkpoint, listed: str, *, values: bool
) -> list[str]:
    stages = found["stages"]
    marks = {row.name: file.fingerprints(row.name) for row in file.stages()}
    shown = [name for name in COLUMNS if name in COLUMNS[:4] or any(it[name] for it in stages.values())]
    rows = [
        ["stage", *stages],
        *([name.replace("_", " "), *(f"{it[name]:,}" for it in stages.values())] for name in shown),
    ]
    lines = ["", aligned(rows), ""]
    for it in told:
        place = f"  {it.stage}: {spoken_place(it.place, marks[it.stage])} (byte {it.place.offset:,})"
        said = f"{it.difference.field or 'all of it'}: {it.difference.reason.replace('-', ' ')}"
        both = f": {it.difference.sent!r} was sent, {it.difference.shown!r} is there" if it.difference.sent else ""
        lines.append(f"{place}: {said}{both if values else ''}")
    if (count := sum(1 for _ in file.findings())) > len(told):
        lines.append(f"  and {counted(count - len(told), 'difference')} more: {listed}")
    for stage, bound in found["at_most"].items():
        of = f"At most {bound['missing']:.2%} of {stage} are missing and {bound['different']:.2%} different"
        lines.append(f"{of}, with {found['confidence']:.0%} confidence.")
    lines.append(_headline(found))
    if found["next"]:
        lines.append(f"To send what is missing: {found['next']}")
    return lines


def _headline(found: Mapping[str, Any]) -> str:
    aside = sum(it["not_comparable"] for it in found["stages"].values())
    but = f"; not comparable: {counted(aside, 'unit')} that another mapping made or a retry sent" if aside else ""
    if found["same"]:
        return f"Verified ({found['kind']}): what was read back is as it was sent{but} (exit code 0)."
    certain = any(it["missing"] or it["different"] or it["unreadable"] for it in found["stages"].values())
    said = "the target does not hold what was sent" if certain else "not all is visible yet; verify again later"
    return f"Not verified: {said}{but} (exit code 3)."
