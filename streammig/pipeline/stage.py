"""Runs one stage: a producer seals batches and queues them, workers deliver them, until done or told to stop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial

from streammig.batching import Sealing
from streammig.checkpoint import Checkpoint, Journal
from streammig.delivery.courier import Courier
from streammig.delivery.isolation import Isolation
from streammig.delivery.last import LastBatch
from streammig.delivery.waiting import unless
from streammig.errors import Problem
from streammig.pipeline.backlog import Backlog
from streammig.ports import Clock
from streammig.reader import Reader
from streammig.reader_process import ReaderProcess
from streammig.records import Batch, BatchState, Progress, add_up
from streammig.telemetry import Advanced, DeadLettered, Notify, Sealed

REJECTED_BYTES = 256_000_000  # of rejected batches in the outbox, from which on they are searched before the stage ends


@dataclass(slots=True)
class StageRun:
    """One stage of a run. `stop` drains: no new request is made, those under way are waited for.

    Ends in one of three ways: everything is read and settled or parked (`finished`), it was stopped, or it raises the
    `Problem` that stopped it, after the requests under way have ended.
    """

    stage: str
    feed: Reader | ReaderProcess
    courier: Courier
    isolation: Isolation
    journal: Journal
    clock: Clock
    tell: Notify
    reader: Executor
    stop: asyncio.Event
    workers: int
    backlog_bytes: int
    mapping: str = ""  # hash of the mapping that makes what is sealed now
    problem: Problem | None = None
    _backlog: Backlog = field(init=False)
    _last: LastBatch = field(init=False)
    _held: set[int] = field(default_factory=set)  # batches, by number, that may be the last one
    _unknown: deque[Batch] = field(default_factory=deque)
    _busy: int = 0
    _drained: bool = False  # the producer has queued all that it had

    def __post_init__(self) -> None:
        self._last = LastBatch(self.courier, self._waits_for_proof, self._known)

    async def run(self) -> bool:
        """Deliver the stage; True if all of it is read and no batch waits to be sent."""
        self._unknown.extend(await self.journal.read(lambda file: file.batches(self.stage, BatchState.UNKNOWN)))
        self.courier.more_to_come = self._more_to_come
        self.courier.goes_on_later = lambda: bool(self.feed.paused)
        self.courier.holds_back = self._may_be_last
        try:
            await self.courier.count_parked(self.stage)  # those of earlier runs, too
            while not (self._drained or self.stop.is_set()):
                await self._round()
        finally:
            await asyncio.get_running_loop().run_in_executor(self.reader, self.feed.close)
        if self.problem is not None:
            raise self.problem
        if self.feed.broken is not None and not self.stop.is_set():
            raise self.feed.broken
        return not self.stop.is_set() and not self.feed.paused

    async def _round(self) -> None:
        """Deliver until all is read, or until rejected batches fill the outbox; then search those."""
        self._backlog = Backlog(self.backlog_bytes)
        async with asyncio.TaskGroup() as tasks:
            producer = tasks.create_task(self._guard(self._produce()))
            workers = [tasks.create_task(self._guard(self._work())) for _ in range(self.workers)]
            await asyncio.wait(workers)
            producer.cancel()
        if not self.stop.is_set():
            await self.isolation.settle(self.stage)

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
        await self._resume()
        loop = asyncio.get_running_loop()
        while not self.stop.is_set():
            sealing = await loop.run_in_executor(self.reader, self.feed.next)
            self._drained = sealing is None
            if sealing is None:
                break
            await self._seal(sealing)
            if self.courier.refused_at and await self._rejected() > REJECTED_BYTES:
                break
        await self._backlog.close()

    async def _seal(self, sealing: Sealing) -> None:
        draft, progress = sealing.draft, sealing.progress
        if draft is None:
            await self.journal.write(lambda file: file.advance(self.stage, progress))
            self._tell_advanced(progress)
        else:
            at = self.clock.time()
            batch = await self.journal.write(lambda file: file.seal(self.stage, draft, progress, at, self.mapping))
            self.tell(Sealed(self.stage, batch))
            self._tell_advanced(progress)
            if batch.state is BatchState.UNKNOWN:
                self._unknown.append(batch)
            else:
                await unless(self.stop, self._backlog.put(batch))
        if progress.dead:
            self.tell(DeadLettered(self.stage, add_up(letter.tally for letter in progress.dead)))

    async def _rejected(self) -> int:
        return await self.journal.read(lambda file: file.rejected_bytes(self.stage))

    def _tell_advanced(self, progress: Progress) -> None:
        filtered = sum(tally.units for tally in progress.filtered.values())
        self.tell(Advanced(self.stage, progress.frontier, progress.read.units, filtered))

    async def _resume(self) -> None:
        """Queue what an earlier run sealed and did not send. One that was rejected then is looked for first."""
        for batch in await self.journal.read(lambda file: file.batches(self.stage, BatchState.SEALED)):
            rejected = batch.attempts > 0 and await self.journal.read(partial(Checkpoint.was_refused, batch=batch))
            if not rejected or await self.courier.may_go_again(batch):
                await unless(self.stop, self._backlog.put(batch))
            if self.stop.is_set():
                return

    # -- workers ---------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while not self.stop.is_set():
            # What an earlier run left undecided comes first: it takes the place of a request in flight. One worker goes
            # on sending, for only what is accepted later shows that something did not land.
            if self._unknown and (self.courier.deciding < self.workers - 1 or self._drained):
                await self._busily(self._decide(self._unknown.popleft()))
                continue
            taken = await unless(self.stop, self._backlog.get())
            if taken is not None:
                await self._busily(self._deliver(taken))
            elif not self._unknown:
                return

    async def _busily(self, work: Awaitable[object]) -> None:
        self._busy += 1
        try:
            await work
        finally:
            self._busy -= 1
            await self._backlog.look_again()

    async def _decide(self, batch: Batch) -> None:
        if await self.courier.decide(batch) is BatchState.SEALED:
            await self._deliver(batch)

    async def _deliver(self, batch: Batch) -> None:
        """Send a batch; one that may be the last while an outcome is unknown, when it is known what comes after it."""
        while await self.courier.deliver(batch, may_wait=True) is BatchState.SEALED and not self.stop.is_set():
            self._held.add(batch.seq)
            await self._until(lambda: not self._may_be_last() or self._backlog.is_over)
            is_last = self._drained and self._may_be_last() and batch.seq == max(self._held)
            self._held.discard(batch.seq)
            if is_last:
                await self._last.deliver(batch)
                return
            if self._backlog.is_over:
                await self.courier.deliver(batch)
                return

    def _may_be_last(self) -> bool:
        """Whether nothing waits behind a batch now, and an outcome is unknown. A pilot goes on: what comes later shows
        what became of an earlier batch."""
        return self._waits_for_proof() and not len(self._backlog) and not (self._backlog.is_over and self.feed.paused)

    async def _until(self, holds: Callable[[], bool]) -> None:
        await unless(self.stop, self._backlog.until(holds))

    def _waits_for_proof(self) -> bool:
        """Whether an outcome is unknown that a batch accepted later can show; of events nothing can."""
        return self.stage != "events" and (bool(self._unknown) or self.courier.deciding > 0)

    async def _known(self) -> None:
        await self._until(lambda: not self._waits_for_proof())

    def _more_to_come(self) -> bool:
        """Whether a batch may still be accepted beside those that are being read back."""
        return not self._drained or len(self._backlog) > 0 or self._busy > self.courier.deciding
