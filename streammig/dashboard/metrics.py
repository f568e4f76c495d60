"""The numbers of a run as text that Prometheus reads, and a file that is kept for a collector that reaches no port."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from streammig.dashboard.view import View
from streammig.disk import begins_with, new_file
from streammig.errors import Problem
from streammig.telemetry import Notify, Warned

EVERY = 15.0  # seconds between two writes
_is_ours = begins_with(b"# HELP streammig_")
STATES = ("running", "interrupted", "complete", "failed", "reverting", "reverted")

Found = Mapping[str, Any]
Samples = Iterable[tuple[Any, ...]]
"""Each with its labels, its number or None, and perhaps what its name ends with."""


def metrics(found: Found | None) -> str:
    """What `glance` found, in the text format of Prometheus; of a run without a checkpoint yet that it is on. What has
    no number is left out.

    Counters count from the first request of the migration, over all its runs: they go on after a restart.
    """
    state = "running" if found is None else found["status"]["state"]
    states = [({"state": name}, int(name == state)) for name in STATES]
    lines = [*_lines("state", "gauge", "The state of the migration: 1 for the one that it is in.", states)]
    for family in (*_of_stages(found), *_of_all(found["status"])) if found is not None else ():
        lines += _lines(*family)
    return "".join(f"{line}\n" for line in lines)


def _lines(name: str, kind: str, said: str, samples: Samples) -> Iterator[str]:
    known = [sample for sample in samples if sample[1] is not None]
    if known:
        yield f"# HELP streammig_{name} {said}"
        yield f"# TYPE streammig_{name} {kind}"
    for labels, value, *ending in known:
        shown = ",".join(f'{key}="{_escaped(str(text))}"' for key, text in labels.items())
        yield f"streammig_{name}{''.join(ending)}{'{' + shown + '}' if shown else ''} {value!r}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _of_stages(found: Found) -> Iterator[tuple[str, str, str, Samples]]:
    stages, counts, status = found["stages"], found["counts"], found["status"]["stages"]

    def each(of: Found, key: str) -> Samples:
        return [({"stage": name}, it[key]) for name, it in of.items()]

    def each_of(of: Found, key: str, label: str) -> Samples:
        return [({"stage": name, label: one}, count) for name, it in of.items() for one, count in it[key].items()]

    units = {name: it["units"] for name, it in stages.items()}
    placed = {name: {"units": {part: it[part] for part in it if part != "read"}} for name, it in units.items()}
    batches = {name: {"batches": {part: it[part] for part in ("accepted", "waiting")}} for name, it in counts.items()}
    dead = "Records that were not sent, and wait for you, by the code of the reason."
    success = "When a batch was accepted last, in seconds since the epoch."
    yield "read_units_total", "counter", "Units read from the export.", each(units, "read")
    yield "units", "gauge", "Units by what became of them.", each_of(placed, "units", "state")
    yield "dead_letters", "gauge", dead, each_of(status, "dead_by", "code")
    yield "batches", "gauge", "Batches that were accepted, and those to be sent.", each_of(batches, "batches", "state")
    yield "body_bytes_total", "counter", "Bytes of the request bodies made.", each(counts, "bytes")
    yield "last_success_timestamp_seconds", "gauge", success, each(counts, "settled")
    said = "Requests by their answer: its HTTP status, or what there was instead."
    yield "requests_total", "counter", said, [sample for name, it in stages.items() for sample in _answers(name, it)]
    left = "Seconds until a stage is done, as far as that can be told."
    yield "stage_seconds_left", "gauge", left, each(status, "seconds_left")
    yield "done_ratio", "gauge", "The share of a stage that is settled.", each(status, "done")
    latencies = [sample for name, it in stages.items() for sample in _latency(name, it["latency"])]
    yield "request_seconds", "histogram", "How long answers took.", latencies


def _answers(stage: str, it: Found) -> Samples:
    """The count of each kind of outcome and status; "none" where no answer came."""
    found = Counter[tuple[str, str]]()
    for answer in it["answers"]:
        found[answer["kind"] or "none", str(answer["status"] or "none")] += answer["count"]
    return [({"stage": stage, "kind": kind, "code": code}, count) for (kind, code), count in found.items()]


def _latency(stage: str, latency: Found | None) -> Iterator[tuple[Any, ...]]:
    if latency is None:
        return
    upto = 0
    for each in latency["classes"]:
        upto += each["answers"]
        end = "+Inf" if each["up_to"] is None else f"{each['up_to']:g}"
        yield {"stage": stage, "le": end}, upto, "_bucket"
    yield {"stage": stage}, latency["sum"], "_sum"
    yield {"stage": stage}, upto, "_count"


def _of_all(status: Found) -> Iterator[tuple[str, str, str, Samples]]:
    windows = [({"window": it["window"], "kind": it["kind"]}, it) for it in status["budget"]]
    used = [(labels, it["used"]) for labels, it in windows]
    left = [(labels, it["left"]) for labels, it in windows]
    undecided = status["undecided"]
    sent = [datetime.fromisoformat(it["since"]).timestamp() for it in undecided if it["since"]]

    def one(value: float | None) -> Samples:
        return [({}, value)]

    yield "permits_used", "gauge", "Requests that a window of the rate limits counts now.", used
    yield "permits_left", "gauge", "Requests that a window of the rate limits still allows now.", left
    yield "paused", "gauge", "1 while the operator lets the run wait.", one(int(status["paused"]))
    yield "balanced", "gauge", "1 where the totals add up.", one(int(status["balanced"]))
    parked = sum(it["state"] == "parked" for it in undecided)
    yield "parked_batches", "gauge", "Batches with an unknown outcome that wait for you.", one(parked)
    oldest = one(min(sent, default=None))
    yield "oldest_unknown_timestamp_seconds", "gauge", "When the oldest batch of unknown outcome was sent.", oldest
    said = "Seconds until all is done, as far as that can be told."
    yield "seconds_left", "gauge", said, one(status["seconds_left"])


@asynccontextmanager
async def metrics_kept(path: Path, view: View, notify: Notify, every: float = EVERY) -> AsyncIterator[None]:
    """Write the metrics every so many seconds, and once more at the end. The file is whole at any moment.

    Raises `Problem` where the first write fails. A later failure only warns, once: it never stops a run.
    """
    await _write(path, view)
    warned = False

    async def again() -> None:
        nonlocal warned
        try:
            await _write(path, view)
        except Problem as problem:
            if not warned:
                notify(Warned("metrics-failed", f"the metrics are not up to date: {problem.what}"))
            warned = True

    async def keep() -> None:
        while True:
            await asyncio.sleep(every)
            await again()

    task = asyncio.create_task(keep())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        view.expire()
        await again()


async def _write(path: Path, view: View) -> None:
    text = metrics((await view.look()).found).encode()
    await asyncio.to_thread(_replace, path, text)


def _replace(path: Path, text: bytes) -> None:
    with new_file(path, may_replace=_is_ours) as file:
        file.write(text)
