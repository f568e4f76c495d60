"""Composition: settings in, a running migration out; the only package that names a target."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from streammig.aftercare.retry import Choice as Choice
from streammig.budget import (
    OFF,
    AccountFile,
    Limits,
    Pacer,
    Send,
    Slot,
    account_name,
    account_path,
    damaged,
    parse_limits,
)
from streammig.checkpoint import Checkpoint, Journal, describe, described, forget_work, locked
from streammig.delivery.courier import Slots
from streammig.delivery.dry import FolderSink, FreeSlots, NoReadBack
from streammig.delivery.waiting import unless
from streammig.errors import Unusable
from streammig.masivo.limits import PRESETS
from streammig.masivo.redact import redact
from streammig.masivo.target import Masivo, RuleOptions, check_base_url
from streammig.migration.binding import reopen, shapes
from streammig.migration.census import clear, owner_table, owners_folder
from streammig.migration.crew import Crew
from streammig.migration.mapping import load_mapping
from streammig.migration.retrying import Retry
from streammig.notices import Tell, Waiting, Warned
from streammig.owners import OwnerTable
from streammig.ports import Clock as Clock
from streammig.ports import ReadBack, Rules, Sink, Source
from streammig.records import STAGES, Batch, BatchState, Tally
from streammig.settings import Settings, absolute, check_doubles, portable
from streammig.sources import open_source, parse_input

# Bytes of export from which on a stage is read in a process of its own, which takes 0.2 s to start and 40 MB.
AWAY = 20_000_000
T = TypeVar("T")


def one_thread() -> Executor:
    return ThreadPoolExecutor(1)


@dataclass(frozen=True, slots=True)
class Ask:
    """What one call of `run` asks for beside the settings."""

    command: str  # the command line that goes on from here
    first: int | None = None  # a pilot: so many source records of each stage
    unchecked: bool = False  # do not pass over the customers for those that stand twice
    dry_run: Path | None = None  # a folder for the bodies, instead of the target; the checkpoint lies in it
    accept_doubles: tuple[str, ...] = ()  # the stages, by name, whose unknown batches may be sent again unproven
    aside: bool = False  # a command beside the run: what goes on from here is still the run's command


@dataclass(slots=True)
class Migration:
    """One migration in one process. `run` drives it to its end, `drain` and `abort` end it early.

    Clock and dice are passed in; so is the way to make an executor of one thread, which a test replaces to run the
    whole system in virtual time.
    """

    settings: Settings
    ask: Ask
    key: str = field(repr=False)
    state_dir: Path
    clock: Clock
    rng: Random
    tell: Tell
    folder: Path = Path()  # where a mapping's module is looked for
    executor: Callable[[], Executor] = field(default=one_thread)
    away: int = AWAY
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    assembled: bool = False  # whether the work itself has begun
    _task: asyncio.Task[Any] | None = None

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

    # -- running -----------------------------------------------------------------------------------------------------

    async def run(self) -> bool:
        """Deliver every stage; True when everything is read and settled, False when it was stopped or paused before.

        Raises the `Problem` that ended it; whatever happens, the checkpoint can be resumed.
        """
        return await self._work(Crew.run) or False

    async def retry(self, choice: Choice, repaired: Path | None = None) -> bool:
        """Send dead letters again; True when all that were chosen are settled or still dead, False when stopped
        before. Raises like `run`, and the same call goes on from there."""
        return await self._work(lambda crew: Retry(crew, choice, repaired).run()) or False

    async def read_back(self, stage: str, seq: int) -> BatchState:
        """Ask the target now what became of an unknown or parked batch: ACCEPTED, SEALED (it did not land), PARKED, or
        UNKNOWN if stopped before that is known."""
        return await self._work(lambda crew: crew.read_back(stage, seq)) or BatchState.UNKNOWN

    async def _work(self, work: Callable[[Crew], Awaitable[T]]) -> T | None:
        """Assemble a crew and let it work; None if it was aborted."""
        self._task = task = asyncio.current_task()
        try:
            async with AsyncExitStack() as stack:
                crew = await self._assemble(stack)
                self.assembled = True
                done = await work(crew)
                spare = not crew.lookup.needs_work_file()
            if spare:
                forget_work(crew.path)
            if done is True:
                clear(crew.path)
            return done
        except asyncio.CancelledError:
            if not self.stop.is_set() or task is None:
                raise
            task.uncancel()
            return None
        finally:
            self._task = None

    async def _assemble(self, stack: AsyncExitStack) -> Crew:
        """Check everything that can be checked before a record is read, then open and connect what a run needs."""
        settings, dry = self.settings, self.ask.dry_run is not None
        if not dry:
            check_base_url(settings.base_url)
        check_doubles(settings, self.ask.accept_doubles)
        limits = OFF if dry else parse_limits(settings.limits, PRESETS)
        mappings = {name: self._mapping(name) for name in STAGES}
        sources = {name: self._open(name) for name in settings.stages}
        if not sources:
            raise Unusable(
                "there is nothing to migrate: no stage has a file",
                "Name one with --customers, --events or --transactions, or in a settings file.",
            )
        path = Path(settings.checkpoint)
        stack.enter_context(locked(path, self.ask.command))
        marks = {name: source.fingerprints() for name, source in sources.items()}
        binding, shape = self._binding(), shapes(settings)
        file = reopen(path, binding, shape, marks)
        if file is not None:
            stack.callback(file.close)
        started = file.run["started"] if file is not None else self.clock.time()
        pacer = None if dry else await self._pacer(stack, limits)
        target = self._target(rule_options(settings, started), mappings, pacer)
        rules = {name: target.rules(name) for name in sources}
        sink, readback = await stack.enter_async_context(self._connect(target))
        if file is None:
            file = Checkpoint.create(path, binding=binding, version=version("streammig"), started=started)
            stack.callback(file.close)
        self._bind(file, shape, marks, limits)
        self._recover(file)
        run_id = file.run["id"]
        slots: Slots = FreeSlots()
        vouched = True
        if pacer is not None:
            vouched = self._reconcile(file, pacer.file)
            if words := await pacer.enter(run_id):
                self.tell(Warned(words))
            slots = AccountSlots(pacer, run_id)
        lookup = Checkpoint.open(path, read_only=True)
        stack.callback(lookup.close)
        journal = Journal(file, stack.enter_context(self.executor()))
        stack.push_async_callback(journal.flush)
        reader = stack.enter_context(self.executor())
        owners = await self._owners(stack, path, sources, rules, shape, reader)
        return Crew(
            settings, path, lookup, sources, rules, journal, sink, readback, slots, redact, self.clock, self.rng,
            self.tell, reader, self.stop, 0.0 if dry else settings.settle_time, self.ask.first, owners, vouched,
            self.away,
        )  # fmt: skip

    async def _owners(
        self, stack: AsyncExitStack, path: Path, sources: Mapping[str, Source], rules: Mapping[str, Rules],
        shape: Mapping[str, Any], reader: Executor,
    ) -> OwnerTable | None:  # fmt: skip
        if "customers" not in sources:
            return None
        if self.ask.unchecked:
            self.tell(Warned("unchecked: a customer that stands twice in the export will be sent twice"))
            return None
        made = owner_table(
            owners_folder(path), sources["customers"], rules["customers"], shape["customers"], reader, self.tell
        )
        table = await unless(self.stop, made)
        if table is not None:
            stack.callback(table.close)
        return table

    def _mapping(self, name: str) -> Callable[[Any], Any] | None:
        text = self.settings.stage(name).map
        return load_mapping(text, self.folder) if text else None

    def _open(self, name: str) -> Source:
        inputs = [parse_input(text) for text in self.settings.stage(name).files]
        return open_source(inputs, max_record_bytes=self.settings.max_record_bytes)

    def _binding(self) -> dict[str, Any]:
        if self.ask.dry_run is not None:
            return {"account": "none", "dry_run": True}
        account = account_name(self.settings.account or None, self.settings.base_url, self.key)
        return {"target": self.settings.base_url, "account": account}

    async def _pacer(self, stack: AsyncExitStack, limits: Limits) -> Pacer:
        account = account_name(self.settings.account or None, self.settings.base_url, self.key)
        file = AccountFile(account_path(self.state_dir, account))
        stack.callback(file.close)
        pacer = Pacer(file, limits, self.clock, stack.enter_context(self.executor()))
        stack.push_async_callback(pacer.close)
        return pacer

    def _target(
        self,
        options: Mapping[str, RuleOptions],
        mappings: Mapping[str, Callable[[Any], Any] | None],
        pacer: Pacer | None,
    ) -> Masivo:
        free = FreeSlots()
        return Masivo(
            base_url=self.settings.base_url, auth_url=self.settings.auth_url, key=self.key,
            timeout=self.settings.request_timeout, options=options, mappings=mappings, clock=self.clock, rng=self.rng,
            pace=free.read if pacer is None else pacer.read, hold=free.hold if pacer is None else pacer.hold,
            observe=free.observe if pacer is None else pacer.observe,
            waiting=lambda why, seconds: self.tell(Waiting(why, seconds)),
        )  # fmt: skip

    @asynccontextmanager
    async def _connect(self, target: Masivo) -> AsyncIterator[tuple[Sink, ReadBack]]:
        if self.ask.dry_run is not None:
            yield FolderSink(self.ask.dry_run), NoReadBack()
            return
        async with target.connect() as (sink, readback):
            await sink.renew()  # a wrong key or host is found here, before a record is read
            yield sink, readback

    def _bind(self, file: Checkpoint, shape: Mapping[str, Any], marks: Mapping[str, Any], limits: Limits) -> None:
        known = {row.name for row in file.stages()}
        with file.transaction():
            if not self.ask.aside:
                file.set_context(self._context(str(limits)))
            for name in shape:
                if name not in known:
                    file.add_stage(name, STAGES.index(name), shape[name], marks[name])

    def _context(self, limits: str) -> dict[str, Any]:
        """What another command needs to know of this one: where its files lie, and the windows of its budget."""
        inputs = {name: [absolute(text) for text in self.settings.stage(name).files] for name in self.settings.stages}
        return {
            "command": self.ask.command, "limits": limits, "inputs": inputs,
            "state_dir": str(self.state_dir.absolute()), "max_record_bytes": self.settings.max_record_bytes,
            "settings": portable(self.settings), "folder": str(self.folder.absolute()), "unchecked": self.ask.unchecked,
        }  # fmt: skip

    def _reconcile(self, file: Checkpoint, account: AccountFile) -> bool:
        news, vouched = reconcile(file, account)
        if news:
            names = ", ".join(f"{batch.seq} of {batch.stage}" for batch in news[:20])
            self.tell(Warned(f"the checkpoint is older than its last send: the outcome is unknown for batch {names}"))
        if not vouched:
            self.tell(
                Warned(
                    "the account's file does not know this checkpoint (another host, a lost volume?), so nobody can"
                    " tell whether it is the newest copy: what is to be sent first is looked for at the target before"
                )
            )
        return vouched

    def _recover(self, file: Checkpoint) -> None:
        lost = file.recover()
        if lost:
            names = ", ".join(f"{batch.seq} of {batch.stage}" for batch in lost)
            self.tell(Warned(f"the last run ended while it was sending: the outcome is unknown for batch {names}"))


def reconcile(file: Checkpoint, account: AccountFile) -> tuple[list[Batch], bool]:
    """Compare a checkpoint with what the account's file knows of its sends.

    Returns the batches that the checkpoint did not know to be sent (it was set back in time), now unknown, and whether
    the account's file can vouch for it at all: a new one can't, and takes over the starts that the checkpoint knows.
    Raises `Unusable` where the account's file is damaged, or the checkpoint too old to be brought up to date.
    """
    run_id, news = file.run["id"], []
    if not account.knows(run_id):
        starts = file.starts()
        sends = [Send(run_id, stage, seq, attempt, at) for stage, seq, attempt, at in starts]
        # Under a name of its own: the file must not seem to know this checkpoint before a first send of it is noted.
        seeded = f"{run_id} as its checkpoint has it"
        account.seed(seeded, [it.at for it in sends], sends, max((it.at for it in sends), default=0.0))
        return [], not starts
    for send in account.sends_of(run_id):
        blank = Batch(send.stage, send.seq, (), Tally(), b"", 0)
        try:
            batch = described(send.stage, send.seq, send.what) if send.what else blank
        except ValueError as error:
            raise damaged(account.path, str(error)) from None
        if file.adopt(batch, send.attempt, send.at):
            news.append(batch)
    return news, True


def rule_options(settings: Settings, started: float) -> dict[str, RuleOptions]:
    """The rules' options for each stage; lots expire as of the moment the checkpoint was made."""
    now = datetime.datetime.fromtimestamp(started, datetime.UTC)
    return {
        name: RuleOptions(
            unknown_fields=settings.unknown_fields,
            fraction_digits=settings.fraction_digits,
            include_inactive=settings.include_inactive,
            send_anonymous=settings.send_anonymous,
            zero_orders=settings.zero_orders,
            send_redeem=settings.send_redeem,
            time_zone=settings.time_zone or None,
            deleted=settings.customers.deleted,
            reversed=settings.events.reversed,
            owner=settings.stage(name).owner or None,
            max_bytes=settings.max_bytes,
            now=now,
        )
        for name in STAGES
    }


@dataclass(frozen=True, slots=True)
class AccountSlots:
    """The account's slots for one checkpoint: each is noted with the batch and attempt it is used for."""

    pacer: Pacer
    run_id: str

    async def take(self, batch: Batch, attempt: int) -> Slot:
        send = Send(self.run_id, batch.stage, batch.seq, attempt, self.pacer.now(), describe(batch))
        return await self.pacer.slot("migration", send)

    def answered(self, latency: float) -> None:
        self.pacer.answered(latency)

    async def hold(self, seconds: float) -> None:
        await self.pacer.hold(seconds)

    async def throttled(self) -> None:
        await self.pacer.throttled()
