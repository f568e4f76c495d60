"""Binds a checkpoint to account, export and settings at the start of a call, and recovers from the last call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from streammig.ask import Ask
from streammig.checkpoint import Checkpoint, Fence, Mark
from streammig.fingerprint import Marks
from streammig.model import Batch
from streammig.settings import Settings, absolute, portable
from streammig.sources import parse_input
from streammig.stages import STAGES
from streammig.telemetry import ArrayDetected, Notify, Warned

NAMED = 20  # batches in one warning


def create(path: Path, fence: Fence | None, binding: Mapping[str, Any], started: float) -> Checkpoint:
    """Create a checkpoint, bound to the account."""
    if fence is not None:
        fence.raise_to(Mark())  # first, so that the fence knows every copy of the checkpoint
    run_id = fence.run_id if fence is not None else ""
    return Checkpoint.create(path, run_id=run_id, binding=binding, version=version("streammig"), started=started)


def new_files(
    file: Checkpoint | None, marks: Marks, settings: Settings, notify: Notify
) -> dict[str, list[Mapping[str, Any]]]:
    """Fingerprints of files that are new to the checkpoint, by stage. Notifies which array was detected in a file."""
    known = {row.name: len(file.fingerprints(row.name)) for row in file.stages()} if file is not None else {}
    fresh = {name: list(found[known.get(name, 0) :]) for name, found in marks.items()}
    for name, files in fresh.items():
        for text, mark in zip(settings.stage(name).files[known.get(name, 0) :], files, strict=True):
            if parse_input(text).path is None and mark["path"]:
                notify(ArrayDetected(name, mark["file"], mark["path"]))
    return fresh


def bind(
    file: Checkpoint, shape: Mapping[str, Any], fresh: Mapping[str, Any], context: Mapping[str, Any] | None
) -> None:
    """Add new stages and files to the checkpoint, and the `context` of the call unless it is None."""
    with file.transaction():
        if context is not None:
            file.set_context(file.run["context"] | context)  # keeps other entries, such as the plan
        known = {row.name for row in file.stages()}
        for name, marks in fresh.items():
            if name not in known:
                file.add_stage(name, STAGES.index(name), shape[name], marks)
            else:
                file.add_files(name, len(file.fingerprints(name)), marks)


def call_context(settings: Settings, ask: Ask, limits: str, state_dir: Path, folder: Path) -> dict[str, Any]:
    """What later commands need to know of this call: its files, its settings and its limits. JSON-ready."""
    stages = {name: settings.stage(name) for name in settings.stages}
    return {
        "command": ask.command,
        "limits": limits,
        "inputs": {name: [absolute(text) for text in stage.files] for name, stage in stages.items()},
        "forms": {name: [stage.delimiter, stage.encoding, stage.keyed] for name, stage in stages.items()},
        "state_dir": str(state_dir.absolute()),
        "max_record_bytes": settings.max_record_bytes,
        "settings": portable(settings),
        "folder": str(folder.absolute()),
        "unchecked": ask.unchecked,
    }


def recover(file: Checkpoint, fence: Fence | None, now: float, notify: Notify) -> None:
    """Mark batches as unknown that an earlier process may have sent, then raise the fence to this checkpoint's tick."""
    if fence is not None and fence.newer is not None:
        _warn(notify, file.newest_is_lost(fence.newer, now), "newest-is-lost", "the newest copy is lost")
    _warn(notify, file.recover(), "crashed-while-sending", "the last run ended while it was sending")
    if fence is not None:
        fence.raise_to(Mark(file.run["tick"]))


def _warn(notify: Notify, lost: Sequence[Batch], code: str, why: str) -> None:
    if lost:
        names = ", ".join(f"{batch.seq} of {batch.stage}" for batch in lost[:NAMED])
        more = f" and {len(lost) - NAMED:,} more" if len(lost) > NAMED else ""
        notify(Warned(code, f"{why}: the outcome is unknown for batch {names}{more}"))
