"""The kinds of dead letters of a checkpoint: by code and field, with how many there are and one example."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from streammig.checkpoint import Checkpoint

INDEX = re.compile(r"\[\d+\]")
FOLLOWS = "owner-"  # a code that begins so goes on with the reason of its customer


def field_of(path: str) -> str:
    """A path of the rules (`$.balance[3].amount`) as a field: the elements of a list count as one."""
    return INDEX.sub("[]", path.removeprefix("$").removeprefix("."))


def spot(it: Mapping[str, Any]) -> str:
    """Where a dead letter stands, for people, by its file, line and column."""
    name, line, column = Path(it["file"]).name, it["line"], it["column"]
    return (
        f"{name}, record {line:,}" if column is None else f"{name}, line {line:,}" + f", column {column}" * bool(column)
    )


class Kind(NamedTuple):
    """Dead letters of one stage that have one code and, where the rules name one, one field."""

    stage: str
    code: str
    field: str
    letters: int
    place: Mapping[str, Any]  # as `spot` takes it
    message: str
    cause: str  # why its customer is not there; "" where it is a cause itself


def kinds(checkpoint: Checkpoint, stage: str) -> list[Kind]:
    """The kinds of dead letters of a stage, the most frequent first."""
    marks = checkpoint.fingerprints(stage)
    groups: dict[tuple[str, str], Kind] = {}
    for code, path, count, source, record, message in checkpoint.reasons(stage):
        field = field_of(path)
        before = groups.get((code, field))
        cause = code.removeprefix(FOLLOWS) if code.startswith(FOLLOWS) else ""
        column = "" if marks[source]["format"] == "csv" else None  # only the export's header can tell which
        place = {"file": marks[source]["file"], "line": record, "column": column}
        one = Kind(stage, code, field, count, place, message, cause)
        if before is not None:
            one = min(one, before, key=lambda it: it.place["line"])._replace(letters=before.letters + count)
        groups[code, field] = one
    return sorted(groups.values(), key=lambda it: (-it.letters, it.code, it.field))
