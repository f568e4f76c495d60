"""Leaves out of a second export what an older run sent and the target still has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from streammig.inputs import StageInput
from streammig.not_in.changed import CHANGED, write_changed
from streammig.not_in.left import Left, Second
from streammig.not_in.older import Older
from streammig.not_in.rules import BEFORE_SINCE, SENT_BEFORE, Since, WithoutLeft, WithoutSent, parse_since
from streammig.selection import Absent
from streammig.sources import comparable
from streammig.telemetry import Notify, Warned
from streammig.verify.work import Work

__all__ = ["BEFORE_SINCE", "SENT_BEFORE", "Older", "Second", "Sent", "make", "narrowed", "parse_since"]


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
            changed = write_changed(where, left, newer[second.owners], second, stopped) if second.owners in newer else 0
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
        rules = Since(it.rules, moment, second.issued) if since and name == second.counted else it.rules
        for each in sent:
            if name != second.counted:
                rules = WithoutLeft(rules, name, each.left)
            elif name in each.inputs and _alike(each.inputs[name], it):
                rules = WithoutSent(rules, name, each.places, each.filtered)
            elif each.left.latest and moment <= each.left.latest:
                latest = datetime.fromtimestamp(each.left.latest, UTC).isoformat(timespec="seconds")
                said = f"{name} up to {latest} were sent by the older run: those in both exports will be there twice"
                notify(Warned("events-overlap", f"{said}. Name a later moment with --since"))
        found[name] = it._replace(rules=rules)
    return found


def _alike(older: StageInput, newer: StageInput) -> bool:
    return comparable(older.source.fingerprints()) == comparable(newer.source.fingerprints())
