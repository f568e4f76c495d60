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
from streammig.ratelimit import OFF, Orders, orders_path, parse_limits, read_orders, write_orders

NOTICED = 5  # seconds until a run has seen new orders, at most
SETTINGS = "settings"  # what stands for the limits that the run's settings name


@click.command()
@options.checkpoint
def pause(checkpoint: Path) -> None:
    """Let the run on a checkpoint wait, without ending it.

    Requests under way end; none begins. The pause outlives the run: one that starts while it is paused waits, too.
    """
    _order(checkpoint, lambda it, _: msgspec.structs.replace(it, paused=True))
    say(f"{checkpoint} pauses within {NOTICED} s. To go on: streammig unpause {shlex.quote(str(checkpoint))}")


@click.command()
@options.checkpoint
def unpause(checkpoint: Path) -> None:
    """Let a paused run go on."""
    _order(checkpoint, lambda it, _: msgspec.structs.replace(it, paused=False), running=False)
    say(f"{checkpoint} is not paused any more.")


@click.command()
@options.checkpoint
@click.argument("limits")
def rate(checkpoint: Path, limits: str) -> None:
    """Change the limits of the run on a checkpoint: prod, dev, off, or like 1/5s,250/1h;general=1000/1d.

    They outlive the run, until `settings` as LIMITS brings back those of the settings. Where LIMITS is like 1/5s, the
    general limit stays.
    """
    from streammig.migration import PRESETS

    asked = OFF if limits == SETTINGS else parse_limits(limits, PRESETS)
    keeps = asked.migration and not asked.general and limits.strip() not in PRESETS

    def change(orders: Orders, of_settings: str) -> Orders:
        before = parse_limits(orders.limits or of_settings, {})
        now = asked._replace(general=before.general) if keeps else asked
        return msgspec.structs.replace(orders, limits="" if limits == SETTINGS else str(now))

    given = _order(checkpoint, change, running=limits != SETTINGS).limits
    what = f"limits {given}" if given else "limits of its settings again"
    say(f"{checkpoint} has the {what}, within {NOTICED} s where a run is on.")


def _order(checkpoint: Path, change: Callable[[Orders, str], Orders], running: bool = True) -> Orders:
    """Change the orders for a checkpoint, which `change` gets with the limits of the settings, and return them. Raises
    `Unusable` where no process runs it, and it is to be `running`."""
    with closing(Checkpoint.open(checkpoint, read_only=True)) as file:
        run = file.run
    if run["binding"].get("dry_run"):
        raise Unusable("checkpoint-of-dry-run", f"{checkpoint} is that of a dry run", "Name the checkpoint of a run.")
    if running and not is_held(checkpoint):
        raise Unusable("not-running", f"no process runs {checkpoint}", "Call it while `streammig run` is on.")
    path = orders_path(Path(run["context"]["state_dir"]), run["id"])
    orders = change(read_orders(path), run["context"].get("limits", "off"))
    write_orders(path, orders)
    return orders
