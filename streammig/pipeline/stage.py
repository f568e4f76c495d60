"""Runs one stage: a producer seals batches and queues them, workers deliver them, until done or told to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field

from streammig.checkpoint import Journal
from streammig.delivery.bisection import Bisection
from streammig.delivery.courier import Courier, Reread, unless
from streammig.errors import Problem, UnknownOutcome
from streammig.feed import Feed
from streammig.notices import Buried, Sealed, Tell, Warned
from streammig.packing import Sealing
from streammig.pipeline.backlog import Backlog
from streammig.ports import Clock
from streammig.records import Batch, BatchState, DeadLetter, Draft, Record, add_up

REBUILD = 8  # sealed batches that are read again in one pass after a resume: some 30 MB of bodies at most

Resealer = Callable[[list[Record]], tuple[list[Draft], list[DeadLetter]]]


@dataclass(slots=True)
class StageRun:
    """One stage of a run. `stop` drains: no new request is made, those under way are waited for.

    Ends in one of three ways: everything is read and settled or parked (`finished`), it was stopped, or it raises the
    `Problem` that stopped it, after the requests under way have ended.
    """

    stage: str
    feed: Feed
    courier: Courier
    bisection: Bisection
    journal: Journal
    clock: Clock
    tell: Tell
    reader: Executor
    reread: Reread
    reseal: Resealer
    stop: asyncio.Event
    concurrency: int
    backlog_bytes: int
    problem: Problem | None = None
    _backlog: Backlog = field(init=False)
    _working: int = 0

    def __post_init__(self) -> None:
        self._backlog = Backlog(self.backlog_bytes)

    async def run(self) -> bool:
        """Deliver the stage; True if all of it is read and no batch waits to be sent."""
        parked = await self.journal.read(lambda file: file.batches(self.stage, BatchState.UNKNOWN, BatchState.PARKED))
        self.courier.undecided = len(parked)
        async with asyncio.TaskGroup() as tasks:
            producer = tasks.create_task(self._guard(self._produce()))
            workers = [tasks.create_task(self._guard(self._work())) for _ in range(self.concurrency)]
            await asyncio.wait(workers)
            producer.cancel()
        await asyncio.get_running_loop().run_in_executor(self.reader, self.feed.close)
        if self.problem is not None:
            raise self.problem
        if not self.stop.is_set():
            await self._no_more_than_in_flight()
            await self.bisection.settle(self.stage)
        if self.feed.broken is not None and not self.stop.is_set():
            raise self.feed.broken
        return not self.stop.is_set() and not self.feed.paused

    async def _no_more_than_in_flight(self) -> None:
        waiting = await self.journal.read(lambda file: file.batches(self.stage, BatchState.SEALED))
        if waiting and self.courier.undecided >= self.concurrency:
            raise UnknownOutcome(
                f"{self.courier.undecided} batches of {self.stage} have an unknown outcome: as many as requests may be"
                " in flight, so nothing more is sent until they are decided",
                "Look at them with status; what they hold is neither lost nor sent again.",
            )

    async def _guard(self, work: Awaitable[None]) -> None:
        """A problem stops the run like a drain: requests under way must not be cut off because another one failed."""
        try:
            await work
        except Problem as problem:
            if self.problem is None:
                self.problem = problem
            self.stop.set()
            await self._backlog.close()

    # -- producer --------------------------------------------------------------------------------------------------

    async def _produce(self) -> None:
        await self._rebuild()
        loop = asyncio.get_running_loop()
        while not self.stop.is_set():
            sealing = await loop.run_in_executor(self.reader, self.feed.next)
            if sealing is None:
                break
            await self._seal(sealing)
        await self._backlog.close()

    async def _seal(self, sealing: Sealing) -> None:
        draft, progress = sealing.draft, sealing.progress
        if draft is None:
            await self.journal.write(lambda file: file.advance(self.stage, progress))
        else:
            at = self.clock.time()
            batch = await self.journal.write(lambda file: file.seal(self.stage, draft, progress, at))
            self.tell(Sealed(self.stage, batch, progress.frontier))
            await unless(self.stop, self._backlog.put(batch, draft.body))
        if progress.dead:
            self.tell(Buried(self.stage, add_up(letter.tally for letter in progress.dead)))

    async def _rebuild(self) -> None:
        """Queue what an earlier run sealed and did not send, byte for byte as it was sealed."""
        waiting = await self.journal.read(lambda file: file.batches(self.stage, BatchState.SEALED))
        for start in range(0, len(waiting), REBUILD):
            group = waiting[start : start + REBUILD]
            for batch, records in zip(group, await self.reread(group), strict=True):
                await self._queue_again(batch, records)
                if self.stop.is_set():
                    return

    async def _queue_again(self, batch: Batch, records: list[Record]) -> None:
        draft = self.courier.assemble(records) if records else None
        if draft is not None and draft.digest == batch.digest:
            await unless(self.stop, self._backlog.put(batch, draft.body))
            return
        drafts, dead = self.reseal(records)
        at = self.clock.time()
        parts = await self.journal.write(lambda file: file.reseal(batch, drafts, dead, at))
        self.tell(Warned(f"batch {batch.seq} of {self.stage} was never sent and comes out otherwise now: sealed anew"))
        for part, again in zip(parts, drafts, strict=True):
            await unless(self.stop, self._backlog.put(part, again.body))

    # -- workers ---------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        # Each undecided batch takes the place of a worker: never more of them than requests may be in flight.
        self._working += 1
        try:
            while not self.stop.is_set() and self._working + self.courier.undecided <= self.concurrency:
                taken = await unless(self.stop, self._backlog.get())
                if taken is None:
                    return
                await self.courier.deliver(*taken)
        finally:
            self._working -= 1
