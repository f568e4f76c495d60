"""A run that is over: with dead letters, a 429, and a parked batch of events; and names that must be escaped."""

from __future__ import annotations

import asyncio
from pathlib import Path

from streammig.errors import UnknownOutcome
from streammig.migration import Migration
from streammig.settings import Settings
from tests import problems
from tests.commands import KEY, sandbox, write
from tests.sandbox_caller import customer, event, lot

NAME = "Aurelia <script>"
FILES = {"customers": "c&<b>.ndjson", "events": "e.ndjson"}
SCRIPT = (
    {"on": "events", "nth": 1, "do": "reset", "at": "body"},
    {"on": "customers", "nth": 1, "do": "answer", "status": 429, "retry_after": 0},
)


def export(folder: Path) -> None:
    people = [customer(f"c{at}", name=NAME, balance=[lot(2.5)]) for at in range(8)]
    people[3]["email"] = "none"
    write(folder / FILES["customers"], people, lines=True)
    write(folder / FILES["events"], [{"id": f"c{at}", "events": [event(f"p{at}")]} for at in range(8)], lines=True)


def run(folder: Path) -> Path:
    """The run's checkpoint."""
    export(folder)
    checkpoint = folder / "run.checkpoint"
    files = {stage: {"files": [str(folder / name)]} for stage, name in FILES.items()}
    with sandbox(*SCRIPT) as target:
        asked = {"base_url": target.url, "limits": "1000/1h", "settle_time": 0.0, "checkpoint": str(checkpoint)}
        settings = Settings.load(None, **files, **asked)
        with problems.raises(UnknownOutcome, "outcome-unknown"):
            asyncio.run(Migration(settings, key=KEY, state_dir=folder / "state").run())
    return checkpoint
