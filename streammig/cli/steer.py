"""`streammig pause`, `unpause` and `rate`: what another process does is changed through the state folder."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import click
import msgspec

from streammig.checkpoint import Checkpoint, is_held
from streammig.cli import options, say
from streammig.errors import Unusable
from streammig.ratelimit import Orders, orders_path, parse_limits, read_orders, write_orders
from streammig.telemetry import spoken

NOTICED = 5.0  # seconds until a run has seen new orders, at most
SETTINGS = "settings"  # what stands for the limits that the run's settings name


@click.command()
@options.checkpoint
def pause(checkpoint: Path) -> None:
    """Let the run on a checkpoint wait, without ending it.

    Requests under way end; none begins. The pause outlives the run: one that starts while it is paused waits, too.
    """
    _order(checkpoint, lambda it: msgspec.structs.replace(it, paused=True))
    say(f"{checkpoint} pauses within {spoken(NOTICED)}. To go on: streammig unpause {shlex.quote(str(checkpoint))}")


@click.command()
@options.checkpoint
def unpause(checkpoint: Path) -> None:
    """Let a paused run go on."""
    _order(checkpoint, lambda it: msgspec.structs.replace(it, paused=False), running=False)
    say(f"{checkpoint} is not paused any more.")


@click.command()
@options.checkpoint
@click.argument("limits")
def rate(checkpoint: Path, limits: str) -> None:
    """Change the limits of the run on a checkpoint: prod, dev, off, or like 1/5s,250/1h;general=1000/1d.

    They outlive the run, until `settings` as LIMITS brings back those of the settings.
    """
    from streammig.migration import PRESETS

    asked = "" if limits == SETTINGS else str(parse_limits(limits, PRESETS))
    _order(checkpoint, lambda it: msgspec.structs.replace(it, limits=asked), running=bool(asked))
    what = f"limits {asked}" if asked else "limits of its settings again"
    say(f"{checkpoint} has the {what}, within {spoken(NOTICED)} where a run is on.")


def _order(checkpoint: Path, change: Callable[[Orders], Orders], running: bool = True) -> None:
    """Change the orders for a checkpoint. Raises `Unusable` where no process runs it, and it is to be `running`."""
    with closing(Checkpoint.open(checkpoint, read_only=True)) as file:
        run = file.run
    if run["binding"].get("dry_run"):
        raise Unusable("checkpoint-of-dry-run", f"{checkpoint} is that of a dry run", "Name the checkpoint of a run.")
    if running and not is_held(checkpoint):
        raise Unusable("not-running", f"no process runs {checkpoint}", "Call it while `streammig run` is on.")
    path = orders_path(Path(run["context"]["state_dir"]), run["id"])
    write_orders(path, change(read_orders(path)))
