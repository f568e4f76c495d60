"""Runs the stages of a migration in order, with a barrier between two stages."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from streammig.batching import BatchLimits
from streammig.checkpoint import Store, Totals, outbox_path
from streammig.context import Context
from streammig.dead_letters.limit import parse_dead_limit
from streammig.delivery.barrier import Barrier
from streammig.delivery.isolation import Isolation
from streammig.delivery.reads import Connection
from streammig.delivery.reconcile import Policy, Reconciler
from streammig.delivery.sender import Reachability, Sender, SendOptions
from streammig.delivery.sizes import Sizes
from streammig.errors import BrokenExport, MachineFault, Problem, Unusable, counted
from streammig.grouping import GroupedSource
from streammig.inputs import Reading
from streammig.model import BatchState
from streammig.planned import forget_plan, kept_plan
from streammig.preflight import Preflight
from streammig.ratelimit import parse_hours, parse_limits
from streammig.reader import Reader
from streammig.reader_process import ReaderProcess
from streammig.report.progress import Pace, account_of, expected, outlook, requests_left
from streammig.report.reports import account_file
from streammig.settings import Settings
from streammig.stage import StageReader, StageRun, Step, Steps
from streammig.telemetry import PILOT, Account, Expected, RunBegan, StageBegan, StageEnded, Warned

SAMPLED = 1_000  # records that the estimate of a stage is made from


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The options of one call."""

    first: int | None  # pilot: number of source records of each stage
    reader_process_bytes: int  # a stage whose files have at least this size is read in a process of its own
    look: bool  # whether to look at the target for the next records before the first request


@dataclass(frozen=True, slots=True)
class Run:
    """One assembled run."""

    settings: Settings
    reading: Reading
    store: Store
    target: Connection
    context: Context
    options: RunOptions

    async def run(self) -> bool:
        """Deliver every stage. True if everything is read and settled, False if stopped or paused."""
        whole = True
        before = ""
        preflight = Preflight(self.reading, self.store, self.target.reads, self.context)
        await preflight.check(self.options.look)
        await self._look_ahead()
        for name in self.reading.inputs:
            if before and not await self.barrier().wait(before):
                return False
            whole = await self._stage(name) and whole
            if self.context.stopping:
                return False
            before = name
        self.target.permits.all_sent()
        # Without a settle time there is no queue to wait for: a dry run, or a target without one.
        if not self.context.times.settle:
            at = self.context.now()
            await self.store.write(lambda file: file.mark_seen(before, at))
        elif not await self.barrier().wait(before, last=True):
            return False
        for name in self.reading.inputs:
            await self.reading.decided(name)
        return whole

    async def _look_ahead(self) -> None:
        """Notify how far each stage is, with an estimate for stages that have not begun."""
        planned = kept_plan(self.settings, self.reading.inputs)
        ahead = {name: await self._expected(name, planned.get(name)) for name in self.reading.inputs}
        begun = self.context.now()
        await self.store.write(lambda file: file.set_context(file.run["context"] | {"expected": ahead, "begun": begun}))
        accounts = {name: await self.store.read(partial(account_of, stage=name)) for name in ahead}
        await self._plan(accounts, exact=planned.keys() >= ahead.keys())
        run = await self.store.read(lambda file: file.run)
        limits, settle, lanes = run["context"]["limits"], self.context.times.settle, self.settings.concurrency
        hours, dry = (self.settings.hours, self.settings.hours_zone), bool(run["binding"].get("dry_run"))
        self.context.notify(RunBegan(accounts, limits, str(account_file(run) or ""), settle, lanes, *hours, dry))

    async def _plan(self, accounts: Mapping[str, Account], *, exact: bool) -> None:
        """Store the plan in the checkpoint at the first run. Later runs measure their drift against it."""
        run = await self.store.read(lambda file: file.run)
        if "plan" not in run["context"]:
            now, context = self.context.now(), run["context"]
            hours = parse_hours(self.settings.hours, self.settings.hours_zone)
            limits, settle = parse_limits(context["limits"], {}), self.context.times.settle
            found = outlook(accounts, Pace(limits, settle=settle, lanes=self.settings.concurrency, hours=hours), now)
            requests = {name: math.ceil(requests_left(it) or 0) for name, it in accounts.items()}
            plan = {"exact": exact, "requests": requests, "seconds": found.whole or 0.0, "at": now}
            await self.store.write(lambda file: file.set_context(file.run["context"] | {"plan": plan}))
        forget_plan(self.reading.lookup.path)

    async def _expected(self, name: str, planned: tuple[int, int] | None) -> Expected:
        """Estimate a stage: by an earlier run, else as `planned` (requests, units), else by its first records."""
        before = await self.store.read(lambda file: account_of(file, name))
        if before.made or before.complete or before.expected.requests:
            return before.expected
        if planned is not None:
            requests, units = planned
            return Expected(requests, readable=self.target.reads.proves(name), units=units)
        source = self.reading.inputs[name].source
        records = await self.reading.first(name, SAMPLED)
        units, most = BatchLimits(bytes=self.settings.max_bytes).units, self.settings.max_bytes
        share = None
        if isinstance(source, GroupedSource) and records:
            share = await self.reading.read(source.share_before, records[-1].end)
        return expected(records, sum(before.sizes or ()), units, most, self.target.reads.proves(name), share)

    def barrier(self, retried: bool = False) -> Barrier:
        """The barrier after a stage, or after its retried batches."""
        return Barrier(self.target.reads, self.target.permits, self.store, self.context, retried)

    async def _stage(self, name: str) -> bool:
        known = await self.store.read(lambda file: account_of(file, name))
        self.context.notify(StageBegan(name, known))
        await self._note(name, "running")
        try:
            run = await self._prepare(name, await self._reader(name), self.settings.max_dead)
            finished = await self._read_to_end(run, known.complete)
            await self.reading.unchanged()
        except Problem as problem:
            state = "failed" if problem.exit_code == Unusable.exit_code else "interrupted"
            await self._end(name, state, problem.what, problem.code)
            raise
        paused = run.reader.feed.paused
        await self._end(name, "complete" if finished else "interrupted", paused, PILOT if paused else "")
        await self.verify(name)
        if not self.context.stopping and name == self.reading.owners:
            await self._followers_wait()
        return finished

    async def _read_to_end(self, run: StageRun, complete: bool) -> bool:
        """Run the stage; True if finished. If it was `complete`, an earlier call has accepted a broken file."""
        try:
            return await run.run()
        except BrokenExport:
            if not complete:
                raise
            return True

    async def _followers_wait(self) -> None:
        """Warn that later records of undecided customers become dead letters, to be retried once the batch is decided.

        If a parked batch did not land, the target would drop those records. Raises `UnknownOutcome` if a parked batch
        has lost its body, so that its customers are not known. Raises it too for a batch that is still unknown, as in
        a pilot: the full run may show its outcome.
        """
        left = await self.store.read(
            lambda file: file.batches(self.reading.owners, BatchState.UNKNOWN, BatchState.PARKED)
        )
        undecided = await self.reading.undecided()
        if any(batch.state is BatchState.UNKNOWN for batch in left):
            await self.reading.decided(self.reading.owners)
        if left and len(self.reading.inputs) > 1:
            count = counted(len(undecided), "customer")
            numbers = ", ".join(str(batch.seq) for batch in left)
            text = (
                f"{count} of batch {numbers} may not be at the target: their events and transactions become dead"
                " letters (owner-undecided). Decide with `streammig resolve`, then send them with `streammig retry`"
            )
            self.context.notify(Warned("owners-undecided", text))

    async def _end(self, name: str, state: str, message: str, code: str) -> None:
        await self._note(name, state, message, code)
        self.context.notify(StageEnded(name, state, message, code))

    async def _note(self, name: str, state: str, message: str = "", code: str = "") -> None:
        at = self.context.now()
        await self.store.write(lambda file: file.stage_state(name, state, at, message, code))

    async def retry(self, name: str, steps: Iterator[Step]) -> None:
        """Deliver a stage's sealed batches and those that these steps seal. Reads no new part of the export."""
        found = await self.store.read(lambda file: account_of(file, name))
        self.context.notify(StageBegan(name, found._replace(sizes=None)))
        mapping = self.reading.inputs[name].mapping
        stage = await self._prepare(name, StageReader(Steps(steps), self.reading.thread, mapping), "")
        await stage.run()
        self.context.notify(StageEnded(name, "interrupted" if self.context.stopping else "retried"))
        await self.verify(name)

    async def _prepare(self, name: str, reader: StageReader, max_dead: int | str) -> StageRun:
        """Wire up one stage."""
        bisected = self.target.reads.proves(name) or self.settings.bisect_events
        sizes = Sizes(*await self.store.read(lambda file: file.sizes(name)))
        sender = Sender(
            client=self.target.client,
            permits=self.target.permits,
            store=self.store,
            reconciler=self._reconciler(self.settings.stage(name).unknown),
            reachability=Reachability(self.target.reads, self.context),
            context=self.context,
            sizes=sizes,
            options=SendOptions(
                concurrency=self.settings.concurrency,
                most_parked=self.settings.most_parked,
                breaker=self.settings.breaker,
                try_named=bisected,
            ),
        )
        isolation = Isolation(sender, bisected, self.settings.isolation_share, self.settings.isolation_requests)
        return StageRun(
            stage=name, reader=reader, sender=sender, isolation=isolation, store=self.store, context=self.context,
            most_dead=parse_dead_limit(max_dead),
        )  # fmt: skip

    def _reconciler(self, policy: Policy) -> Reconciler:
        return Reconciler(reads=self.target.reads, store=self.store, context=self.context, policy=policy)

    async def _reader(self, name: str) -> StageReader:
        progress = await self.store.read(lambda file: file.progress(name))
        ahead = await self.store.read(lambda file: file.ahead_ranges(name))
        size = sum(mark["size"] for mark in await self.store.read(lambda file: file.fingerprints(name)))
        mapping = self.reading.inputs[name].mapping
        made = await self.store.read(lambda file: {it.mapping for it in file.ahead(name)})
        parts = {
            "source": self.reading.inputs[name].source,
            "rules": await self.reading.rules(name, [*progress.begun, *ahead]),
            "limits": BatchLimits(bytes=self.settings.max_bytes),
            "progress": progress,
            "ahead": ahead,
            "first": self.options.first,
            "sent": None if self.options.first is None else await self.reading.pilots(name),
            "outbox": outbox_path(self.reading.lookup.path),
            "mended": not made <= {mapping},
            "buried": partial(self.reading.lookup.was_dead, name),
        }
        feed = await self.reading.read(self._feed, size, parts)
        return StageReader(feed, self.reading.thread, mapping)

    async def read_back(self, name: str, seq: int) -> BatchState:
        """Read back an undecided batch. Returns its new state; UNKNOWN if stopped."""
        asked = (BatchState.UNKNOWN, BatchState.PARKED)
        found = await self.store.read(lambda file: [it for it in file.batches(name, *asked) if it.seq == seq])
        if not found:
            raise Unusable(
                "nothing-to-decide",
                f"batch {seq} of {name} is not undecided (any more)",
                f"See: {self.store.command('resolve')}",
            )
        await self.store.write(lambda file: file.move(found[0], BatchState.PARKED, BatchState.UNKNOWN))
        return await self._reconciler("read-back").decide(found[0], lambda: False)

    # -- reading -----------------------------------------------------------------------------------------------------

    def _feed(self, size: int, parts: dict[str, Any]) -> Reader | ReaderProcess:
        """A reader, in a process of its own if the stage is large enough to pay for its start."""
        if size >= self.options.reader_process_bytes:
            # A mapping that can't be pickled is read in this process.
            with suppress(pickle.PicklingError, AttributeError, TypeError):
                return ReaderProcess(**parts)
        return Reader(**parts)

    # -- checks after a stage ----------------------------------------------------------------------------------------

    async def verify(self, name: str) -> None:
        """Raise `MachineFault` unless the stage's totals add up."""
        check_totals(name, await self.store.read(lambda file: file.totals(name)))


def check_totals(name: str, totals: Totals) -> None:
    """Raise `MachineFault` with both sides unless the totals add up."""
    if not totals.balanced:
        raise MachineFault(
            "totals-unbalanced",
            f"the totals of {name} do not add up: read {totals.taken}, but accounted for {totals.placed}",
            "This is a defect of streammig. Stop, keep the checkpoint as it is, and report it.",
        )
