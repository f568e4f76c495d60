"""Which customers of an export are at the target before the first of them is sent."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import islice
from random import Random
from typing import Any

from streammig.columns import Chunk
from streammig.errors import BrokenExport, Problem, counted
from streammig.inputs import StageInput
from streammig.model import Record
from streammig.target import MISSING, UNREADABLE, ReadBack
from streammig.telemetry import Notify, Waiting
from streammig.verify.sample import CONFIDENCE, at_most, chosen

PIECE = 64  # records that are read together
SHOWN = 5  # places in the result
TOLD = 5.0  # seconds between two notices
SEED = 7  # the same export gives the same sample


@dataclass(slots=True)
class Against:
    """A look at a sample of `count` customers, or at all of them where it is None, of `whole` that would be sent.

    `problem` ended it early; what was seen until then counts.
    """

    whole: int
    count: int | None
    looked: int = 0
    alike: int = 0
    different: int = 0
    unreadable: int = 0
    fields: Counter[str] = field(default_factory=Counter)
    places: list[dict[str, Any]] = field(default_factory=list)
    problem: Problem | None = None

    async def look(self, it: StageInput, readback: ReadBack, thread: Executor, lanes: int, notify: Notify) -> None:
        """Read the customers of a stage back, `lanes` at a time."""
        files = [mark["file"] for mark in it.source.fingerprints()]
        records, loop = self._records(it), asyncio.get_running_loop()
        tell = self._telling(notify)
        try:
            while piece := await loop.run_in_executor(thread, lambda: list(islice(records, PIECE))):
                await self._piece(piece, readback, lanes, files)
                tell()
        except Problem as problem:
            self.problem = problem
        except ExceptionGroup as group:
            problems, others = group.split(Problem)
            if others is not None or problems is None:
                raise
            self.problem = next(each for each in problems.exceptions if isinstance(each, Problem))

    def _records(self, it: StageInput) -> Iterator[Record]:
        wanted = None if self.count is None else chosen([self.whole], self.count, Random(SEED)).get(0, set())
        number = 0
        try:
            for span in it.source.spans():
                chunk = Chunk(span, it.rules.columns(span))
                rows = range(len(chunk.columns))
                for row in rows if wanted is None else [row for row in rows if number + row in wanted]:
                    yield from chunk.records(row, row + 1)
                number += len(rows)
        except BrokenExport:
            pass  # what lies behind the break is a problem of its own

    async def _piece(self, records: list[Record], readback: ReadBack, lanes: int, files: list[str]) -> None:
        places = asyncio.Semaphore(lanes)

        async def one(record: Record) -> None:
            async with places:
                found = await readback.differences("customers", record)
            self.looked += 1
            if found is None or any(each.reason == UNREADABLE for each in found):
                self.unreadable += 1
            elif not found:
                self.alike += 1
            elif not (len(found) == 1 and found[0].reason == MISSING and not found[0].field):
                self.different += 1
                self.fields.update({each.field for each in found})
            else:
                return
            if len(self.places) < SHOWN:
                at = record.position
                self.places.append({"file": files[at.source], "line": at.ordinal, "offset": at.offset})

        async with asyncio.TaskGroup() as group:
            for record in records:
                group.create_task(one(record))

    def _telling(self, notify: Notify) -> Callable[[], None]:
        whole, begun = self.whole if self.count is None else min(self.count, self.whole), time.monotonic()
        notify(Waiting("looking", f"looking for {counted(whole, 'customer')} at the target"))
        said = begun

        def tell() -> None:
            nonlocal said
            if (now := time.monotonic()) - said >= TOLD and self.looked:
                said = now
                words = f"looking at the target: {self.looked:,} of {counted(whole, 'customer')}"
                notify(Waiting("looking", words, (now - begun) * (whole - self.looked) / self.looked))

        return tell

    @property
    def there(self) -> int:
        return self.alike + self.different

    def document(self) -> dict[str, Any]:
        """JSON-ready. `at_most` is the share of all customers that are there, with this confidence."""
        told = self.looked - self.unreadable
        every = told == self.whole
        share = at_most(self.there, told) if told else None
        if every:
            share = self.there / self.whole if self.whole else 0.0
        return {
            "customers": self.whole, "looked": self.looked, "alike": self.alike, "different": self.different,
            "unreadable": self.unreadable, "fields": dict(self.fields.most_common()), "places": self.places,
            "at_most": share, "confidence": 1.0 if every else CONFIDENCE,
            "stopped": self.problem.json() if self.problem is not None else None,
        }  # fmt: skip
