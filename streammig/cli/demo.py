"""`streammig demo`: a migration that is interrupted and resumed, played on this machine in under a minute."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from streammig.checkpoint import Books
    from streammig.cli.rehearsal import Document, LocalTarget
    from streammig.sandbox.sample import Sample, Written

LIMITS = "1/0.2s,5000/1h"  # like production, 1/5s,1000/1h, in quick motion
LATENCY, QUEUE_DELAY, SETTLE_TIME = 0.05, "0.1-0.5", 1.0  # seconds
CUSTOMERS = 8_000
KEY = "demo-key"
MIGRATION, CHECKPOINT, LETTERS = "MIGRATION.toml", "MIGRATION.checkpoint", "dead-letters.ndjson"
FILES = {"customers": "customers.json", "events": "events.ndjson", "transactions": "transactions.json"}
INTRODUCTION = """\
streammig moves a loyalty program out of an old system into Masivo, through an
API that takes 1,000 records in one request and one request in 5 seconds, that
only ever answers "enqueued", and that doubles somebody's points if it gets a
record twice. A real migration runs for hours or days and will be interrupted;
this one takes half a minute."""
SETTINGS = """\
# What goes where. One command line starts this migration, and goes on with it
# after any stop:
#   streammig run MIGRATION.toml

# the stand-in; leave it out for Masivo itself
base_url = "{url}"
# one request in 0.2 seconds; of a real account: "prod" or "dev"
limits = "{limits}"
# seconds for the target's queue behind each stage; 300 if left out
settle_time = {settle_time}
# where used slots are noted; left out, all runs of this user share one place
state_dir = "state"

[customers]
files = ["customers.json"]

[events]
files = ["events.ndjson"]

[transactions]
files = ["transactions.json"]
"""


@click.command(short_help="Show a migration that is interrupted and resumed, in under a minute.")
@click.option("--keep", type=click.Path(path_type=Path), metavar="DIR", help="Leave the files in DIR, to look at.")
def command(keep: Path | None) -> None:
    """Show a migration that is interrupted and resumed, in under a minute.

    Writes a sample export, serves a stand-in for Masivo on 127.0.0.1, runs the migration, kills it half-way like a lost
    machine, resumes it, and compares the totals with the records of the stand-in. Nothing leaves this machine, and
    nothing stays on it unless --keep is given. Exits with 1 if anything differs.
    """
    with _folder(keep) as folder:
        try:
            same = demonstrate(folder, kept=keep is not None)
        except KeyboardInterrupt:
            click.echo("\nstopped; every process of the demo is ended")
            sys.exit(130)
    sys.exit(0 if same else 1)


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    from streammig.errors import Unusable

    if keep is None:
        with tempfile.TemporaryDirectory(prefix="streammig-demo-") as name:
            yield Path(name)
        return
    try:
        keep.mkdir(parents=True, exist_ok=True)
        taken = any(keep.iterdir())
    except OSError as error:
        raise Unusable("folder-unusable", f"{keep}: {error.strerror}", "Name a folder that can be made.") from None
    if taken:
        raise Unusable(
            "folder-not-empty", f"{keep} is not empty", "Name a new folder: the demo leaves its files there."
        )
    yield keep


def sample() -> Sample:
    """The export: most customers are good."""
    from streammig.sandbox.sample import Sample

    # With this seed, the one bad customer has events and transactions, which have to wait.
    return Sample(CUSTOMERS, deleted=40 / CUSTOMERS, bad=1 / CUSTOMERS, reversed=0.001)


def demonstrate(folder: Path, *, kept: bool = False, script: Sequence[Mapping[str, Any]] | None = None) -> bool:
    """Play the demo in an empty folder. Return whether all agrees. `script` gives the stand-in faults."""
    from streammig.cli.rehearsal import LocalTarget
    from streammig.sandbox import SandboxConfig
    from streammig.sandbox.sample import write_sample

    click.echo(INTRODUCTION)
    _step(1, "An export of the old system, made up for this demo")
    written = write_sample(sample(), {stage: folder / name for stage, name in FILES.items()})
    _show_export(folder, written)
    store = folder / "stand-in.sqlite"
    config = SandboxConfig(store, LIMITS, LATENCY, QUEUE_DELAY, script, KEY)
    with LocalTarget(config) as target:
        _step(2, "A stand-in for Masivo (for your own tries: streammig sandbox), and settings")
        settings = SETTINGS.format(url=target.url, limits=LIMITS, settle_time=SETTLE_TIME)
        (folder / MIGRATION).write_text(settings, encoding="utf-8")
        click.echo("".join(f"  {line}\n" if line else "\n" for line in settings.splitlines()), nl=False)
        found = _play(folder, target, written)
    _show_verdict(found)
    if kept:
        click.echo(f"\nThe export, MIGRATION.toml, the checkpoint and the dead letters lie in\n{folder}")
    return not found


def _play(folder: Path, target: LocalTarget, written: Written) -> list[str]:
    """Run, kill and resume the migration, and show its totals. Return the differences, as sentences."""
    from streammig.cli.outcome import read_document
    from streammig.cli.rehearsal import Command, accounts, differences, environment

    own, checkpoint = environment(KEY), folder / CHECKPOINT

    _step(3, "The migration begins")
    _typed("export MASIVO_API_KEY=...   # never as a flag, never in the settings")
    _typed(f"streammig run {MIGRATION}")
    half = sum(-(-part.units // 1000) for part in written.good.values()) // 2
    with Command(folder, own, "run", MIGRATION) as run:
        lost = run.lose(checkpoint, half)
    _tidy()
    if not lost:
        return ["the run ended before it could be interrupted: it says above why"]

    _step(4, "Half-way the machine is lost: the process is killed, and can't tidy up")
    click.echo("The checkpoint holds what was done. Any shell can ask, also during a run:")
    _typed(f"streammig status {CHECKPOINT}")
    with Command(folder, own, "status", CHECKPOINT) as status:
        status.wait()

    _step(5, "The same command line goes on from there")
    _typed(f"streammig run {MIGRATION}")
    with Command(folder, own, "run", MIGRATION) as run:
        code = run.wait()
    click.echo(f"(exit code {code}: {MEANINGS.get(code, 'see streammig --help')})")

    _step(6, "What could not be sent is written out, each record with place and reason")
    _typed(f"streammig dead-letters {CHECKPOINT} --out {LETTERS}")
    with Command(folder, own, "dead-letters", CHECKPOINT, "--out", LETTERS) as letters:
        letters.wait()

    _step(7, "The totals of the run beside the records of the stand-in")
    click.echo("Here each event and transaction counts; above, a customer's are one record.")
    books, ledger = accounts(checkpoint), target.ledger()
    _show_books(books, read_document(checkpoint), ledger)
    ended = [] if code in (0, 3) else [f"the run ended with exit code {code}: it says above why"]
    return ended + differences(written, books, ledger)


MEANINGS = {
    0: "everything is accepted or left out on purpose",
    3: "done, and some records could not be sent",
    4: "the outcome of some requests is unknown",
}


def _step(number: int, text: str) -> None:
    click.echo("\n" + _styled(f"{number}. {text}"))


def _styled(text: str, fg: str | None = None) -> str:
    return text if os.environ.get("NO_COLOR") else click.style(text, fg=fg, bold=True)


def _typed(line: str) -> None:
    click.echo(f"  $ {line}")


def _tidy() -> None:
    """Show the cursor again: a killed progress display leaves it hidden."""
    if sys.stdout.isatty():
        click.echo("\x1b[?25h")


def _show_export(folder: Path, written: Written) -> None:
    counts = {
        "customers": f"{written.customers:,} with balances, {written.deleted} deleted, {written.bad} with a mistake",
        "events": f"{written.events:,} purchases, {written.reversed} of them reversed",
        "transactions": f"{written.transactions:,} transactions that explain the balances",
    }
    for stage, name in FILES.items():
        size = (folder / name).stat().st_size / 1e6
        click.echo(f"  {name:<18} {size:5.1f} MB  {counts[stage]}")


def _show_books(books: Mapping[str, Books], document: Document, ledger: Document) -> None:
    from streammig.cli.rehearsal import dropped, held

    stages = [document["stages"][stage] for stage in books]
    there = [held(ledger, stage) for stage in books]
    _row("", [*books])
    _row("read from the export", [own.taken.units for own in books.values()])
    _row("left out on purpose", [own.filtered.units for own in books.values()])
    _row("dead letters", [own.dead.units for own in books.values()])
    _row("accepted", [own.accepted.units for own in books.values()])
    _row("held by the stand-in", [part.units for part in there])
    _row("  more than once", [ledger["twice"][stage]["count"] for stage in books])
    _row("  dropped by its queue", [dropped(ledger, stage) for stage in books])
    agree = [own.accepted.sums == part.sums for own, part in zip(books.values(), there, strict=True)]
    _row("exact sums agree", ["yes" if same else "NO" for same in agree])
    _row("requests used", [stage["requests"] for stage in stages])
    _row("how full they were", ["-" if stage["fill"] is None else f"{stage['fill']:.1%}" for stage in stages])


def _row(name: str, cells: Sequence[object]) -> None:
    texts = [f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in cells]
    click.echo(f"  {name:<24}" + "".join(f"{text:>14}" for text in texts))


def _show_verdict(found: Sequence[str]) -> None:
    if not found:
        click.echo("\nThe stand-in holds exactly what the run reports: nothing lost, nothing twice,\nno limit broken.")
        return
    click.echo("\n" + _styled("THIS IS NOT AS IT SHOULD BE:", fg="red"))
    for difference in found:
        click.echo(f"  {difference}")
