"""The history of a run from its checkpoint, first request to now: the data of the HTML report, JSON-ready."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

from streammig.checkpoint import Checkpoint, Timeline, is_held
from streammig.model import ZERO, BatchState, Tally
from streammig.report.audit import proof
from streammig.report.document import document, iso
from streammig.report.letters import kinds
from streammig.report.progress import Pace
from streammig.report.reports import pace_of
from streammig.report.text import next_steps

PARTS = ("read", "accepted", "filtered", "dead", "unknown", "pending", "reverted")
FORMAT = 1
SLOTS = 60  # at most, of a timeline
# The seconds of a slot of a timeline: round numbers for people.
WIDTHS = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 10800, 21600, 43200)
DAY = 86400
# The upper ends of the classes of a distribution of latencies, in seconds.
LATENCIES = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
QUANTILES = (50, 90, 99)


def history(path: Path, now: float | None = None) -> dict[str, Any]:
    """The data of the report on a checkpoint. It reads without changing anything, also while a run is on.

    `status` is the document of `status --json`. Amounts are exact decimals as text, times ISO 8601 in UTC, latencies
    and `slot` seconds. Raises `Unusable` where there is no checkpoint, or it is damaged.
    """
    now = time.time() if now is None else now
    with closing(Checkpoint.open(path, read_only=True)) as file:
        file.verify()
        with file.reading():
            marks = {row.name: file.fingerprints(row.name) for row in file.stages()}
            # Files of the export by name alone, because folders may name people.
            files = {
                name: [{"name": Path(it["file"]).name, "bytes": it["size"]} for it in of] for name, of in marks.items()
            }
            return {"report": FORMAT} | _seen(file, now) | {"files": files, "proof": proof(file)}


def glance(path: Path, now: float | None = None) -> dict[str, Any]:
    """What the page and the metrics show of a run as of now: the part of `history` that changes, the run's pace, and
    the `counts` of each stage's batches. Raises as `history`."""
    now = time.time() if now is None else now
    with closing(Checkpoint.open(path, read_only=True)) as file, file.reading():
        counts = {row.name: dict(file.counts(row.name)) for row in file.stages()}
        return _seen(file, now, pace_of(file, now)) | {"counts": counts}


def _seen(file: Checkpoint, now: float, pace: Pace | None = None) -> dict[str, Any]:
    past, run = Timeline(file), file.run
    status = document(file, running=is_held(file.path), now=now, pace=pace)
    between = past.between()
    begin, end = between or (run["started"], run["started"])
    width = _width(end - begin)
    return {
        "version": version("streammig"),
        "made": iso(now),
        "target": run["binding"].get("target", ""),
        "began": iso(run["started"]),
        "first_request": iso(begin) if between else None,
        "last_answer": iso(end) if between else None,
        "slot": width,
        "status": status,
        "stages": {row.name: _stage(file, past, row.name, begin, width) for row in file.stages()},
        "decisions": [_decision(row) for row in past.decided()],
        "next": [step._asdict() for step in next_steps(status)],
    }


def _width(seconds: float) -> int:
    """The shortest width, in seconds, with which a timeline has at most `SLOTS` slots."""
    for width in WIDTHS:
        if seconds < width * SLOTS:
            return width
    return DAY * (1 + int(seconds // (DAY * SLOTS)))


def _stage(file: Checkpoint, past: Timeline, name: str, begin: float, width: int) -> dict[str, Any]:
    totals = file.totals(name)
    tallies: dict[str, Tally] = {"read": totals.taken} | {part: getattr(totals, part) for part in PARTS[1:]}
    slots, latencies = past.slots(name, begin, width), past.latencies(name, begin, width)
    of_slot: dict[int, list[float]] = {}
    for number, latency in latencies:
        of_slot.setdefault(number, []).append(latency)
    return {
        "units": {part: tally.units for part, tally in tallies.items()},
        "records": {part: tally.records for part, tally in tallies.items()},
        "sums": {
            key: {part: f"{tally.sums.get(key, ZERO):f}" for part, tally in tallies.items()}
            for key in sorted({key for it in tallies.values() for key in it.sums})
        },
        "timeline": [
            {"from": iso(begin + number * width), **slots[number]._asdict()}
            | _quantiles(of_slot.get(number, ()), QUANTILES[:2])
            for number in sorted(slots)
        ],
        "answers": past.answers(name),
        "latency": _latency([latency for _, latency in latencies]),
        "requests_a_batch": {str(requests): count for requests, count in past.requests_a_batch(name).items()},
        "dead": [{"code": it.code, "field": it.field, "count": it.letters} for it in kinds(file, name)],
    }


def _latency(found: Sequence[float]) -> dict[str, Any] | None:
    """The quantiles and the distribution of sorted latencies; None without any."""
    if not found:
        return None
    upto = [bisect_right(found, end) for end in LATENCIES] + [len(found)]
    return _quantiles(found, QUANTILES) | {
        "longest": round(found[-1], 3),
        "sum": round(sum(found), 3),
        "classes": [
            {"up_to": end, "answers": here - before}
            for end, before, here in zip((*LATENCIES, None), [0, *upto], upto, strict=False)
        ],
    }


def _quantiles(found: Sequence[float], shares: Sequence[int]) -> dict[str, Any]:
    """Of sorted latencies; None without any."""
    last = len(found) - 1
    return {f"p{share}": round(found[last * share // 100], 3) if found else None for share in shares}


def _decision(row: Mapping[str, Any]) -> dict[str, Any]:
    """What became of a batch that was unknown or that the operator decided about."""
    waits = row["state"] in (BatchState.PARKED, BatchState.UNKNOWN)
    return {**{key: row[key] for key in ("stage", "batch", "state", "ruling", "note", "units")}, "open": waits}
