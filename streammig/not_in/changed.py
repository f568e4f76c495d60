"""Customers that changed since an older run: their profiles, in a file for the target's own update call."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path

from streammig.columns import Chunk
from streammig.disk import new_file
from streammig.errors import BrokenExport
from streammig.inputs import StageInput
from streammig.not_in.left import Left, Second, until

CHANGED = ".changed.ndjson"  # the end of the file's name


def write_changed(path: Path, left: Left, it: StageInput, second: Second, stopped: Callable[[], bool]) -> int:
    """Write the profiles of customers that are at the target with another profile; returns how many. Without any there
    is no file."""
    lines = until(stopped, _profiles(left, it, second))
    first = next(lines, None)
    if first is None:
        if path.exists() and _is_ours(path):
            path.unlink()
        return 0
    found = 0
    with new_file(path, may_replace=_is_ours) as out:
        for line in chain([first], lines):
            out.write(line + b"\n")
            found += 1
    return found


def _profiles(left: Left, it: StageInput, second: Second) -> Iterator[bytes]:
    with suppress(BrokenExport):  # what lies behind the break is not sent either
        for span in it.source.spans():
            columns = it.rules.columns(span)
            there = left.present(second.owners, {*columns.owners})
            for row in [row for row, owner in enumerate(columns.owners) if owner in there]:
                (record,) = Chunk(span, columns).records(row, row + 1)
                if second.profile_hash(record.body) != there[record.owner]:
                    yield json.dumps({"id": record.owner, "customer": second.profile(record.body)}).encode()


def _is_ours(path: Path) -> bool:
    """Whether a file is such a list: only that may be written again, and nothing behind a link."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        try:
            line = json.loads(file.readline())
        except ValueError:
            return False
    return isinstance(line, dict) and list(line) == ["id", "customer"]
