"""Runs one stage: a producer seals batches and queues them, workers deliver them, until done or told to stop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from streammig.checkpoint import Checkpoint, Store
from streammig.context import Context
from streammig.dead_letters.limit import DeadLimit
from streammig.delivery.isolation import Isolation
from streammig.delivery.last import LastBatch
from streammig.delivery.sender import Sender
from streammig.errors import Problem
from streammig.model import Batch, BatchState, Progress, Tally, add_up
from streammig.queue import ByteBoundedQueue
from streammig.reader import Reader
from streammig.reader_process import ReaderProcess
from streammig.telemetry import Advanced, DeadLettered, Sealed

TOGETHER = 4  # batches that one commit may seal
QUEUE_BYTES = 8_000_000  # of bodies that wait in the outbox between producer and workers; each worker holds one


class Step(Protocol):
    """What one commit puts into the checkpoint, of what a stage is fed by."""

    @property
    def progress(self) -> Progress | None:
        """How far the export is read as of it; None where it is not read on."""

    def commit(self, file: Checkpoint, stage: str, at: float, mapping: str) -> list[Batch]:
        """Within a transaction, at `at` (seconds since the epoch); the batches that it seals."""
        ...


class Steps:
    """A feed of steps that are made one by one, as they are asked for."""

    broken, paused, ready = None, "", False

    def __init__(self, steps: Iterator[Step]) -> None:
        self._steps = steps

    def next(self) -> Step | None:
        return next(self._steps, None)

    def close(self) -> None:
        """There is nothing to close."""


@dataclass(slots=True)
class StageReader:
    """What a stage is read by, in a thread of its own."""

    feed: Reader | ReaderProcess | Steps
    thread: Executor
    mapping: str = ""  # hash of the mapping that makes what is sealed now
    _problem: Problem | None = None  # what came behind the last ones

    async def next(self, most: int) -> list[Step]:
        """The next ones, as many as are ready, up to so many; empty at the end."""
        return await asyncio.get_running_loop().run_in_executor(self.thread, self._next, most)

    def _next(self, most: int) -> list[Step]:
        found: list[Step] = []
        try:
            if self._problem is not None:
                raise self._problem
            while len(found) < most and (self.feed.ready or not found) and (step := self.feed.next()):
                found.append(step)
        except Problem as problem:
            if not found:
                raise
            self._problem = problem
        return found

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self.thread, self.feed.close)


REJECTED_BYTES = 256_000_000  # of rejected batches in the outbox, from which on they are searched before the stage ends


@dataclass(slots=True)
class StageRun:
    """One stage of a run. `stop` drains: no new request is made, those under way are waited for.

    Ends in one of three ways: everything is read and settled or parked (`finished`), it was stopped, or it raises the
    `Problem` that stopped it, after the requests under way have ended.
    """

    stage: str
    reading: StageReader
    sender: Sender
    isolation: Isolation
    store: Store
    context: Context
    most_dead: DeadLimit = DeadLimit()  # noqa: RUF009  # frozen
    problem: Problem | None = None
    _queue: ByteBoundedQueue = field(init=False)
    _last: LastBatch = field(init=False)
    _held: set[int] = field(default_factory=set)  # batches, by number, that may be the last one
    _unknown: deque[Batch] = field(default_factory=deque)
    _dead: Tally = Tally()  # noqa: RUF009  # frozen
    _busy: int = 0
    _doubts: int = 0  # unknown outcomes so far
    _drained: bool = False  # the producer has queued all that it had

    def __post_init__(self) -> None:
        self._last = LastBatch(self.sender, self._waits_for_proof, lambda: self._doubts, self._known)

    @property
    def workers(self) -> int:
        """One more than may be in flight: where all those are unknown, only what is accepted later can show that they
        did not land."""
        return self.sender.options.concurrency + 1

    async def run(self) -> bool:
        """Deliver the stage; True if all of it is read and no batch waits to be sent."""
        self._unknown.extend(await self.store.read(lambda file: file.batches(self.stage, BatchState.UNKNOWN)))
        self._dead = (await self.store.read(lambda file: file.totals(self.stage))).dead
        self.sender.more_to_come = self._more_to_come
        self.sender.goes_on_later = lambda: bool(self.reading.feed.paused)
        self.sender.holds_back = self._may_be_last
        self.sender.doubted = self._doubted
        try:
            await self.sender.count_parked(self.stage)  # those of earlier runs, too
            while not (self._drained or self.context.stopping):
                await self._round()
        finally:
            await self.reading.close()
        if self.problem is not None:
            raise self.problem
        if self.reading.feed.broken is not None and not self.context.stopping:
            raise self.reading.feed.broken
        return not self.context.stopping and not self.reading.feed.paused

    async def _round(self) -> None:
        """Deliver until all is read, or until rejected batches fill the outbox; then search those."""
        self._queue = ByteBoundedQueue(QUEUE_BYTES)
        async with asyncio.TaskGroup() as tasks:
            producer = tasks.create_task(self._guard(self._produce()))
            workers = [tasks.create_task(self._guard(self._work())) for _ in range(self.workers)]
            await asyncio.wait(workers)
            producer.cancel()
            await self._guard(self.sender.settled())
        if not self.context.stopping:
            await self.isolation.settle(self.stage)
            totals = await self.store.read(lambda file: file.totals(self.stage))
            self._dead = totals.dead
            self.most_dead.check(self.stage, totals.dead, totals.taken)

    async def _guard(self, work: Awaitable[None]) -> None:
        """A problem stops the run like a drain: requests under way must not be cut off because another one failed."""
        try:
            await work
        except Problem as problem:
            if self.problem is None:
                self.problem = problem
            self.context.stop.set()
            self._queue.close()

    # -- producer --------------------------------------------------------------------------------------------------

    async def _produce(self) -> None:
        await self._resume()
        while not self.context.stopping:
            # One by one where the rejected fill the outbox: their bytes are looked at behind each.
            steps = await self.reading.next(1 if self.sender.refused_at else TOGETHER)
            self._drained = not steps
            if self._drained:
                break
            await self._seal(steps)
            if self.sender.refused_at and await self._rejected() > REJECTED_BYTES:
                break
        self._queue.close()

    async def _seal(self, steps: Sequence[Step]) -> None:
        at, mapping = self.context.now(), self.reading.mapping
        sealed = await self.store.write(lambda file: [it.commit(file, self.stage, at, mapping) for it in steps])
        for step, batches in zip(steps, sealed, strict=True):
            for batch in batches:
                self.context.notify(Sealed(self.stage, batch))
            if step.progress is not None:
                self._tell_advanced(step.progress)
            for batch in batches:
                if batch.state is BatchState.UNKNOWN:
                    self._unknown.append(batch)
                else:
                    await self.context.until_stopped(self._queue.put(batch))
            if step.progress is not None and step.progress.dead:
                dead = add_up(letter.tally for letter in step.progress.dead)
                self.context.notify(DeadLettered(self.stage, dead))
                self._dead += dead
                self.most_dead.check(self.stage, self._dead, step.progress.read)

    async def _rejected(self) -> int:
        return await self.store.read(lambda file: file.rejected_bytes(self.stage))

    def _tell_advanced(self, progress: Progress) -> None:
        filtered = sum(tally.units for tally in progress.filtered.values())
        self.context.notify(Advanced(self.stage, progress.frontier, progress.read.units, filtered))

    async def _resume(self) -> None:
        """Queue what an earlier run sealed and did not send. One that was rejected then is looked for first."""
        for batch in await self.store.read(lambda file: file.batches(self.stage, BatchState.SEALED)):
            rejected = (await self.store.read(partial(Checkpoint.last_attempt, batch=batch))).refused
            if not rejected or await self.sender.may_send_again(batch):
                await self.context.until_stopped(self._queue.put(batch))
            if self.context.stopping:
                return

    # -- workers ---------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while not self.context.stopping:
            # What an earlier run left undecided comes first: it takes the place of a request in flight. One worker goes
            # on sending, for only what is accepted later shows that something did not land.
            if self._unknown and (self.sender.deciding < self.workers - 1 or self._drained):
                await self._busily(self._decide(self._unknown.popleft()))
                continue
            taken = await self.context.until_stopped(self._queue.get())
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
            self._queue.look_again()

    async def _decide(self, batch: Batch) -> None:
        if await self.sender.decide(batch) is BatchState.SEALED:
            await self._deliver(batch)

    async def _deliver(self, batch: Batch) -> None:
        """Send a batch; one that may be the last while an outcome is unknown, when it is known what comes after it."""
        while await self.sender.deliver_one_of_many(batch) is BatchState.SEALED and not self.context.stopping:
            self._held.add(batch.seq)
            await self._until(lambda: not self._may_be_last() or self._queue.is_over)
            is_last = self._drained and self._may_be_last() and batch.seq == max(self._held)
            self._held.discard(batch.seq)
            if is_last:
                await self.sender.settled()
                await self._last.deliver(batch)
                return
            if self._queue.is_over:
                await self.sender.deliver(batch)
                return

    def _may_be_last(self) -> bool:
        """Whether nothing waits behind a batch now, and an outcome is unknown. A pilot goes on: what comes later shows
        what became of an earlier batch. So does an unknown batch that waits for a worker: it may be sent yet, and no
        worker may wait for it."""
        more = len(self._queue) > 0 or bool(self._unknown) or (self._queue.is_over and self.reading.feed.paused)
        return self._waits_for_proof() and not more

    async def _until(self, holds: Callable[[], bool]) -> None:
        await self.context.until_stopped(self._queue.until(holds))

    def _waits_for_proof(self) -> bool:
        """Whether an outcome is unknown that a batch accepted later can show; of events nothing can."""
        return self.sender.reconciler.reads.proves(self.stage) and (bool(self._unknown) or self.sender.deciding > 0)

    def _doubted(self) -> None:
        self._doubts += 1
        self._queue.look_again()

    async def _known(self, doubts: int) -> None:
        await self._until(lambda: not self._waits_for_proof() or self._doubts > doubts)

    def _more_to_come(self) -> bool:
        """Whether a batch may still be accepted beside those that are being read back."""
        coming = not self._drained or len(self._queue) > 0 or self._busy > self.sender.deciding
        return coming or self.sender.settling
