"""`streammig demo`: a migration that is interrupted and resumed, played on this machine in under a minute."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from streammig.cli.rehearsal import Document
    from streammig.sandbox.sample import Part, Sample, Written

LIMITS = "1/0.2s,5000/1h"  # like production, 1/5s,1000/1h, in quick motion
LATENCY, QUEUE_DELAY, SETTLE_TIME = 0.05, "0.1-0.5", 1.0  # seconds
CUSTOMERS = 12_000
KEY = "demo-key"
CHECKPOINT = "MIGRATION.checkpoint"
FILES = {"customers": "customers.json", "events": "events.ndjson", "transactions": "transactions.json"}
SETTINGS = """\
# What goes where. One command line starts this migration, and goes on with it after any stop:
#   streammig run MIGRATION.toml

base_url = "{url}"  # the stand-in; leave it out for Masivo itself
limits = "{limits}"   # one request in 0.2 seconds; of a real account: "prod" or "dev"
settle_time = {settle_time}           # seconds for the target's queue between two stages; 300 if left out
state_dir = "state"         # where used slots are noted; left out, all runs of this user share one place

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
    machine, resumes it, and compares the books with what the stand-in holds. Nothing leaves this machine, and nothing
    stays on it unless --keep is given. Exits with 1 if anything is not as it should be.
    """
    with _terminable(), _folder(keep) as folder:
        try:
            same = demonstrate(folder, kept=keep is not None)
        except KeyboardInterrupt:
            click.echo("\nstopped; every process of the demo is ended")
            sys.exit(130)
    sys.exit(0 if same else 1)


@contextmanager
def _terminable() -> Iterator[None]:
    """Within, SIGTERM ends us as Ctrl-C does: with everything put away."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
        raise Unusable(f"{keep}: {error.strerror}", "Name a folder that can be made.") from None
    if taken:
        raise Unusable(f"{keep} is not empty", "Name a new folder: the demo leaves its files there.")
    yield keep


def sample() -> Sample:
    """The export: most customers are as they should be."""
    from streammig.sandbox.sample import Sample

    # With this seed the one bad customer has events and transactions, which have to wait for them.
    return Sample(CUSTOMERS, deleted=60 / CUSTOMERS, bad=1 / CUSTOMERS, reversed=0.001, seed=1)


def demonstrate(folder: Path, *, kept: bool = False, script: Sequence[Mapping[str, Any]] | None = None) -> bool:
    """Play it in an empty folder; whether all was as it should be. `script` gives the stand-in bad days."""
    from streammig.cli.outcome import read_document
    from streammig.cli.rehearsal import Command, LocalTarget, differences, environment
    from streammig.sandbox import SandboxConfig
    from streammig.sandbox.sample import write_sample

    click.echo(
        "streammig moves a loyalty program out of an old system into Masivo, through an API that takes one request of\n"
        '1,000 records in 5 seconds, only ever answers "enqueued", and doubles somebody\'s points if it gets a record\n'
        "twice. A real migration runs for hours or days, and will be interrupted. This one takes half a minute."
    )
    _step(1, "An export of the old system, made up for this demo")
    written = write_sample(sample(), {stage: folder / name for stage, name in FILES.items()})
    _show_export(folder, written)
    config = SandboxConfig(
        limits=LIMITS, latency=LATENCY, queue_delay=QUEUE_DELAY, api_key=KEY, script=script, store=folder / "stand-in"
    )
    with LocalTarget(config) as target:
        _step(2, "A stand-in for Masivo on this machine, and the settings of the migration")
        settings = SETTINGS.format(url=target.url, limits=LIMITS, settle_time=SETTLE_TIME)
        (folder / "MIGRATION.toml").write_text(settings, encoding="utf-8")
        click.echo(_indented(settings))

        _step(3, "The migration begins")
        own = environment(KEY)
        checkpoint = folder / CHECKPOINT
        half = sum(-(-part.units // 1000) for part in written.good.values()) // 2
        _typed("export MASIVO_API_KEY=...   # never as a flag or in a file of settings")
        _typed("streammig run MIGRATION.toml")
        with Command(folder, own, "run", "MIGRATION.toml") as run:
            lost = run.lose(checkpoint, half)
        _tidy()
        if not lost:
            click.echo("The run ended before it could be interrupted: see above for the reason.")
            return False

        _step(4, "Half-way the machine is lost: the process is killed, without a chance to tidy up (SIGKILL)")
        click.echo("What it had done stands in the checkpoint. Any shell can ask, also while a run is on:")
        _typed(f"streammig status {CHECKPOINT}")
        with Command(folder, own, "status", CHECKPOINT) as status:
            status.wait()

        _step(5, "The same command line goes on from there")
        _typed("streammig run MIGRATION.toml")
        with Command(folder, own, "run", "MIGRATION.toml") as run:
            code = run.wait()
        click.echo(f"(exit code {code}: {MEANINGS.get(code, 'see streammig --help')})")

        _step(6, "What was not sent, with the reason; each can be mended and sent later")
        _typed(f"streammig dead-letters {CHECKPOINT} --out dead-letters.ndjson")
        with Command(folder, own, "dead-letters", CHECKPOINT, "--out", "dead-letters.ndjson") as letters:
            letters.wait()
        _show_letters(folder / "dead-letters.ndjson")

        _step(7, "The books of the run beside what the stand-in holds")
        books, ledger = read_document(checkpoint), target.ledger()
    found = differences(written.good, books, ledger)
    _show_books(written, books, ledger)
    _show_verdict(found, books)
    if kept:
        click.echo(f"\nEverything lies in {folder}: the export, MIGRATION.toml, the checkpoint, the dead letters.")
    return not found


MEANINGS = {
    0: "everything is accepted or left out on purpose",
    3: "done, and some records could not be sent",
    4: "of some requests nobody can say whether they landed",
}


def _step(number: int, text: str) -> None:
    heading = f"{number}. {text}"
    click.echo("\n" + (heading if os.environ.get("NO_COLOR") else click.style(heading, bold=True)))


def _typed(line: str) -> None:
    click.echo(f"  $ {line}")


def _indented(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.splitlines())


def _tidy() -> None:
    """A progress display that is killed leaves the cursor hidden, somewhere in its line."""
    if sys.stdout.isatty():
        click.echo("\x1b[?25h")


def _show_export(folder: Path, written: Written) -> None:
    counts = {
        "customers": f"{written.customers:,} customers with their balances, {written.deleted} of them deleted,"
        f" {written.bad} with a mistake",
        "events": f"{written.events:,} purchases, {written.reversed} of them reversed",
        "transactions": f"{written.transactions:,} points transactions that explain the balances",
    }
    for stage, name in FILES.items():
        size = (folder / name).stat().st_size / 1e6
        click.echo(f"  {name:<18} {size:5.1f} MB  {counts[stage]}")


def _show_letters(path: Path) -> None:
    import json

    for line in path.read_text(encoding="utf-8").splitlines():
        letter = json.loads(line)
        where = f"{Path(letter['file']).name}, record {letter['line']:,}"
        click.echo(f"  {where}: {letter['code']}: {letter['message']}")


def _show_books(written: Written, books: Document, ledger: Document) -> None:
    from streammig.cli.rehearsal import held
    from streammig.records import STAGES

    accounts = [books["stages"][stage] for stage in STAGES]
    there = [held(ledger, stage) for stage in STAGES]
    _row("", STAGES)
    _row("in the export", [written.customers, written.events, written.transactions])
    _row("left out on purpose", [_units_filtered(account) for account in accounts])
    _row("to arrive", [written.good[stage].units for stage in STAGES])
    _row("accepted, say the books", [account["units"] for account in accounts])
    _row("held by the stand-in", [part.units for part in there])
    _row("  of these twice", [ledger["twice"][stage]["count"] for stage in STAGES])
    _row("  dropped on the way", [sum(of["units"] for of in ledger["dropped"][stage].values()) for stage in STAGES])
    _row("exact sums agree", [_agree(written.good[s], books, part, s) for s, part in zip(STAGES, there, strict=True)])
    _row("requests used", [account["requests"] for account in accounts])
    _row("how full they were", ["-" if a["fill"] is None else f"{a['fill']:.1%}" for a in accounts])


def _units_filtered(account: Document) -> int:
    return sum(tally["units"] for tally in account["filtered_by"].values())


def _agree(good: Part, books: Document, there: Part, stage: str) -> str:
    from decimal import Decimal

    accepted = {key: Decimal(text) for key, text in books["stages"][stage]["sums"]["accepted"].items()}
    return "yes" if good.sums == accepted == there.sums else "NO"


def _row(name: str, cells: Sequence[object]) -> None:
    texts = [f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in cells]
    click.echo(f"  {name:<24}" + "".join(f"{text:>14}" for text in texts))


def _show_verdict(found: Sequence[str], books: Document) -> None:
    if not found:
        click.echo("\nThe stand-in holds exactly what the books say: nothing lost, nothing twice, no limit broken.")
        return
    bad = "THE BOOKS AND THE STAND-IN DIFFER:"
    click.echo("\n" + (bad if os.environ.get("NO_COLOR") else click.style(bad, fg="red", bold=True)))
    for difference in found:
        click.echo(f"  {difference}")
    if any(account["unknown"] for account in books["stages"].values()):
        click.echo(
            "  A request was under way when the machine was lost, and what is unknown is never sent again blindly."
        )
