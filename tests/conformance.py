"""What every implementation of a port must do, the real one and the fake: called by `test_conformance.py`."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Sequence
from typing import Any

from streammig.checkpoint import Checkpoint, Store
from streammig.model import START, BatchState, Draft, Kind, Place, Progress, Receipt, Record
from streammig.sources.source import Source
from streammig.target import Client, ReadBack, Rules, Seen, Target
from tests.spans import examine, records_of, slices


def source(subject: Source, count: int) -> None:
    """The same records from any place on, however they are cut into spans; fingerprints that JSON can hold."""

    def read(start: Place) -> list[tuple[Place, bytes]]:
        found = list(records_of(subject, start))
        return [(Place(it.position.source, it.position.offset, 0, it.position.ordinal), it.data) for it in found]

    whole = read(START)
    assert len(whole) == count
    assert [place.ordinal for place, _ in whole] == [*range(1, count + 1)]
    assert whole == read(START)
    for nth, (place, _) in enumerate(whole):
        assert read(place) == whole[nth:]
    first = subject.spans()
    next(iter(first))
    assert read(START) == whole, "an iterator that is open disturbs another"
    marks = list(subject.fingerprints())
    assert json.loads(json.dumps(marks)) == marks
    subject.unchanged()


def rules(subject: Rules, subjects: Source) -> None:
    """A body of what they accept is one JSON document; the result of a record does not depend on the others."""
    spans = list(subjects.spans())
    together = [it for span in spans for it in examine(subject, slices(span))]
    alone = [it for span in spans for each in slices(span) for it in examine(subject, [each])]
    assert together == alone
    assert len(together) == sum(len(span) for span in spans)
    records = [record for it in together for record in it.records]
    body = subject.head + b",".join(record.body for record in records) + subject.tail
    (entries,) = [value for value in json.loads(body).values() if isinstance(value, list)]
    assert [entry["id"] for entry in entries] == [record.owner for record in records]
    owners = [owner for span in spans for owner in subject.columns(span).owners]
    assert owners == [record.owner for record in records]


async def client(subject: Client, stage: str, body: bytes) -> None:
    """A receipt for a request, and one word when its first byte leaves; what the target said has no values left."""
    began: list[int] = []
    receipt = await subject.send(stage, body, lambda: began.append(1))
    assert (receipt.kind, began) == (Kind.ACCEPTED, [1])
    await subject.renew()
    assert (await subject.send(stage, body)).kind is Kind.ACCEPTED
    assert "zaphod@example.org" not in subject.redact("customer zaphod@example.org is invalid")


async def client_without_target(subject: Client, stage: str, body: bytes) -> None:
    """Where no connection is made, nothing has left."""
    began: list[int] = []
    receipt = await subject.send(stage, body, lambda: began.append(1))
    assert (receipt.kind, began) == (Kind.NOT_SENT, [])


async def readback(subject: ReadBack, sent: Callable[[str, Record], Any], records: dict[str, Record]) -> None:
    """Nothing is there before it was sent, all of it after the queue; what can't be told is never said to be absent."""
    assert await subject.reachable()
    for stage, record in records.items():
        if subject.proves(stage):
            assert subject.can_tell(stage, record)
            assert await subject.visible(stage, record) is Seen.NOTHING
        else:
            assert await subject.visible(stage, record) in (Seen.CANT_TELL, Seen.ALL)
        await sent(stage, record)
        seen = await subject.visible(stage, record)
        assert seen is Seen.ALL or not subject.proves(stage)
        assert subject.can_tell(stage, record) or seen is Seen.CANT_TELL


def target(subject: Target, known: Sequence[str]) -> None:
    """Stages in order, each building on an earlier one; the rules of each say the same of `once`."""
    names = [stage.name for stage in subject.stages]
    assert names == list(known)
    for nth, stage in enumerate(subject.stages):
        assert stage.depends_on in ("", *names[:nth])
        assert subject.rules(stage.name).once == stage.once
        assert stage.unit


async def checkpoint(subject: Store, stage: str, drafts: Sequence[Draft]) -> None:
    """What was written is read; states change as allowed; totals balance after each change."""
    batches = []
    read = drafts[0].tally - drafts[0].tally
    for nth, draft in enumerate(drafts):
        read = read + draft.tally
        progress = Progress(draft.ranges[-1].end, nth + 1, read)
        batches.append(await subject.write(lambda file, d=draft, p=progress: file.seal(stage, d, p, 1.0)))  # type: ignore[misc]
        assert await subject.body(batches[-1]) == draft.body
        assert (await subject.read(lambda file: file.totals(stage))).balanced
    assert await subject.read(lambda file: file.batches(stage, BatchState.SEALED)) == batches
    first = batches[0]
    attempt = await subject.write(lambda file: file.sending(first, 2.0))
    receipt = Receipt(Kind.ACCEPTED, 201)
    await subject.write(lambda file: file.received(first, attempt, receipt, BatchState.ACCEPTED, 3.0))
    totals = await subject.read(lambda file: file.totals(stage))
    assert (totals.accepted, totals.balanced) == (first.tally, True)
    left = await subject.read(lambda file: file.batches(stage, BatchState.SEALED))
    assert left == batches[1:]


async def reads_beside_a_write(subject: Store) -> None:
    """A question does not wait for a change that takes its time, and does not see it before it is durable."""
    loop, entered, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def slow(file: Checkpoint) -> None:
        file.add_stage("events", 1, {}, [])
        loop.call_soon_threadsafe(entered.set)
        assert go_on.wait(30)

    writing = asyncio.ensure_future(subject.write(slow))
    await entered.wait()
    names = [row.name for row in await subject.read(Checkpoint.stages)]
    go_on.set()
    await writing
    assert "events" not in names
    assert "events" in [row.name for row in await subject.read(Checkpoint.stages)]
