"""Runs the stages of a migration one after the other, with a gate between them."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from streammig.aftercare.retry import buried_retried, reread_retried, spot_of
from streammig.checkpoint import Books, Checkpoint, Journal, Spot
from streammig.delivery.courier import Anew, Courier, Redact, Slots
from streammig.delivery.gate import Gate
from streammig.delivery.isolation import Isolation
from streammig.delivery.suspicion import Suspicion
from streammig.delivery.verdict import Verdict
from streammig.delivery.waiting import unless
from streammig.errors import MachineFault, Problem, UnknownOutcome, Unusable
from streammig.feed import Absent, Feed, Judge, examined_again, first_records, nobody_absent, otherwise, reread, reseal
from streammig.migration.binding import fixed
from streammig.migration.elsewhere import Delivered
from streammig.migration.newer import expect_no_newer
from streammig.notices import StageBegan, StageEnded, Tell, Waiting, Warned
from streammig.owners import RESEALED, OwnerTable, absent, repeated
from streammig.packing import BatchLimits, assemble, ranges_of
from streammig.pipeline.away import Away
from streammig.pipeline.stage import StageRun
from streammig.ports import Clock, ReadBack, Rules, Seen, Sink, Source
from streammig.records import Batch, BatchState, DeadLetter, Draft, Range, Record, Tally, add_up
from streammig.settings import Settings
from streammig.sources import open_source

AS_IT_WAS = (
    "It was not sent again. Take the mapping, and the version, that it was sealed with, and run the same command; what"
    " another mapping would make of the rest can be migrated with a checkpoint of its own."
)
SAMPLE = 5  # customers that are looked for where a run has none of its own
QUEUE_BYTES = 16_000_000  # bodies waiting between producer and workers; beside them each worker holds one


class LeftOut(NamedTuple):
    """What of a batch's records is not sent: dead letters that were none when it was sealed, owners that the target
    will lack, and how many customers a mapping leaves out, of whom nobody knows who they are."""

    dead: list[DeadLetter]
    absent: set[str]
    unnamed: int


@dataclass(frozen=True, slots=True)
class Crew:
    """Everything that works on one run. Its executors have one thread each, for reading and for the checkpoint."""

    settings: Settings
    path: Path
    lookup: Checkpoint  # the same file, opened to read, for the reader's thread
    sources: Mapping[str, Source]
    rules: Mapping[str, Rules]
    journal: Journal
    sink: Sink
    readback: ReadBack
    slots: Slots
    redact: Redact
    clock: Clock
    rng: Random
    tell: Tell
    reader: Executor
    stop: asyncio.Event
    settle_time: float
    first: int | None
    owners: OwnerTable | None  # None where it was left out, or no customers are in the run
    suspicion: Suspicion
    away: int  # bytes of export from which on a stage is read in a process of its own
    delivered: Delivered | None = None  # by whom the customers were delivered, if by another run
    wary: bool = False  # look whether another checkpoint has sent the first customers already

    async def run(self) -> bool:
        """Deliver every stage; True when everything is read and settled, False when stopped or paused before."""
        whole = True
        before = ""
        await self._expect_customers()
        await self._expect_nobody()
        if self.wary:
            await expect_no_newer(self)
        for name in self.sources:
            if before and not await self.gate(before).passed(before):
                return False
            whole = await self._stage(name) and whole
            if self.stop.is_set():
                return False
            before = name
        # Without a time to settle there is no queue to wait for (a dry run, or a target that keeps nothing).
        if self.settle_time and not await self.gate(before).passed(before, last=True):
            return False
        for name in self.sources:
            await self._no_unknown(name)
        return whole

    async def _expect_customers(self) -> None:
        """Where the run has no customers of its own, look whether those that it builds on are at the target at all."""
        first = next(iter(self.sources))
        if first == "customers" or (await self.journal.read(lambda file: file.counts(first)))["requests"]:
            return
        await self._settle_elsewhere()
        judge = await self.judge(first)
        loop = asyncio.get_running_loop()
        records = await loop.run_in_executor(self.reader, first_records, self.sources[first], judge, SAMPLE)
        seen = [await self.readback.visible("customers", record) for record in records]
        if seen and all(answer is Seen.NOTHING for answer in seen):
            ordinals = ", ".join(str(record.position.ordinal) for record in records)
            raise Unusable(
                f"the customers of {first} are not at the target: none of those of record {ordinals} can be read back",
                "Migrate the customers first, in this run or an earlier one: the target drops what has no customer.",
            )

    async def _expect_nobody(self) -> None:
        """Before the first request of a checkpoint, look whether another one has sent its first customers already."""
        if "customers" not in self.sources or not self.wary:
            return
        if (await self.journal.read(lambda file: file.counts("customers")))["requests"]:
            return
        judge = await self.judge("customers")
        loop = asyncio.get_running_loop()
        source = self.sources["customers"]
        records = await loop.run_in_executor(self.reader, first_records, source, judge, SAMPLE)
        seen = [await self.readback.visible("customers", record) for record in records]
        if Seen.ALL in seen:
            raise Unusable(
                f"{seen.count(Seen.ALL)} of the first {len(seen)} customers of the export are at the target already, as"
                " this run would send them, though by this checkpoint nothing was sent: another one was probably used",
                "Nothing was sent. Go on with the checkpoint that they were sent with: a new one sends everything anew."
                " If you know that no run has sent this export, run this command once with --checkpoint-is-current.",
            )

    async def _settle_elsewhere(self) -> None:
        """Give the target's queue its time for customers that another run delivered just now."""
        at = self.delivered.then.last_settled("customers") if self.delivered is not None else None
        if at is not None and (left := at + self.settle_time - self.clock.time()) > 0:
            self.tell(Waiting("the target's queue is given time for the customers", left))
            await unless(self.stop, asyncio.sleep(left))

    def gate(self, name: str, retried: bool = False) -> Gate:
        """The gate behind a stage, or behind what of it was retried."""
        return Gate(
            self.readback, self.journal, self.clock, self.tell, partial(self.reread, name), self.stop,
            self.settle_time, self.settings.visible_time, retried,
        )  # fmt: skip

    async def _stage(self, name: str) -> bool:
        progress = await self.journal.read(lambda file: file.progress(name))
        sizes = await self.journal.read(lambda file: file.lengths(name))
        books = await self.journal.read(lambda file: file.books(name))
        self.tell(StageBegan(name, progress.frontier, sizes, books.accepted.units, books.pending.records))
        await self._note(name, "running")
        try:
            await self._check_ahead(name)
            run = await self.prepare(name)
            finished = await run.run()
            await asyncio.get_running_loop().run_in_executor(self.reader, self._unchanged)
        except Problem as problem:
            await self._end(name, "failed" if problem.exit_code == 2 else "interrupted", problem.what)
            raise
        await self._end(name, "complete" if finished else "interrupted", run.feed.paused)
        await self.verify(name, whole=finished)
        if not self.stop.is_set() and name == "customers":
            # What belongs to a customer of a parked batch may be dropped by the target; events and transactions have
            # nothing behind them that builds on each of them.
            await self._no_unknown(name)
        return finished

    async def _end(self, name: str, state: str, message: str) -> None:
        await self._note(name, state, message)
        self.tell(StageEnded(name, state, message))

    async def _note(self, name: str, state: str, message: str = "") -> None:
        at = self.clock.time()
        await self.journal.write(lambda file: file.stage_state(name, state, at, message))

    async def prepare(self, name: str, source: Source | None = None) -> StageRun:
        """A stage ready to run; `source` is what it reads on from, if not its files."""
        rules = self.rules[name]
        limits = BatchLimits(bytes=self.settings.max_bytes)
        progress = await self.journal.read(lambda file: file.progress(name))
        ahead = await self.journal.read(lambda file: file.ahead_ranges(name))
        judge = await self.judge(name, ahead)
        size = sum(mark["size"] for mark in await self.journal.read(lambda file: file.fingerprints(name)))
        if source is not None:
            size = 0
        else:
            source = self.sources[name]
        parts = (source, judge, limits, progress, ahead, self.first, await self._sent(name))
        feed = await asyncio.get_running_loop().run_in_executor(self.reader, self._feed, size, parts)
        again, exactly = partial(self.reread, name), partial(_exactly, rules)
        verdict = Verdict(
            self.readback, self.journal, self.clock, self.tell, again, exactly, self.stop, self.settle_time,
            self.settings.visible_time, self.settings.stage(name).unknown,
        )  # fmt: skip
        bisected = name != "events" or self.settings.bisect_events
        courier = Courier(
            self.sink, self.readback, self.slots, self.journal, self.clock, self.rng, self.tell, self.redact, again,
            exactly, partial(self._anew, name, limits), verdict, self.stop, self.reader,
            lanes=asyncio.Semaphore(self.settings.concurrency),
            suspicion=self.suspicion,
            most_parked=self.settings.most_parked, breaker=self.settings.breaker, nominate=bisected,
        )  # fmt: skip
        isolation = Isolation(courier, bisected, self.settings.isolation_share, self.settings.isolation_requests)
        return StageRun(
            name, feed, courier, isolation, self.journal, self.clock, self.tell, self.reader, again,
            self.stop, self.settings.concurrency + 1, QUEUE_BYTES,
        )  # fmt: skip

    async def read_back(self, name: str, seq: int) -> BatchState:
        """Ask the target what became of an undecided batch; the state it is left in, UNKNOWN if stopped before."""
        asked = (BatchState.UNKNOWN, BatchState.PARKED)
        found = await self.journal.read(lambda file: [it for it in file.batches(name, *asked) if it.seq == seq])
        if not found:
            raise Unusable(f"batch {seq} of {name} is not undecided (any more)", "See: streammig resolve CHECKPOINT")
        await self.journal.write(lambda file: file.move(found[0], BatchState.PARKED, BatchState.UNKNOWN))
        verdict = (await self.prepare(name, open_source([]))).courier.verdict
        return await replace(verdict, policy="read-back").decide(found[0], lambda: False)

    # -- reading -----------------------------------------------------------------------------------------------------

    def _feed(self, size: int, parts: tuple[Any, ...]) -> Feed | Away:
        """In a process of its own where there is enough to read to make up for starting it."""
        if size >= self.away:
            # A mapping that can't be named to another process is left here.
            with suppress(pickle.PicklingError, AttributeError, TypeError):
                return Away(*parts)
        return Feed(*parts)

    def _unchanged(self) -> None:
        for source in self.sources.values():
            source.unchanged()

    async def judge(self, name: str, sealed: Sequence[Range] = ()) -> Judge:
        """What says which records of a stage are sent by the run, beside those that are `sealed` already."""
        rules = self.rules[name]
        if name == "customers":
            return Judge(rules, repeated=partial(repeated, self.owners) if self.owners is not None else None)
        if self.delivered is not None:
            return Judge(rules, partial(absent, self.owners, self.delivered.then, None), sealed=sealed)
        known = self.owners is not None or await self.journal.read(Checkpoint.has_absent)
        who = partial(absent, self.owners, self.lookup, name) if known else nobody_absent
        return Judge(rules, who, sealed=sealed)

    def absent_now(self) -> Absent:
        """Who is not in the target now, whatever was known when the run began."""
        return partial(absent, self.owners, self.lookup if self.delivered is None else self.delivered.now, None)

    async def reread(self, name: str, batches: list[Batch]) -> list[list[Record]]:
        judge = await self.judge(name)
        return await asyncio.get_running_loop().run_in_executor(self.reader, self._read_again, name, judge, batches)

    def _read_again(self, name: str, judge: Judge, batches: list[Batch]) -> list[list[Record]]:
        """The records of batches: of those made of dead letters from the work file, of others from the export."""
        of_export = [batch for batch in batches if not batch.retried]
        of_letters = [batch for batch in batches if batch.retried]
        found = dict(zip([it.seq for it in of_export], reread(self.sources[name], judge, of_export), strict=True))
        for batch in of_export:
            apart = self.lookup.unpacked(name, batch.ranges)
            if apart:
                found[batch.seq] = [it for it in found[batch.seq] if spot_of(it) not in apart]
        if of_letters:
            again = reread_retried(self.path, self.rules[name], of_letters)
            found |= zip([it.seq for it in of_letters], again, strict=True)
        return [found[batch.seq] for batch in batches]

    async def _anew(self, name: str, limits: BatchLimits, batch: Batch, records: list[Record]) -> Anew:
        """What takes the place of a batch that comes out otherwise now. Raises `Unusable` where nothing but another
        export explains that, or what comes out now is more than what it held."""
        if not batch.retried and fixed(self.settings, name, self.lookup):
            raise Unusable(
                f"batch {batch.seq} of {name} does not come out of the export as it was sealed, and there is neither a"
                " mapping nor another version that could be why: the export has changed",
                "Put the export that the checkpoint was begun with back in its place, and run the same command.",
            )
        judge = await self.judge(name)
        loop = asyncio.get_running_loop()
        left = await loop.run_in_executor(self.reader, self._left_out, name, judge, batch)
        drafts, large = reseal(self.rules[name], limits, records)
        dead = left.dead + large
        rest = batch.tally - add_up([*(it.tally for it in drafts), *(it.tally for it in dead)])
        if rest.records < 0 or rest.units < 0:
            raise Unusable(
                f"batch {batch.seq} of {name} comes out as more than it was sealed as: what was left out of it by the"
                " mapping or version of then is counted as filtered already",
                AS_IT_WAS,
            )
        if name != "customers":
            return drafts, dead, []
        if rest.records and left.unnamed:
            self.tell(Warned(
                f"the mapping leaves out customers of batch {batch.seq} that it sent before: nobody can tell which, so"
                " what belongs to them is sent, and dropped by the target"
            ))  # fmt: skip
        lost = {it.position for it in large}
        kept = {record.owner for record in records if record.position not in lost}
        gone = left.absent | {record.owner for record in records} - kept
        return drafts, dead, [(owner, RESEALED) for owner in sorted(gone - kept)]

    def _left_out(self, name: str, judge: Judge, batch: Batch) -> LeftOut:
        """What of a batch's records is left out now; not what was when it was sealed."""
        if batch.retried:
            return LeftOut(buried_retried(self.path, self.rules[name], batch), set(), 0)
        apart = self.lookup.unpacked(name, batch.ranges)
        dead: list[DeadLetter] = []
        absent: set[str] = set()
        unnamed = 0
        for it in examined_again(self.sources[name], judge, batch):
            dead += [letter for letter in it.dead if spot_of(letter) not in apart]
            absent |= {owner for owner, _ in it.absent}
            unnamed += sum(tally.records for _, tally in it.filtered) if not it.absent else 0
        return LeftOut(dead, absent, unnamed)

    async def _check_ahead(self, name: str) -> None:
        """Raise `Unusable` unless what was sealed beyond the frontier still comes out of the export as it was.

        Reading on passes it by, and can't tell then what a mapping that was mended leaves out of it from what was left
        out before: that would be counted twice, or not at all.
        """
        batches = await self.journal.read(lambda file: file.ahead(name))
        if not batches or fixed(self.settings, name, self.lookup):
            return
        apart = partial(self._apart, name)
        judge = await self.judge(name, await self.journal.read(lambda file: file.ahead_ranges(name)))
        work = partial(otherwise, self.sources[name], self.rules[name], judge, batches, apart)
        changed = await asyncio.get_running_loop().run_in_executor(self.reader, work)
        if changed:
            numbers = ", ".join(str(batch.seq) for batch in changed[:20])
            raise Unusable(
                f"batch {numbers} of {name}, sealed ahead of what is counted, comes out otherwise now: the mapping or"
                " the version has changed, and the books could not be kept",
                AS_IT_WAS,
            )

    def _apart(self, name: str, batch: Batch) -> set[Spot]:
        return self.lookup.unpacked(name, batch.ranges)

    async def _sent(self, name: str) -> set[str] | None:
        """In a pilot, the customers that were sent, unless all of them were: what belongs to others must wait."""
        if self.first is None or name == "customers" or "customers" not in self.sources:
            return None
        rows = await self.journal.read(Checkpoint.stages)
        if any(row.name == "customers" and row.state == "complete" for row in rows):
            return None
        owners: set[str] = set()
        for batch in await self.journal.read(lambda file: file.batches("customers", BatchState.ACCEPTED)):
            owners.update(record.owner for record in (await self.reread("customers", [batch]))[0])
        return owners

    # -- what must hold behind a stage -------------------------------------------------------------------------------

    async def verify(self, name: str, *, whole: bool = False) -> None:
        """Raise unless the books balance; `whole`: all is read, so nothing can be ahead of what was."""
        books = await self.journal.read(lambda file: file.books(name))
        check_books(name, books, whole)

    async def _no_unknown(self, name: str) -> None:
        states = (BatchState.UNKNOWN, BatchState.PARKED)
        left = await self.journal.read(lambda file: file.batches(name, *states))
        if left:
            numbers = ", ".join(str(batch.seq) for batch in left[:20])
            raise UnknownOutcome(
                f"nobody can say whether these batches of {name} landed: {numbers}",
                f"They are not sent again. See what is known of them, and decide, with: streammig resolve {self.path}",
            )


def check_books(name: str, books: Books, whole: bool) -> None:
    """Raise `MachineFault` with the sides that don't agree; `whole` as in `Crew.verify`."""
    if not books.balanced:
        sides = f"read {books.taken}, {books.ahead} of it ahead of the rest, but accounted for {books.placed}"
    elif whole and books.ahead != Tally():
        sides = f"all of it is read, {books.read}, but batches hold {books.ahead} beyond that"
    else:
        return
    raise MachineFault(
        f"the books of {name} do not balance: {sides}",
        "This is a defect of streammig. Stop, keep the checkpoint as it is, and report it.",
    )


def _exactly(rules: Rules, records: list[Record]) -> Draft:
    """A draft of just these records, with the ranges of nothing else."""
    return assemble(records, rules.head, rules.tail, ranges_of(records))
