"""Decides which stages a run scans before its first request, and from where."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from streammig.checkpoint import Checkpoint
from streammig.fingerprint import rules_of
from streammig.inputs import StageInput
from streammig.model import START, Place
from streammig.scan import StageScan, scan_folder
from streammig.settings import Settings
from streammig.stages import STAGES


def to_scan(
    settings: Settings,
    inputs: Mapping[str, StageInput],
    shape: Mapping[str, Any],
    file: Checkpoint | None,
    added: Collection[str],
    beside: Mapping[str, int],
    *,
    aside: bool,
) -> list[StageScan]:
    """The scans of a run. Each stage that is not complete is judged; the customers are always indexed.

    - `aside`: a command such as `verify` needs only the index of the customers, and judges nothing
    - `added`: stages with files that are new to the checkpoint
    - `beside`: what else needs room on the disk, in bytes by purpose

    A mapping may have changed since the last call. Sealed customers stay in the index as they were, later ones are
    scanned again.
    """
    states = {row.name: row.state for row in file.stages()} if file is not None else {}
    jobs = []
    for name, it in inputs.items():
        stage = settings.stage(name)
        complete = states.get(name) == "complete" and name not in added
        frontier: Place | None = None
        if name == STAGES[0] and not complete:
            frontier = file.progress(name).frontier if file is not None and name in states else START
        made_by = rules_of(it.mapping if stage.map or stage.fields else None)
        if name != STAGES[0] and not made_by:
            frontier = START  # the rules have no hash, so earlier findings may be wrong
        job = StageScan(
            name=name,
            source=it.source,
            rules=it.rules,
            shape=shape[name],
            folder=scan_folder(Path(settings.checkpoint)),
            owners=name == STAGES[0],
            policy=settings.duplicates if name == STAGES[0] else "all" if it.rules.once else None,
            begun=name in states,
            judged=not (aside or complete),
            frontier=frontier,
            made_by=made_by,
            beside=beside,
        )
        if job.judged or name == STAGES[0]:
            jobs.append(job)
    return jobs
