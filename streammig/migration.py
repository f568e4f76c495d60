"""Composition: settings in, a running migration out; the only package that names a target."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from streammig.account import BESIDE, NoAccount, SharedAccount
from streammig.ask import Ask as Ask
from streammig.binding import bind, call_context, create, new_files, recover
from streammig.bodies import check_bodies, give_up, room_of_outbox
from streammig.checkpoint import Checkpoint, CheckpointWriter, Fence, Store, locked, refuse_stale
from streammig.context import Clock, Context, Stop, SystemClock, Times, until_stopped
from streammig.dead_letters.corrected import Corrected as Corrected
from streammig.dead_letters.replay import Choice as Choice
from streammig.dedup import KeyIndex
from streammig.delivery.beside import write_beside
from streammig.delivery.folder import FolderTarget, Unlimited
from streammig.delivery.reads import Connection, Reads
from streammig.disk import check_room
from streammig.errors import Problem
from streammig.fingerprint import Marks, check_contents, reopen, shapes
from streammig.grouping import forget as forget_grouped
from streammig.inputs import Reading, StageInput, make_ready, open_sources
from streammig.listening import Hub
from streammig.mapping import mapping_mark, stage_mapping
from streammig.masivo import second
from streammig.masivo.limits import PRESETS as PRESETS
from streammig.masivo.target import RuleOptions, check_base_url
from streammig.model import Batch, BatchState
from streammig.not_in import Older, Second, Sent, held_by_run, make, narrowed, parse_since
from streammig.ratelimit import RateLimiter, account_name, parse_hours, parse_limits, part_of
from streammig.resending import Resend
from streammig.retrying import Retry
from streammig.revert import Revert
from streammig.run import Run, RunOptions
from streammig.scan import Policies, forget, scan_folder, scan_stages
from streammig.scan_plan import to_scan
from streammig.settings import Settings, check_doubles, check_folder, from_checkpoint, state_folder
from streammig.sources import with_samples
from streammig.stages import STAGES
from streammig.target import Client, ReadBack, Target
from streammig.targets import at_work, rule_options, target_of
from streammig.telemetry import CheckpointOpened, Judging, Notice, Notify, Waiting, Warned, ignore
from streammig.verify.verdict import Told as Told
from streammig.verify.verifier import Verifier, run_and_look

# Bytes of export from which on a stage is read in a process of its own, which takes 0.2 s to start and 40 MB.
AWAY = 20_000_000
SECOND = Second(second.OWNERS, second.COUNTED, second.issued, second.profile, second.profile_hash)
T = TypeVar("T")


def one_thread() -> Executor:
    return ThreadPoolExecutor(1)


@dataclass(slots=True)
class Migration:
    """One migration in one process. `run` drives it to its end, `drain` and `abort` end it early.

    Clock and dice are passed in; so is the way to make an executor of one thread, which a test replaces to run the
    whole system in virtual time.
    """

    settings: Settings
    ask: Ask = Ask("streammig run")  # noqa: RUF009  # frozen
    key: str = field(default="", repr=False)
    state_dir: Path = Path()  # by default the one that the settings name, or the platform's
    clock: Clock = field(default_factory=SystemClock)
    rng: Random = field(default_factory=Random)
    notify: Notify = ignore
    folder: Path = Path()  # where a mapping's module is looked for
    executor: Callable[[], Executor] = field(default=one_thread)
    away: int = AWAY
    stop: Stop = field(default_factory=Stop)
    assembled: bool = False  # whether the work itself has begun
    _task: asyncio.Task[Any] | None = None
    _hub: Hub = field(init=False)

    def __post_init__(self) -> None:
        self.notify = self._hub = Hub(self.notify)
        if self.state_dir == Path():
            self.state_dir = state_folder(self.settings, os.environ, sys.platform)

    # -- ending early ------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Make no new request; those under way are waited for, up to the drain time."""
        if not self.assembled:
            self.abort()  # nothing is under way yet
        elif not self.stop.is_set():
            self.stop.set()
            asyncio.get_running_loop().call_later(self.settings.drain_time, self.abort)

    def abort(self) -> None:
        """Cut off the requests under way: their outcome is unknown, and the checkpoint says so at the next run."""
        self.stop.set()
        if self._task is not None and not self._task.done():
            self._task.cancel()

    def inputs(self, started: float) -> dict[str, StageInput]:
        """What each stage is read from, and by which rules, without a way to the target. `started` is when the
        checkpoint was made, in seconds since the epoch."""
        mappings = {name: self._mapping(name) for name in STAGES}
        target = self._target(rule_options(self.settings, started), mappings, Unlimited())
        return {
            name: StageInput.of(source, target.rules(name), mapping_mark(mappings[name]))
            for name, source in open_sources(self.settings, mappings, accept_broken=self.ask.accept_broken).items()
        }

    def telemetry(self) -> AsyncIterator[Notice]:
        """What happens, as an async iterator that ends with the run. Begin it before the run, in a task of its own. One
        that is slow loses the oldest notices, and never holds the run."""
        return self._hub.listen()

    async def readable(self) -> dict[str, bool]:
        """Of which stages a read-back can ever prove anything. Makes no request."""
        target = self._target(rule_options(self.settings, 0.0), dict.fromkeys(STAGES), Unlimited())
        async with target.connect() as (_, readback):
            return {name: readback.proves(name) for name in STAGES}

    # -- running -----------------------------------------------------------------------------------------------------

    async def run(self) -> bool:
        """Deliver every stage; True when everything is read and settled, False when it was stopped or paused before.

        Raises the `Problem` that ended it; whatever happens, the checkpoint can be resumed.
        """
        return (
            await self._work(
                partial(run_and_look, state_folder=self.state_dir),
                lambda file: any(row.state != "complete" for row in file.stages()),
            )
            or False
        )

    async def retry(self, choice: Choice) -> bool:
        """Send dead letters again; True when all that were chosen are settled or still dead, False when stopped
        before. Raises like `run`, and the same call goes on from there."""
        return (
            await self._work(
                lambda run: Retry(run, choice).all(),
                lambda file: any(file.dead_codes(row.name) for row in file.stages()),
            )
            or False
        )

    async def retry_missing(self) -> bool:
        """Send again what a verify did not find; as `retry`."""
        return await self._work(lambda run: Resend(run, self.state_dir).all()) or False

    async def read_back(self, stage: str, seq: int) -> BatchState:
        """Ask the target now what became of an unknown or parked batch: ACCEPTED, SEALED (it did not land), PARKED, or
        UNKNOWN if stopped before that is known."""
        return await self._work(lambda run: run.read_back(stage, seq)) or BatchState.UNKNOWN

    async def verify(self, count: int | None, tell: Callable[[Told], None]) -> dict[str, Any] | None:
        """Read back a sample of so many customers, or all where it is None, and compare; the summary of the result,
        None where stopped before. `tell` gets each difference, with its values."""
        return await self._work(lambda run: Verifier(run, count, self.state_dir, tell).verify(), sends=False)

    async def revert(self, customers: int, tell: Callable[[str], None]) -> dict[str, Any] | None:
        """Take the run back, whose customers are so many, and read back what became of each; None if stopped before.
        `tell` gets the id of each that stayed."""
        return await self._work(lambda run: Revert(run, self.state_dir, customers, tell).revert(), sends=False)

    async def _work(
        self, work: Callable[[Run], Awaitable[T]], reads: Callable[[Checkpoint], bool] = lambda _: False,
        sends: bool = True,
    ) -> T | None:  # fmt: skip
        """Assemble a run and let it work; None if it was aborted. `reads`: whether it reads records that may be sent:
        the customers have to be known for that. What `sends` is not for a run that was reverted."""
        self._task = task = asyncio.current_task()
        self._hub.closed = False
        try:
            async with AsyncExitStack() as stack:
                run = await self._assemble(stack, reads, sends)
                self.assembled = True
                done = await work(run)
                if self.ask.dry_run is not None:
                    mapped = {name: it[:2] for name, it in run.reading.inputs.items() if it.mapping}
                    await run.reading.read(write_beside, self.ask.dry_run, mapped)
                if done is True:
                    await run.store.write(Checkpoint.forget_samples)
                whole = all(row.state == "complete" for row in await run.store.read(Checkpoint.stages))
            if done is True:
                forget(scan_folder(run.reading.lookup.path), STAGES)
            if done is not None and whole:
                forget_grouped(run.reading.lookup.path, STAGES)
            return done
        except asyncio.CancelledError:
            if not self.stop.is_set() or task is None:
                raise
            task.uncancel()
            return None
        finally:
            self._task = None
            self._hub.close()

    async def _assemble(self, stack: AsyncExitStack, reads: Callable[[Checkpoint], bool], sends: bool) -> Run:
        """Check everything that can be checked before a record is read, then open and connect what a run needs."""
        settings, ask = self.settings, self.ask
        account = self._account()
        check_doubles(settings, ask.accept_doubles)
        if settings.since:
            parse_since(settings.since)  # before the older run is read, which may take long
        mappings = {name: self._mapping(name) for name in STAGES}
        sources = open_sources(settings, mappings, accept_broken=ask.accept_broken)
        self.notify(Judging(at_work(settings.judge)))
        path = Path(settings.checkpoint)
        check_folder(path)
        stack.enter_context(self._lock(path))
        fence = stack.enter_context(account.fence(path, ask))
        self.notify(CheckpointOpened(fence.run_id if fence is not None else ""))
        marks = {name: source.fingerprints() for name, source in sources.items()}
        thread = stack.enter_context(self.executor())
        shape = shapes(settings, ask.unchecked)
        file = reopen(path, account.binding, shape, marks)
        lost: list[Batch] = []
        if file is not None:
            stack.callback(file.close)
            if sends:
                file.refuse_reverted()
            lost = await self._check(file, fence, marks, thread)
        account.claim(path, fence if sends else None, marks, ask.export_again)
        check_room(path.parent, room_of_outbox(settings, marks, path))
        started = file.run["started"] if file is not None else self.clock.time()
        limiter = account.limiter(stack, self.clock, self.executor, self.notify, BESIDE if sends else 0.0)
        target = self._target(rule_options(settings, started), mappings, limiter)
        inputs = {it: StageInput.of(sources[it], target.rules(it), mapping_mark(mappings[it])) for it in sources}
        client, readback = await stack.enter_async_context(self._connect(target))
        sent = await self._sent(stack, inputs, account.binding, thread, file if sends else None)
        inputs = narrowed(inputs, sent, settings.since, SECOND, self.notify)
        new = new_files(file, marks, settings, self.notify)
        fresh = await self._reading(thread, partial(with_samples, new))
        reading_on = file is None or any(fresh.values()) or reads(file)
        if reading_on or not sends:
            begun = [row.name for row in file.stages()] if file is not None else []
            if await until_stopped(self.stop, make_ready(sources, thread, self.notify, begun)) is None:
                raise asyncio.CancelledError
        indexes = await self._scan(stack, file, inputs, shape, fresh, thread) if reading_on else {}
        if file is None:
            file = create(path, fence, account.binding, started)
            stack.callback(file.close)
        told = None if ask.aside else call_context(settings, ask, str(account.limits), self.state_dir, self.folder)
        bind(file, shape, fresh, told)
        recover(file, fence, self.clock.time(), self.notify)
        if words := await limiter.enter(file.run["id"], file.starts()):
            self.notify(Warned("limits-changed", words))
        if lost or file.lost() is not None:
            lost = file.lost_bodies()  # what became unknown is among them now
        file.sweep_outbox()
        stack.callback(_sweep, file)
        file.outbox.tellable = readback.can_tell
        store = self._store(stack, file, fence)
        lookup = _opened_to_read(stack, path)
        reading = Reading(
            stages=target.stages,
            inputs=inputs,
            indexes=indexes,
            store=store,
            lookup=lookup,
            thread=thread,
            left=[it.left for it in sent],
            balanced=settings.balances == "dead-letter",
        )
        context = self._context_of(target)
        await give_up(reading, context, lost, ask.bodies_lost or ask.newest_lost)
        return Run(
            settings=settings,
            reading=reading,
            store=store,
            target=Connection(client, readback, limiter, Reads(readback, context, settings.concurrency)),
            context=context,
            options=RunOptions(ask.first, self.away, look=target.queued and not ask.passes_look(fence)),
        )

    async def _sent(
        self, stack: AsyncExitStack, inputs: Mapping[str, StageInput], binding: Mapping[str, Any], thread: Executor,
        newer: Checkpoint | None,
    ) -> list[Sent]:  # fmt: skip
        """What the older run that the settings name has left at the target, for the `newer` one that sends; and what
        that run has left out in turn, for an even older one had sent it."""
        found: list[Sent] = []
        name, known = self.settings.not_in, set[str]()
        while name:
            path = Path(name)
            held_by_run(path)
            file = _opened_to_read(stack, path)
            if file.run["id"] in known:
                break  # renamed files name each other
            known.add(file.run["id"])
            refuse_stale(path, self.state_dir, file.run["id"], file.run["tick"])
            settings, folder = from_checkpoint(path, file.run["context"], None)
            older = Older(file, Migration(settings, self.ask, folder=folder).inputs(file.run["started"]))
            older.check(binding if self.ask.dry_run is None else file.run["binding"], newer)
            self.notify(Waiting("older-run", f"reading what {path} has left at the target"))
            list_of = Path(f"{self.settings.checkpoint}{f'.before-{len(found)}' if found else ''}.not-in")
            sent = await self._reading(thread, partial(make, list_of, older, inputs, SECOND, self.notify))
            stack.callback(sent.left.close)
            stack.callback(sent.places.close)
            found.append(sent)
            name = settings.not_in
        return found

    def _context_of(self, target: Target) -> Context:
        times = Times(self.settings.settle_time if target.queued else 0.0, self.settings.visible_time)
        return Context(clock=self.clock, rng=self.rng, notify=self.notify, stop=self.stop, times=times)

    def _store(self, stack: AsyncExitStack, file: Checkpoint, fence: Fence | None) -> Store:
        writer = CheckpointWriter(file, stack.enter_context(self.executor()), fence)
        stack.push_async_callback(writer.flush)
        return Store(writer, _opened_to_read(stack, file.path), stack.enter_context(self.executor()))

    async def _check(self, file: Checkpoint, fence: Fence | None, marks: Marks, thread: Executor) -> list[Batch]:
        """Raise `Unusable` unless export and outbox are what the checkpoint knows of them. Returns the batches whose
        bodies are lost where that ends nothing: they are given up, or a lost copy may have settled them."""
        await self._reading(thread, partial(check_contents, file, marks))
        given_up = self.ask.bodies_lost or file.lost() is not None or (fence is not None and fence.newer is not None)
        return await self._reading(thread, lambda stopped: check_bodies(file, given_up))

    def _lock(self, path: Path) -> AbstractContextManager[None]:
        return nullcontext() if self.ask.held else locked(path, self.ask.command)

    async def _reading(self, reader: Executor, work: Callable[[Callable[[], bool]], T]) -> T:
        """Do what reads files in the reader's thread. Ended early, nothing has begun, as after an abort."""
        found = await asyncio.get_running_loop().run_in_executor(reader, work, self.stop.is_set)
        if self.stop.is_set():
            raise asyncio.CancelledError
        return found

    async def _scan(
        self,
        stack: AsyncExitStack,
        file: Checkpoint | None,
        inputs: Mapping[str, StageInput],
        shape: Mapping[str, Any],
        fresh: Marks,
        reader: Executor,
    ) -> Mapping[str, KeyIndex]:
        """Scan what is not read yet before the first request, and raise what stops the run. The index of each stage
        that has one."""
        if self.ask.unchecked:
            self.notify(Warned("unchecked", "unchecked: a duplicate customer in the export will be sent twice"))
            return {}
        added = {name for name, files in fresh.items() if files}
        marks = {it: own.source.fingerprints() for it, own in inputs.items()}
        beside = room_of_outbox(self.settings, marks, Path(self.settings.checkpoint))
        jobs = to_scan(self.settings, inputs, shape, file, added, beside, aside=self.ask.aside)
        policies = Policies(
            accept_broken=self.ask.accept_broken,
            owner_twice=self.settings.transactions.owner_twice,
            balances=self.settings.balances,
            not_deleted=self.settings.customers.not_deleted,
        )
        found = await until_stopped(self.stop, scan_stages(stack, jobs, reader, self.notify, policies))
        if found is None:
            raise asyncio.CancelledError
        return found

    def _mapping(self, name: str) -> Callable[[Any], Any] | None:
        return stage_mapping(self.settings, name, self.folder)

    def _account(self) -> SharedAccount | NoAccount:
        """The account that the run sends to; none for a dry run."""
        if self.ask.dry_run is not None:
            return NoAccount()
        settings = self.settings
        check_base_url(settings.base_url)
        name = account_name(settings.account or None, settings.base_url, self.key)
        limits = part_of(parse_limits(settings.limits, PRESETS), settings.budget_share)
        hours = parse_hours(settings.hours, settings.hours_zone)
        return SharedAccount(name, settings.base_url, self.state_dir, limits, hours)

    def _target(
        self,
        options: Mapping[str, RuleOptions],
        mappings: Mapping[str, Callable[[Any], Any] | None],
        limiter: RateLimiter | Unlimited,
    ) -> Target:
        target = target_of(
            self.settings,
            self.key,
            options=options,
            mappings=mappings,
            clock=self.clock,
            rng=self.rng,
            account=limiter,
            waiting=lambda why, seconds: self.notify(Waiting("reading", why, seconds)),
        )
        return target if self.ask.dry_run is None else FolderTarget(target, self.ask.dry_run)

    @asynccontextmanager
    async def _connect(self, target: Target) -> AsyncIterator[tuple[Client, ReadBack]]:
        async with target.connect() as (client, readback):
            await client.renew()  # a wrong key or host is found here, before a record is read
            yield client, readback


def _opened_to_read(stack: AsyncExitStack, path: Path) -> Checkpoint:
    file = Checkpoint.open(path, read_only=True)
    stack.callback(file.close)
    return file


def _sweep(file: Checkpoint) -> None:
    """Leave nothing in the outbox that no batch needs, however the run ended."""
    with suppress(Problem):
        file.sweep_outbox()
