"""Leaves out of a second export what an older run sent and the target still has."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from streammig.columns import Chunk
from streammig.disk import new_file
from streammig.errors import BrokenExport
from streammig.inputs import StageInput
from streammig.not_in.left import Left, Older, Second, until
from streammig.not_in.rules import BEFORE_SINCE, SENT_BEFORE, Since, WithoutLeft, WithoutSent, parse_since
from streammig.selection import Absent
from streammig.sources import comparable
from streammig.telemetry import Notify, Warned
from streammig.verify.work import Work

__all__ = ["BEFORE_SINCE", "SENT_BEFORE", "Older", "Second", "Sent", "make", "narrowed", "parse_since"]


CHANGED = ".changed.ndjson"  # the end of the name of the file with customers that changed since


class Sent(NamedTuple):
    """What an older run left at the target: by owner (`left`), and by place (`places`) in the files of its `inputs`.
    `filtered` tells the customers that it left out."""

    left: Left
    places: Work
    inputs: Mapping[str, StageInput]
    filtered: Absent


def make(
    path: Path,
    older: Older,
    newer: Mapping[str, StageInput],
    second: Second,
    notify: Notify,
    stopped: Callable[[], bool],
) -> Sent:
    """What an older run left at the target, in the file at `path` and one beside it; `CancelledError` where stopped.

    Files that were made for the same run and exports are used as they are. Customers that changed since are written to
    a file beside them, and a warning gives their number.
    """
    left, places, binding = Left(path), Work(path.with_name(path.name + ".places")), older.binding(newer)
    places.begin(binding, {name: list(older.file.accepted(name)) for name in older.inputs})
    if left.made_of() != binding:
        where = path.with_suffix(CHANGED)
        with left.transaction():  # it is made when both files are
            left.make(binding, older, places, second, stopped)
            changed = (
                _write_changed(where, left, newer[second.owners], second, stopped) if second.owners in newer else 0
            )
        if changed:
            said = f"customers that changed since the older run: {changed:,}; they can't be migrated again"
            notify(Warned("customers-changed", f"{said}. For the target's own update call they are in {where}"))
    return Sent(left, places, older.inputs, older.file.filtered_owners)


def narrowed(
    inputs: Mapping[str, StageInput], sent: Sequence[Sent], since: str, second: Second, notify: Notify
) -> dict[str, StageInput]:
    """The inputs, without what older runs left at the target, and without what was issued before `since`."""
    found = dict(inputs)
    moment = parse_since(since) if since else 0.0
    for name, it in inputs.items():
        marks = comparable(it.source.fingerprints())
        rules = Since(it.rules, moment, second.issued) if since and name == second.counted else it.rules
        for each in sent:
            if name != second.counted:
                rules = WithoutLeft(rules, name, each.left)
            elif name in each.inputs and comparable(each.inputs[name].source.fingerprints()) == marks:
                rules = WithoutSent(rules, name, each.places, each.filtered)
            elif each.left.latest and moment <= each.left.latest:
                latest = datetime.fromtimestamp(each.left.latest, UTC).isoformat(timespec="seconds")
                said = f"{name} up to {latest} were sent by the older run: those in both exports will be there twice"
                notify(Warned("events-overlap", f"{said}. Name a later moment with --since"))
        found[name] = it._replace(rules=rules)
    return found


def _write_changed(path: Path, left: Left, it: StageInput, second: Second, stopped: Callable[[], bool]) -> int:
    """Write the profiles of customers that are at the target with another one, for its own update call; returns how
    many. Without any there is no file."""
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
