"""The plan file: `check` stores the requests of each stage beside the checkpoint, and the next run reads them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from streammig.disk import read_own, whole_file
from streammig.fingerprint import rules_of, shapes
from streammig.inputs import StageInput
from streammig.settings import Settings


class _Kept(msgspec.Struct, frozen=True):
    binding: str
    stages: dict[str, tuple[int, int]]  # requests and units by stage


def plan_path(checkpoint: Path) -> Path:
    return checkpoint.with_name(checkpoint.name + ".plan")


def keep_plan(settings: Settings, inputs: Mapping[str, StageInput], stages: Mapping[str, tuple[int, int]]) -> None:
    """Store the requests and units of each stage, bound to export, settings and mappings. Raises `OSError`.

    Units include those that are left out.
    """
    if bound := _binding(settings, inputs):
        with whole_file(plan_path(Path(settings.checkpoint))) as part:
            part.write_bytes(msgspec.json.encode(_Kept(bound, dict(stages))))


def kept_plan(settings: Settings, inputs: Mapping[str, StageInput]) -> Mapping[str, tuple[int, int]]:
    """Return the stored plan, or {} if export, settings or mappings have changed. Raises `Unusable` for a link."""
    try:
        found = msgspec.json.decode(read_own(plan_path(Path(settings.checkpoint))), type=_Kept)
    except (OSError, msgspec.MsgspecError):
        return {}
    return found.stages if found.binding == _binding(settings, inputs) else {}


def forget_plan(checkpoint: Path) -> None:
    with suppress(OSError):
        plan_path(checkpoint).unlink()


def _binding(settings: Settings, inputs: Mapping[str, StageInput]) -> str:
    """Hash of everything that a plan depends on.

    Returns "" if that is not known: a mapping has no file, or records of an older run are left out.
    """
    made_by = {}
    for name, it in inputs.items():
        stage = settings.stage(name)
        made_by[name] = rules_of(it.mapping if stage.map or stage.fields else None)
    if settings.not_in or settings.since or not all(made_by.values()):
        return ""
    marks = {name: [{**mark, "file": ""} for mark in it.source.fingerprints()] for name, it in inputs.items()}
    text = json.dumps([marks, made_by, shapes(settings, unchecked=False)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
