"""Runs the stages of a migration one after the other, with a gate between them."""

from __future__ import annotations

import asyncio
import pickle
from contextlib import suppress
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from streammig.batching import BatchLimits
from streammig.checkpoint import Books, Journal, outbox_path
from streammig.delivery.courier import Courier, Permits, Redact
from streammig.delivery.gate import Gate
from streammig.delivery.isolation import Isolation
from streammig.delivery.verdict import Verdict
from streammig.errors import MachineFault, Problem, UnknownOutcome, Unusable
from streammig.migration.preflight import Preflight
from streammig.migration.reading import Reading
from streammig.pipeline.stage import StageRun
from streammig.ports import Client, Clock, ReadBack, Source
from streammig.reader import Reader
from streammig.reader_process import ReaderProcess
from streammig.records import BatchState
from streammig.report.progress import account_of
from streammig.settings import Settings
from streammig.sources import open_source
from streammig.telemetry import PILOT, Notify, StageBegan, StageEnded

QUEUE_BYTES = 8_000_000  # of bodies that wait in the outbox between producer and workers; each worker holds one


@dataclass(frozen=True, slots=True)
class Crew:
    """Everything that works on one run."""

    settings: Settings
    reading: Reading
    journal: Journal
    client: Client
    readback: ReadBack
    permits: Permits
    redact: Redact
    clock: Clock
    rng: Random
    tell: Notify
    stop: asyncio.Event
    settle_time: float
    first: int | None
    away: int  # bytes of export from which on a stage is read in a process of its own
    look: bool  # whether to look at the target for what comes next, before the first request

    async def run(self) -> bool:
        """Deliver every stage; True when everything is read and settled, False when stopped or paused before."""
        whole = True
        before = ""
        preflight = Preflight(self.reading, self.journal, self.readback, self.tell, self.stop, self.settle_time)
        await preflight.check(self.look)
        for name in self.reading.sources:
            if before and not await self.gate(before).passed(before):
                return False
            whole = await self._stage(name) and whole
            if self.stop.is_set():
                return False
            before = name
        # Without a time to settle there is no queue to wait for (a dry run, or a target that keeps nothing).
        if not self.settle_time:
            await self.journal.write(lambda file: file.saw(before))
        elif not await self.gate(before).passed(before, last=True):
            return False
        for name in self.reading.sources:
            await self._no_unknown(name)
        return whole

    def gate(self, name: str, retried: bool = False) -> Gate:
        """The gate behind a stage, or behind what of it was retried."""
        return Gate(
            self.readback, self.journal, self.clock, self.tell, self.stop,
            self.settle_time, self.settings.visible_time, retried,
        )  # fmt: skip

    async def _stage(self, name: str) -> bool:
        self.tell(StageBegan(name, await self.journal.read(lambda file: account_of(file, name))))
        await self._note(name, "running")
        try:
            run = await self.prepare(name)
            finished = await run.run()
            await self.reading.unchanged()
        except Problem as problem:
            state = "failed" if problem.exit_code == Unusable.exit_code else "interrupted"
            await self._end(name, state, problem.what, problem.code)
            raise
        paused = run.feed.paused
        await self._end(name, "complete" if finished else "interrupted", paused, PILOT if paused else "")
        await self.verify(name)
        if not self.stop.is_set() and name == "customers":
            # What belongs to a customer of a parked batch may be dropped by the target; events and transactions have
            # nothing behind them that builds on each of them.
            await self._no_unknown(name)
        return finished

    async def _end(self, name: str, state: str, message: str, code: str) -> None:
        await self._note(name, state, message, code)
        self.tell(StageEnded(name, state, message, code))

    async def _note(self, name: str, state: str, message: str = "", code: str = "") -> None:
        at = self.clock.time()
        await self.journal.write(lambda file: file.stage_state(name, state, at, message, code))

    async def prepare(self, name: str, source: Source | None = None) -> StageRun:
        """A stage ready to run; `source` is what it reads on from, if not its files."""
        limits = BatchLimits(bytes=self.settings.max_bytes)
        progress = await self.journal.read(lambda file: file.progress(name))
        ahead = await self.journal.read(lambda file: file.ahead_ranges(name))
        judge = await self.reading.judge(name, ahead)
        size = sum(mark["size"] for mark in await self.journal.read(lambda file: file.fingerprints(name)))
        if source is not None:
            size = 0
        else:
            source = self.reading.sources[name]
        sent = None if self.first is None else await self.reading.pilots(name)
        mapping = self.reading.mappings.get(name, "")
        made = await self.journal.read(lambda file: file.ahead_mappings(name))
        parts = (
            source, judge, limits, progress, ahead, self.first, sent, outbox_path(self.reading.path),
            not made <= {mapping},
        )  # fmt: skip
        feed = await self.reading.read(self._feed, size, parts)
        verdict = Verdict(
            self.readback, self.journal, self.clock, self.tell, self.stop, self.settle_time,
            self.settings.visible_time, self.settings.stage(name).unknown,
        )  # fmt: skip
        bisected = name != "events" or self.settings.bisect_events
        courier = Courier(
            self.client, self.readback, self.permits, self.journal, self.clock, self.rng, self.tell, self.redact,
            verdict, self.stop,
            lanes=asyncio.Semaphore(self.settings.concurrency),
            most_parked=self.settings.most_parked, breaker=self.settings.breaker, nominate=bisected,
        )  # fmt: skip
        isolation = Isolation(courier, bisected, self.settings.isolation_share, self.settings.isolation_requests)
        return StageRun(
            name, feed, courier, isolation, self.journal, self.clock, self.tell, self.reading.thread,
            self.stop, self.settings.concurrency + 1, QUEUE_BYTES, mapping,
        )  # fmt: skip

    async def read_back(self, name: str, seq: int) -> BatchState:
        """Ask the target what became of an undecided batch; the state it is left in, UNKNOWN if stopped before."""
        asked = (BatchState.UNKNOWN, BatchState.PARKED)
        found = await self.journal.read(lambda file: [it for it in file.batches(name, *asked) if it.seq == seq])
        if not found:
            raise Unusable(
                "nothing-to-decide",
                f"batch {seq} of {name} is not undecided (any more)",
                "See: streammig resolve CHECKPOINT",
            )
        await self.journal.write(lambda file: file.move(found[0], BatchState.PARKED, BatchState.UNKNOWN))
        verdict = (await self.prepare(name, open_source([]))).courier.verdict
        return await replace(verdict, policy="read-back").decide(found[0], lambda: False)

    # -- reading -----------------------------------------------------------------------------------------------------

    def _feed(self, size: int, parts: tuple[Any, ...]) -> Reader | ReaderProcess:
        """In a process of its own where there is enough to read to make up for starting it."""
        if size >= self.away:
            # A mapping that can't be named to another process is left here.
            with suppress(pickle.PicklingError, AttributeError, TypeError):
                return ReaderProcess(*parts)
        return Reader(*parts)

    # -- what must hold behind a stage -------------------------------------------------------------------------------

    async def verify(self, name: str) -> None:
        """Raise unless the books balance."""
        books = await self.journal.read(lambda file: file.books(name))
        check_books(name, books)

    async def _no_unknown(self, name: str) -> None:
        states = (BatchState.UNKNOWN, BatchState.PARKED)
        left = await self.journal.read(lambda file: file.batches(name, *states))
        if left:
            numbers = ", ".join(str(batch.seq) for batch in left[:20])
            raise UnknownOutcome(
                "outcome-unknown",
                f"{name}: batches with an unknown outcome: {numbers}",
                f"They are not sent again. Look at them, and decide, with: streammig resolve {self.reading.path}",
            )


def check_books(name: str, books: Books) -> None:
    """Raise `MachineFault` with the sides that don't agree."""
    if not books.balanced:
        raise MachineFault(
            "totals-unbalanced",
            f"the books of {name} do not balance: read {books.taken}, but accounted for {books.placed}",
            "This is a defect of streammig. Stop, keep the checkpoint as it is, and report it.",
        )
