"""Runs one stage: a producer seals batches and queues them, workers deliver them."""

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
from streammig.reader import Reader
from streammig.reader_process import ReaderProcess
from streammig.telemetry import Advanced, DeadLettered, Sealed

TOGETHER = 4  # batches that one commit may seal
QUEUE_BYTES = 8_000_000  # bytes of bodies in the queue from which on the producer waits
REJECTED_BYTES = 256_000_000  # bytes of rejected bodies from which on isolation begins before the end of the stage


class BodyQueue:
    """The queue of sealed batches between producer and workers, first in, first out, bounded by `QUEUE_BYTES`."""

    def __init__(self) -> None:
        self._size = 0  # bytes of the bodies of batches inside
        self._batches: asyncio.Queue[Batch | None] = asyncio.Queue()  # None marks the end
        self._closed = False
        self._watching: set[asyncio.Future[None]] = set()

    @property
    def is_over(self) -> bool:
        """Whether the queue is closed and empty."""
        return self._closed and not len(self)

    def __len__(self) -> int:
        return self._batches.qsize() - self._closed

    async def put(self, batch: Batch) -> None:
        """Add a batch. Waits while the bodies inside have `QUEUE_BYTES` or more."""
        if self._size >= QUEUE_BYTES:
            await self.until(lambda: self._size < QUEUE_BYTES)
        self._batches.put_nowait(batch)
        self._size += batch.size
        self.look_again()

    async def get(self) -> Batch | None:
        """Wait for a batch and take it. None once the queue is closed and empty."""
        batch = await self._batches.get()
        if batch is None:
            self._batches.put_nowait(None)  # for the next worker
            return None
        self._size -= batch.size
        self.look_again()
        return batch

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until `holds()` is true. It is called at each change of the queue, and at each `look_again`."""
        while not holds():
            change: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._watching.add(change)
            try:
                await change
            finally:
                self._watching.discard(change)

    def look_again(self) -> None:
        for change in self._watching:
            if not change.done():
                change.set_result(None)

    def close(self) -> None:
        """Take no more batches. Workers that wait for one get None."""
        if not self._closed:
            self._closed = True
            self._batches.put_nowait(None)
        self.look_again()


class Step(Protocol):
    """One commit's worth of input: what a stage writes to the checkpoint at once."""

    @property
    def progress(self) -> Progress | None:
        """Position in the export after this step; None if this step reads none of it."""

    def commit(self, file: Checkpoint, stage: str, at: float, mapping: str) -> list[Batch]:
        """Write the step and return the batches that it seals. Call it within a transaction.

        `at` is the time in seconds since the epoch.
        """
        ...


class Steps:
    """Takes the place of a `Reader` for a stage whose steps come from an iterator."""

    broken, paused, ready = None, "", False

    def __init__(self, steps: Iterator[Step]) -> None:
        self._steps = steps

    def next(self) -> Step | None:
        return next(self._steps, None)

    def close(self) -> None:
        pass


@dataclass(slots=True)
class StageReader:
    """Reads a stage in a thread."""

    feed: Reader | ReaderProcess | Steps
    thread: Executor
    mapping: str = ""  # hash of the mapping that makes the records now
    _problem: Problem | None = None  # error to raise after the steps read so far

    async def next(self, most: int) -> list[Step]:
        """Read the next step, and further ones that are ready, up to `most`. Returns [] at the end."""
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


@dataclass(slots=True)
class StageRun:
    """One stage of a run. If the context's `stop` is set, it makes no new request and waits for those under way."""

    stage: str
    reader: StageReader
    sender: Sender
    isolation: Isolation
    store: Store
    context: Context
    most_dead: DeadLimit = DeadLimit()  # noqa: RUF009  # frozen
    problem: Problem | None = None
    _queue: BodyQueue = field(init=False)
    _last: LastBatch = field(init=False)
    _held: set[int] = field(default_factory=set)  # numbers of batches that wait because they may be the last one
    _unknown: deque[Batch] = field(default_factory=deque)
    _dead: Tally = Tally()  # noqa: RUF009  # frozen
    _busy: int = 0
    _doubts: int = 0  # unknown outcomes so far
    _drained: bool = False  # the producer has queued everything

    def __post_init__(self) -> None:
        self._last = LastBatch(self.sender, self._waits_for_proof, lambda: self._doubts, self._known)

    @property
    def workers(self) -> int:
        """One more than requests in flight: if all those are unknown, only a later batch can prove that they did not
        land."""
        return self.sender.options.concurrency + 1

    async def run(self) -> bool:
        """Deliver the stage. True if everything is read and settled or parked, False if stopped or paused.

        Raises the `Problem` that stopped it, after the requests under way have ended.
        """
        self._unknown.extend(await self.store.read(lambda file: file.batches(self.stage, BatchState.UNKNOWN)))
        self._dead = (await self.store.read(lambda file: file.totals(self.stage))).dead
        self.sender.more_to_come = self._more_to_come
        self.sender.goes_on_later = lambda: bool(self.reader.feed.paused)
        self.sender.holds_back = self._may_be_last
        self.sender.doubted = self._doubted
        try:
            await self.sender.count_parked(self.stage)  # includes earlier runs
            while not (self._drained or self.context.stopping):
                await self._round()
        finally:
            await self.reader.close()
        if self.problem is not None:
            raise self.problem
        if self.reader.feed.broken is not None and not self.context.stopping:
            raise self.reader.feed.broken
        return not self.context.stopping and not self.reader.feed.paused

    async def _round(self) -> None:
        """Deliver until everything is read or rejected batches fill the outbox. Then isolate their bad records."""
        self._queue = BodyQueue()
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
            self._check_dead(totals.taken)

    async def _guard(self, work: Awaitable[None]) -> None:
        """Turn a problem into a drain: requests under way must not be cut off because another one failed."""
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
            # One by one after a rejection: the bytes of rejected bodies are checked after each step.
            steps = await self.reader.next(1 if self.sender.refused_at else TOGETHER)
            self._drained = not steps
            if self._drained:
                break
            await self._seal(steps)
            if self.sender.refused_at:
                rejected = await self.store.read(lambda file: file.rejected_bytes(self.stage))
                if rejected > REJECTED_BYTES:
                    break
        self._queue.close()

    async def _seal(self, steps: Sequence[Step]) -> None:
        at, mapping = self.context.now(), self.reader.mapping
        sealed = await self.store.write(lambda file: [it.commit(file, self.stage, at, mapping) for it in steps])
        batches = [batch for each in sealed for batch in each]
        for batch in batches:
            self.context.notify(Sealed(self.stage, batch))
        # Before the queue makes this wait: the checkpoint has all of it already.
        self._tell([step.progress for step in steps if step.progress is not None])
        for batch in batches:
            if batch.state is BatchState.UNKNOWN:
                self._unknown.append(batch)
            else:
                await self.context.until_stopped(self._queue.put(batch))

    def _tell(self, progress: Sequence[Progress]) -> None:
        """Tell what one commit added: progress in the export, and dead letters. Raises if these are too many."""
        if not progress:
            return
        last = progress[-1]
        filtered = sum(tally.units for tally in last.filtered.values())
        self.context.notify(Advanced(self.stage, last.frontier, last.read.units, filtered))
        if letters := [letter for it in progress for letter in it.dead]:
            dead = add_up(letter.tally for letter in letters)
            self.context.notify(DeadLettered(self.stage, dead))
            self._dead += dead
            self._check_dead(last.read)

    def _check_dead(self, read: Tally) -> None:
        self.most_dead.check(self.stage, self._dead, read, self.store.command("dead-letters", "--summary"))

    async def _resume(self) -> None:
        """Queue sealed batches of an earlier run. One that was rejected is read back first: it may have landed."""
        for batch in await self.store.read(lambda file: file.batches(self.stage, BatchState.SEALED)):
            rejected = (await self.store.read(partial(Checkpoint.last_attempt, batch=batch))).refused
            if not rejected or await self.sender.may_send_again(batch):
                await self.context.until_stopped(self._queue.put(batch))
            if self.context.stopping:
                return

    # -- workers ---------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while not self.context.stopping:
            # Batches that an earlier run left unknown come first, each in place of a request in flight. One worker goes
            # on sending: only a batch that is accepted later can prove that an earlier one did not land.
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
        """Send a batch. While an outcome is unknown, one that may be the last waits until its successor is known."""
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
        """Whether an outcome is unknown and no batch follows that could prove it.

        After a pilot, the full run follows. An unknown batch that waits for a worker counts as following too: it may
        still be sent, and no worker may wait for it.
        """
        more = len(self._queue) > 0 or bool(self._unknown) or (self._queue.is_over and self.reader.feed.paused)
        return self._waits_for_proof() and not more

    async def _until(self, holds: Callable[[], bool]) -> None:
        await self.context.until_stopped(self._queue.until(holds))

    def _waits_for_proof(self) -> bool:
        """Whether an outcome is unknown that a later accepted batch can prove. For events, none can."""
        return self.sender.reconciler.reads.proves(self.stage) and (bool(self._unknown) or self.sender.deciding > 0)

    def _doubted(self) -> None:
        self._doubts += 1
        self._queue.look_again()

    async def _known(self, doubts: int) -> None:
        await self._until(lambda: not self._waits_for_proof() or self._doubts > doubts)

    def _more_to_come(self) -> bool:
        """Whether another batch than those being read back may still be accepted."""
        coming = not self._drained or len(self._queue) > 0 or self._busy > self.sender.deciding
        return coming or self.sender.settling
