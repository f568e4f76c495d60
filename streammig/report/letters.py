"""The kinds of dead letters of a checkpoint: by code and field, with how many there are and one example."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from streammig.checkpoint import Checkpoint

INDEX = re.compile(r"\[\d+\]")
FOLLOWS = "owner-"  # a code that begins so goes on with the reason of its customer


def field_of(path: str) -> str:
    """A path of the rules (`$.balance[3].amount`) as a field: the elements of a list count as one."""
    return INDEX.sub("[]", path.removeprefix("$").removeprefix("."))


class Kind(NamedTuple):
    """Dead letters of one stage that have one code and, where the rules name one, one field."""

    stage: str
    code: str
    field: str
    letters: int
    file: str
    record: int
    message: str
    cause: str  # why its customer is not there; "" where it is a cause itself


def kinds(checkpoint: Checkpoint) -> list[Kind]:
    """The kinds of dead letters, stage after stage, the most frequent first."""
    found: list[Kind] = []
    for row in checkpoint.stages():
        files = [mark["file"] for mark in checkpoint.fingerprints(row.name)]
        groups: dict[tuple[str, str], Kind] = {}
        for code, path, count, source, record, message in checkpoint.reasons(row.name):
            field = field_of(path)
            before = groups.get((code, field))
            cause = code.removeprefix(FOLLOWS) if code.startswith(FOLLOWS) else ""
            one = Kind(
                stage=row.name, code=code, field=field, letters=count, file=Path(files[source]).name, record=record,
                message=message, cause=cause,
            )  # fmt: skip
            if before is not None:
                one = min(one, before, key=lambda it: it.record)._replace(letters=before.letters + count)
            groups[code, field] = one
        found += sorted(groups.values(), key=lambda it: (-it.letters, it.code, it.field))
    return found
