"""The plan that a check has made of an export, kept beside the checkpoint for the run that comes."""

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
    stages: dict[str, tuple[int, int]]


def plan_path(checkpoint: Path) -> Path:
    return checkpoint.with_name(checkpoint.name + ".plan")


def keep_plan(settings: Settings, inputs: Mapping[str, StageInput], stages: Mapping[str, tuple[int, int]]) -> None:
    """Keep the requests of each stage, and its units with those left out, bound to export, settings and mappings.

    Raises `OSError`.
    """
    if bound := _binding(settings, inputs):
        with whole_file(plan_path(Path(settings.checkpoint))) as part:
            part.write_bytes(msgspec.json.encode(_Kept(bound, dict(stages))))


def kept_plan(settings: Settings, inputs: Mapping[str, StageInput]) -> Mapping[str, tuple[int, int]]:
    """What was kept, if it is of just these stages as they are now; else nothing. Raises `Unusable` for a link in place
    of the file."""
    try:
        found = msgspec.json.decode(read_own(plan_path(Path(settings.checkpoint))), type=_Kept)
    except (OSError, msgspec.MsgspecError):
        return {}
    return found.stages if found.binding == _binding(settings, inputs) else {}


def forget_plan(checkpoint: Path) -> None:
    with suppress(OSError):
        plan_path(checkpoint).unlink()


def _binding(settings: Settings, inputs: Mapping[str, StageInput]) -> str:
    """What a plan depends on, as a digest; "" where that can't be told: a mapping without a file, or an older run whose
    records are left out."""
    made_by = {}
    for name, it in inputs.items():
        stage = settings.stage(name)
        made_by[name] = rules_of(it.mapping if stage.map or stage.fields else None)
    if settings.not_in or settings.since or not all(made_by.values()):
        return ""
    marks = {name: [{**mark, "file": ""} for mark in it.source.fingerprints()] for name, it in inputs.items()}
    text = json.dumps([marks, made_by, shapes(settings, unchecked=False)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
