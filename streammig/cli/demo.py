"""`streammig demo`: a migration that is interrupted and resumed, on this machine, in under a minute."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from decimal import Decimal
from pathlib import Path
from typing import Any

import click

from streammig.checkpoint import Checkpoint, Totals
from streammig.cli import options
from streammig.errors import Problem, Unusable
from streammig.model import BatchState
from streammig.report.reports import Report
from streammig.sandbox import SandboxConfig
from streammig.sandbox.local import LocalTarget
from streammig.sandbox.sample import Part, Sample, Written, write_sample
from streammig.stages import STAGES

LIMITS = "1/0.2s,5000/1h"  # like production, 1/5s,1000/1h, in quick motion
LATENCY, QUEUE_DELAY, SETTLE_TIME = 0.05, "0.1-0.5", 1.0  # seconds
# With its seed, the one bad customer has events and transactions, which have to wait.
SAMPLE = Sample(3_000, deleted=40 / 3_000, bad=1 / 3_000, reversed=0.002, seed=4)
KEY = "demo-key"
GLANCE = 0.02  # seconds between two looks at a run that goes on
STANDSTILL = 0.03  # seconds after which a process that was told to stop has stopped
MIGRATION, CHECKPOINT, LETTERS = "MIGRATION.toml", "MIGRATION.checkpoint", "dead-letters.ndjson"
FILES = {"customers": "customers.json", "events": "events.ndjson", "transactions": "transactions.json"}
INTRODUCTION = """\
streammig moves a loyalty program out of an old system into Masivo, through an
API that takes 1,000 records in one request and one request in 5 seconds, that
only ever answers "enqueued", and that doubles somebody's points if it gets a
record twice. A real migration runs for hours or days and will be interrupted;
this one takes under a minute."""
SETTINGS = """\
# What goes where. One command line starts this migration, and goes on with it
# after any stop:
#   streammig run MIGRATION.toml

# the stand-in; leave it out for Masivo itself
base_url = "{url}"
# one request in 0.2 seconds; of a real account: "prod" or "dev"
limits = "{limits}"
# requests under way at once
concurrency = 16
# seconds for the target's queue after each stage; 300 if left out
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


@click.command()
@options.path("--keep", "DIR", "Leave the files in DIR, to look at.")
def command(keep: Path | None) -> None:
    """Show a migration that is interrupted and resumed, in under a minute.

    Writes a sample export, serves a stand-in for Masivo on 127.0.0.1, runs the migration, kills it half-way like a lost
    machine, resumes it, and compares the totals with the records of the stand-in. Nothing leaves this machine, and
    nothing stays on it unless --keep is given. Exits with 1 if anything differs.
    """
    with _folder(keep) as folder:
        try:
            same = demonstrate(Path(folder))
        except KeyboardInterrupt:
            click.echo("\nstopped; every process of the demo is ended")
            sys.exit(130)
        if keep is not None:
            click.echo(f"\nThe export, {MIGRATION}, the checkpoint and the dead letters are in\n{folder}")
    sys.exit(0 if same else 1)


def _folder(keep: Path | None) -> AbstractContextManager[str | Path]:
    if keep is None:
        return tempfile.TemporaryDirectory(prefix="streammig-demo-")
    try:
        keep.mkdir(parents=True, exist_ok=True)
        taken = any(keep.iterdir())
    except OSError as error:
        raise Unusable("folder-unusable", f"{keep}: {error.strerror}", "Name a folder that can be made.") from None
    if taken:
        raise Unusable("folder-not-empty", f"{keep} is not empty", "Name a new folder.")
    return nullcontext(keep)


def demonstrate(folder: Path, script: Sequence[Mapping[str, Any]] | None = None) -> bool:
    """Play the demo in an empty folder. Return whether all agrees. `script` gives the stand-in faults."""
    click.echo(INTRODUCTION)
    click.echo(bold("\n1. An export of the old system, made up for this demo"))
    written = write_sample(SAMPLE, {stage: folder / name for stage, name in FILES.items()})
    _show_export(folder, written)
    config = SandboxConfig(folder / "stand-in.sqlite", LIMITS, LATENCY, QUEUE_DELAY, script, KEY)
    with LocalTarget(config) as target:
        click.echo(bold("\n2. A stand-in for Masivo (for your own tries: streammig sandbox), and settings"))
        settings = SETTINGS.format(url=target.url, limits=LIMITS, settle_time=SETTLE_TIME)
        (folder / MIGRATION).write_text(settings, encoding="utf-8")
        click.echo("".join(f"  {line}\n" if line else "\n" for line in settings.splitlines()), nl=False)
        found = _play(folder, target, written)
    if not found:
        click.echo("\nThe stand-in holds exactly what the run reports: nothing lost, nothing twice,\nno limit broken.")
    else:
        click.echo(bold("\nTHIS IS NOT AS IT SHOULD BE:", fg="red") + "".join(f"\n  {it}" for it in found))
    return not found


def _play(folder: Path, target: LocalTarget, written: Written) -> list[str]:
    """Run, kill and resume the migration, and show its totals. Return the differences, as sentences."""
    checkpoint = folder / CHECKPOINT
    click.echo(bold("\n3. The migration begins"))
    click.echo("  $ export MASIVO_API_KEY=...   # never as a flag, never in the settings")
    half = sum(-(-part.units // 1000) for part in written.good.values()) // 2
    with started(folder, "run", MIGRATION) as run:
        lost = lose(run, checkpoint, half)
    if sys.stdout.isatty():
        click.echo("\x1b[?25h")  # a killed progress display leaves the cursor hidden
    if not lost:
        return ["the run ended before it could be interrupted: it says above why"]

    click.echo(bold("\n4. Half-way the machine is lost: the process is killed, and can't tidy up"))
    click.echo("The checkpoint holds what was done. Any shell can ask, also during a run:")
    called(folder, "status", CHECKPOINT)

    click.echo(bold("\n5. The same command line goes on from there"))
    code = called(folder, "run", MIGRATION)

    click.echo(bold("\n6. What could not be sent is written out, each record with place and reason"))
    called(folder, "dead-letters", CHECKPOINT, "--out", LETTERS)

    click.echo(bold("\n7. Every customer is read back, and compared with the export"))
    same = called(folder, "verify", CHECKPOINT, "--all")

    click.echo(bold("\n8. The totals of the run beside the records of the stand-in"))
    with closing(Checkpoint.open(checkpoint, read_only=True)) as file:
        totals, ledger = {stage: file.totals(stage) for stage in STAGES}, target.ledger()
    _show_totals(totals, Report.read(checkpoint).document, ledger)
    ended = [] if code in (0, 3) else [f"the run ended with exit code {code}: it says above why"]
    ended += [] if same == 0 else [f"the verify ended with exit code {same}: it says above what differs"]
    return ended + differences(written, totals, ledger)


@contextmanager
def started(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A `streammig` command as a process in a folder, shown as it is typed. Leaving the block kills it."""
    click.echo(f"  $ streammig {' '.join(arguments)}")
    # Without proxies: the target is on this machine. stderr goes where we speak, in one order.
    own = {**os.environ, "MASIVO_API_KEY": KEY, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    typed = [sys.executable, "-m", "streammig", *arguments]
    with subprocess.Popen(typed, cwd=folder, env=own, stderr=sys.stdout, stdin=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def called(folder: Path, *arguments: str) -> int:
    """Call a command to its end, and return its exit code."""
    with started(folder, *arguments) as process:
        return process.wait()


def lose(process: subprocess.Popen[bytes], checkpoint: Path, batches: int) -> bool:
    """Kill a run like a lost machine, once `batches` are accepted and no request is under way. False if it has ended
    before."""
    while process.poll() is None:
        time.sleep(GLANCE)
        if count(checkpoint, BatchState.ACCEPTED) < batches:
            continue
        # It is stopped while we look, so it is killed in the state that we see.
        process.send_signal(signal.SIGSTOP)
        time.sleep(STANDSTILL)
        if not count(checkpoint, BatchState.SENDING):
            process.kill()
            return process.wait() == -signal.SIGKILL
        process.send_signal(signal.SIGCONT)
    return False


def count(checkpoint: Path, state: BatchState) -> int:
    """The number of batches in a state. 0 while there is no checkpoint to read."""
    try:
        with closing(Checkpoint.open(checkpoint, read_only=True)) as file:
            return sum(len(file.batches(stage.name, state)) for stage in file.stages())
    except Problem:
        return 0


def held(ledger: Mapping[str, Any], stage: str) -> Part:
    """The units and sums that the target holds of a stage."""
    found = ledger["holds"][stage]
    # A customer that came twice is held once: count what landed.
    units = found["landed"] if stage == "customers" else found["count"]
    owners = units if stage == "customers" else found["owners"]
    sums = found.get("balances") or found.get("amounts") or {"purchases": found.get("purchase_value", "0")}
    return Part(owners, units, {key: Decimal(text) for key, text in sums.items() if Decimal(text)})


def dropped(ledger: Mapping[str, Any], stage: str) -> int:
    """The number of units that the target's queue dropped."""
    return sum(of["units"] for of in ledger["dropped"][stage].values())


def differences(written: Written, totals: Mapping[str, Totals], ledger: Mapping[str, Any]) -> list[str]:
    """Each difference between the export, the totals of the run and the target's ledger, as a sentence. Empty if they
    agree."""
    found: list[str] = []
    for stage in STAGES:
        own, there, good = totals[stage], held(ledger, stage), written.good[stage]
        whole, read, accepted = written.units[stage], own.taken.units, own.accepted.units
        twice, lost = ledger["twice"][stage]["count"], dropped(ledger, stage)
        sums = [{key: str(value) for key, value in it.items()} for it in (good.sums, own.accepted.sums, there.sums)]
        wrong = {
            "the totals of the run do not add up": not own.balanced,
            f"{own.unknown.units:,} have an unknown outcome": own.unknown.units,
            f"{whole:,} are in the export, {read:,} were read": whole != read,
            f"{good.units:,} are good, {accepted:,} were accepted": good.units != accepted,
            f"{accepted:,} were accepted, {there.units:,} are held by the stand-in": accepted != there.units,
            f"the sums in export, run and stand-in differ: {sums}": not good.sums == own.accepted.sums == there.sums,
            f"{twice:,} are there more than once": twice,
            f"{lost:,} were accepted, and dropped by the queue of the stand-in": lost,
        }
        found += [f"{stage}: {text}" for text, is_so in wrong.items() if is_so]
    broken = ledger["violations"]["count"]
    return found + ([f"requests that came earlier than the limits allow: {broken:,}"] if broken else [])


def bold(text: str, fg: str | None = None) -> str:
    return text if os.environ.get("NO_COLOR") else click.style(text, fg=fg, bold=True)


def _show_export(folder: Path, written: Written) -> None:
    counts = {
        "customers": f"{written.customers:,} with balances, {written.deleted} deleted, {written.bad} with a mistake",
        "events": f"{written.events:,} purchases, {written.reversed} of them reversed",
        "transactions": f"{written.transactions:,} transactions that explain the balances",
    }
    for stage, name in FILES.items():
        size = (folder / name).stat().st_size / 1e6
        click.echo(f"  {name:<18} {size:5.1f} MB  {counts[stage]}")


def _show_totals(totals: Mapping[str, Totals], document: Mapping[str, Any], ledger: Mapping[str, Any]) -> None:
    rows = ["", "read from the export", "left out on purpose", "dead letters", "accepted", "held by the stand-in"]
    rows += ["  more than once", "  dropped by its queue", "exact sums agree", "requests used", "how full they were"]
    columns: list[Sequence[object]] = [rows]
    for stage, own in totals.items():
        there, told = held(ledger, stage), document["stages"][stage]
        counts = [own.taken.units, own.filtered.units, own.dead.units, own.accepted.units, there.units]
        counts += [ledger["twice"][stage]["count"], dropped(ledger, stage)]
        same = "yes" if own.accepted.sums == there.sums else "NO"
        fill = "-" if told["fill"] is None else f"{told['fill']:.1%}"
        columns.append([stage, *(f"{it:,}" for it in counts), same, told["requests"], fill])
    for name, *cells in zip(*columns, strict=True):
        click.echo(f"  {name:<24}" + "".join(f"{cell:>14}" for cell in cells))
