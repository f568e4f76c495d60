"""A report on a checkpoint, read without changing it, while a run is on or not."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streammig.checkpoint import Checkpoint, is_held
from streammig.errors import Problem
from streammig.ratelimit import (
    Orders,
    Starts,
    account_path,
    orders_path,
    parse_hours,
    parse_limits,
    read_orders,
    starts_of,
)
from streammig.report.document import document
from streammig.report.progress import Pace
from streammig.report.text import summary

LANES, SETTLE = 4, 300.0  # as in the settings, where a checkpoint keeps only what differs
ENOUGH = 50  # requests whose latency is looked at


@dataclass(frozen=True, slots=True)
class Report:
    """What a checkpoint holds: `document` is JSON-ready, as `streammig status --json` prints it; as text, what people
    are shown."""

    document: dict[str, Any]

    @classmethod
    def read(cls, checkpoint: Path) -> Report:
        """The report on a checkpoint as of now. Raises `Unusable` where there is none, or it is damaged."""
        with closing(Checkpoint.open(checkpoint, read_only=True)) as file:
            file.verify(quick=True)
            now = time.time()
            return cls(document(file, running=is_held(checkpoint), pace=pace_of(file, now), now=now))

    def __str__(self) -> str:
        return summary(self.document)


def account_file(run: Mapping[str, Any]) -> Path | None:
    """Where the account's file of a run lies; None of a dry run, which makes no requests."""
    context, account = run["context"], run["binding"].get("account", "")
    if run["binding"].get("dry_run") or "state_dir" not in context:
        return None
    return account_path(Path(context["state_dir"]), account)


def orders_of(run: Mapping[str, Any]) -> Orders:
    """What the operator asks of a run; nothing where that can't be read, which the run itself tells."""
    with suppress(Problem):
        return read_orders(orders_path(Path(run["context"].get("state_dir", "")), run["id"]))
    return Orders()


def pace_of(checkpoint: Checkpoint, now: float) -> Pace:
    """What paces a run, as its checkpoint and the account's file know it."""
    run = checkpoint.run
    context, path = run["context"], account_file(run)
    orders = orders_of(run)
    limits = parse_limits(orders.limits or context.get("limits", "off"), {})
    settings = context.get("settings", {})
    lanes = int(settings.get("concurrency", LANES))
    begun = float(context.get("begun", 0.0))
    seen = [it for row in checkpoint.stages() for it in checkpoint.latencies(row.name, begun, ENOUGH)][-ENOUGH:]
    return Pace(
        limits, starts_of(path, limits, now) if path is not None else Starts(),
        0.0 if path is None else float(settings.get("settle_time", SETTLE)), lanes,
        sum(seen) / len(seen) if seen else 0.0, orders.paused,
        parse_hours(settings.get("hours", ""), settings.get("hours_zone", "")),
    )  # fmt: skip
