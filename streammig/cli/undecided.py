"""Unknown and parked batches: the facts about one, and the operator's decision."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from streammig.address import is_address
from streammig.batching import assemble, ranges_of
from streammig.checkpoint import Attempt, Checkpoint, locked
from streammig.delivery.in_part import CODE as IN_PART_CODE
from streammig.errors import Problem, Unusable
from streammig.model import Batch, BatchState, DeadLetter
from streammig.report.document import iso, undecided, undecided_entry
from streammig.sources import parse_input
from streammig.sources.packed import PLAIN, UNPACK

SHOWN_BYTES = 2_000  # of the export, enough to show whose records they are
SHOWN, MARKS = 5, 6  # customers to look up, and dates or purchases of each
LOOKED_UP = ("registration_date", "issued_at", "purchase_id")
PLACES = 10  # ranges of a batch that are named: a batch of events has one, a batch of transactions hundreds


RULINGS = {
    "landed": (BatchState.ACCEPTED, "it landed"),
    "not-landed": (BatchState.SEALED, "it did not land"),
    "reject": (BatchState.REJECTED, "it is rejected for its records, and its bad ones are to be searched"),
    "set-aside": (BatchState.REJECTED, "it is rejected, and all of it is to become dead letters"),
}
"""The decisions about a batch: each with the state that it leads to, and the note that records it."""


def find(checkpoint: Checkpoint, seq: int, stage: str | None, running: bool, rejecting: bool = False) -> Batch:
    """The undecided batch of this number; with `rejecting` also a batch whose answer stopped the run. Raises `Unusable`
    if there is none, or one in several stages."""
    left = undecided(checkpoint, running) + (checkpoint.stopped() if rejecting else [])
    found = [batch for batch in left if batch.seq == seq and stage in (None, batch.stage)]
    if len(found) > 1:
        names = ", ".join(batch.stage for batch in found)
        raise Unusable(
            "batch-ambiguous", f"batch {seq} is undecided in several stages: {names}", "Name one with --stage."
        )
    if found:
        return found[0]
    states = [
        f"batch {seq} of {row.name} is {batch.state}"
        for row in checkpoint.stages()
        if stage in (None, row.name)
        for batch in checkpoint.batches(row.name, *BatchState)
        if batch.seq == seq
    ]
    numbers = ", ".join(f"{batch.seq} of {batch.stage}" for batch in left[:20]) or "none"
    raise Unusable(
        "nothing-to-decide",
        f"{'; '.join(states) or f'there is no batch {seq}'}: there is nothing to decide",
        f"Undecided in {checkpoint.path}: {numbers}.",
    )


def known(checkpoint: Checkpoint, batch: Batch) -> dict[str, Any]:
    """The facts about a batch, JSON-ready: what it holds, where that stands in the export, its requests with their
    answers, and what a read-back showed."""
    about = checkpoint.about(batch)
    return undecided_entry(checkpoint, batch) | {
        "sums": {key: f"{value:f}" for key, value in sorted(batch.tally.sums.items())},
        "bytes": batch.size,
        "sealed": iso(about["sealed"]),
        "retried": batch.retried,
        "parent": batch.parent,
        "places": _places(checkpoint, batch),
        "look": _look(checkpoint, batch),
        "ranges": len(batch.ranges),
        "requests": [_request(it) for it in checkpoint.attempts(batch)],
        "note": about["note"],
    }


def _request(attempt: Attempt) -> dict[str, Any]:
    found = attempt._asdict() | {"started": iso(attempt.started)}
    return {name: value for name, value in found.items() if name not in ("stopped", "in_part")}


def _places(checkpoint: Checkpoint, batch: Batch) -> list[dict[str, Any]]:
    files: Sequence[str] = checkpoint.run["context"].get("inputs", {}).get(batch.stage, ())
    return [
        {
            "file": files[begin.source] if begin.source < len(files) else f"file {begin.source + 1}",
            "from": {"record": begin.ordinal, "unit": begin.unit, "byte": begin.offset},
            "to": {"record": end.ordinal, "unit": end.unit, "byte": end.offset},
        }
        for begin, end in batch.ranges[:PLACES]
    ]


def _look(checkpoint: Checkpoint, batch: Batch) -> str | None:
    """A shell command that shows the begin of a batch in the export: the checkpoint has no ids."""
    files: Sequence[str] = checkpoint.run["context"].get("inputs", {}).get(batch.stage, ())
    if not batch.ranges or batch.ranges[0].begin.source >= len(files):
        return None
    begin, end = batch.ranges[0]
    if is_address(files[begin.source]):
        return None
    file, before = shlex.quote(parse_input(files[begin.source]).file), begin.offset + 1
    length = min(end.offset - begin.offset, SHOWN_BYTES) or SHOWN_BYTES
    packed = checkpoint.fingerprints(batch.stage)[begin.source].get("compression", PLAIN)
    read = f"{UNPACK[packed]} {file} | tail -c +{before}" if packed else f"tail -c +{before} {file}"
    return f"{read} | head -c {length}"


def to_look_up(checkpoint: Checkpoint, batch: Batch) -> list[str]:
    """Lines with what the target said of a batch, as it came; then with some customers of it, and the dates and
    purchases by which to find them at the target."""
    said = checkpoint.outbox.answer(batch)
    lines = ["  the target said:", f"    {said}"] if said else []
    try:
        records = checkpoint.outbox.contents(batch, SHOWN).records
    except Problem:
        return lines
    lines.append("  look up at the target:")
    for record in records[:SHOWN]:
        marks = list(dict.fromkeys(_marks(json.loads(record.body))))
        lines.append(f"    customer {record.owner}" + (f": {', '.join(marks[:MARKS])}" if marks else ""))
    return lines


def _marks(value: Any) -> Iterator[str]:
    """The dates and the ids of purchases that a record holds, in its order."""
    if isinstance(value, list):
        for it in value:
            yield from _marks(it)
    elif isinstance(value, dict):
        yield from (f"{name} {value[name]}" for name in LOOKED_UP if isinstance(value.get(name), str))
        for it in value.values():
            yield from _marks(it)


def decide_in_part(path: Path, command: str, batch: Batch, ids: Path, at: float) -> None:
    """Keep the operator's decision that only the customers named in a file landed. The others of the batch become dead
    letters, which a retry sends. Raises `Unusable` where the file names none of the batch, all of it, or others."""
    landed = _ids(ids)
    with locked(path, command), closing(Checkpoint.open(path)) as file:
        file.recover()
        batch = find(file, batch.seq, batch.stage, running=False)
        head, tail, records = file.outbox.contents(batch)
        owners = {record.owner for record in records}
        if foreign := len(landed - owners):
            said = f"{ids}: customers that are not in batch {batch.seq} of {batch.stage}: {foreign:,}"
            raise Unusable("ids-foreign", said, "Name only customers of this batch.")
        if not landed or landed == owners:
            none_or_all = "none of" if not landed else "all of"
            said = f"{ids} names {none_or_all} the customers of batch {batch.seq} of {batch.stage}"
            raise Unusable("ids-whole", said, f"Use --{'landed' if landed else 'not-landed'}.")
        there = [record for record in records if record.owner in landed]
        missing = [record for record in records if record.owner not in landed]
        accepted, dead = (assemble(it, head, tail, ranges_of(it)) for it in (there, missing))
        why = f"the operator, {iso(at)}: a part of its batch landed, and this did not"
        letters = [DeadLetter(it.position, it.unit, IN_PART_CODE, why, it.tally) for it in missing]
        with file.transaction():
            file.move(batch, BatchState.PARKED, BatchState.UNKNOWN)
            file.settle_in_part(batch, accepted, dead, letters, at, [it.owner for it in missing])


def _ids(path: Path) -> set[str]:
    try:
        return {line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()}
    except (OSError, UnicodeDecodeError):
        said = f"{path}: no ids can be read there"
        raise Unusable("ids-unreadable", said, "Name a text file in UTF-8 with one id a line.") from None


def decide(path: Path, command: str, seq: int, stage: str | None, ruling: str, at: float) -> Batch:
    """Keep the operator's decision about a batch, one of `RULINGS`. Raises `Held` while another process holds the
    checkpoint, and `Unusable` like `find`, or where nothing of the stage was accepted before the run stopped."""
    rejecting = ruling in ("reject", "set-aside")
    with locked(path, command), closing(Checkpoint.open(path)) as file:
        file.recover()
        batch = find(file, seq, stage, running=False, rejecting=rejecting)
        if batch.state is BatchState.SEALED and not file.counts(batch.stage)["accepted"]:
            raise Unusable(
                "nothing-accepted",
                f"nothing of {batch.stage} was accepted yet: the records of batch {seq} are not the cause",
                "Find the cause of the target's answer: the address, the key, or a permission.",
            )
        state, words = RULINGS[ruling]
        ruled = file.rule(batch, state, ruling, at, f"the operator, {iso(at)}: {words}")
        assert ruled, "nobody else can have decided it: the checkpoint is locked"
    return batch
