"""Assembles a run: checks the settings and files, connects to the target, scans, then opens the checkpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from streammig.account import READ_INTERVAL, NoAccount, SharedAccount
from streammig.ask import Ask
from streammig.binding import bind, call_context, create, new_files, recover
from streammig.bodies import check_bodies, give_up, room_of_outbox
from streammig.checkpoint import (
    Checkpoint,
    CheckpointWriter,
    Fence,
    Store,
    at_once,
    is_held,
    locked,
    refuse_stale,
)
from streammig.context import Context, Times
from streammig.dedup import KeyIndex
from streammig.delivery.folder import FolderTarget, Unlimited
from streammig.delivery.reads import Connection, Reads
from streammig.disk import check_room
from streammig.errors import Held, Problem
from streammig.fingerprint import Marks, check_contents, reopen, shapes
from streammig.inputs import Reading, StageInput, make_ready, open_sources
from streammig.mapping import mapping_mark, stage_mapping
from streammig.masivo import second
from streammig.masivo.http import check_base_url
from streammig.masivo.limits import PRESETS
from streammig.model import Batch
from streammig.not_in import Older, Second, Sent, make, narrowed, parse_since
from streammig.ratelimit import RateLimiter, account_name, parse_hours, parse_limits, part_of
from streammig.run import Run, RunOptions
from streammig.scan import Policies, scan_stages
from streammig.scans import to_scan
from streammig.settings import Settings, check_doubles, check_folder, from_checkpoint
from streammig.sources import with_samples
from streammig.sources.source import Source
from streammig.stages import STAGES
from streammig.target import Client, ReadBack, Target
from streammig.targets import Masivo, at_work
from streammig.telemetry import CheckpointOpened, Judging, Waiting, Warned, ignore

SECOND = Second(second.OWNERS, second.COUNTED, second.issued, second.profile, second.profile_hash)
T = TypeVar("T")
Mappings = Mapping[str, Callable[[Any], Any] | None]


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a command: settings, options, key and folders."""

    settings: Settings
    ask: Ask
    key: str = field(repr=False)
    state_dir: Path
    folder: Path  # first place to look for a mapping's module
    reader_process_bytes: int  # a stage whose files have at least this size is read in a process of its own

    def mappings(self) -> dict[str, Callable[[Any], Any] | None]:
        return {name: stage_mapping(self.settings, name, self.folder) for name in STAGES}

    def account(self) -> SharedAccount | NoAccount:
        """The account that the run sends to, a `NoAccount` for a dry run."""
        if self.ask.dry_run is not None:
            return NoAccount()
        settings = self.settings
        check_base_url(settings.base_url)
        name = account_name(settings.account or None, settings.base_url, self.key)
        limits = part_of(parse_limits(settings.limits, PRESETS), settings.budget_share)
        hours = parse_hours(settings.hours, settings.hours_zone)
        return SharedAccount(name, settings.base_url, self.state_dir, limits, hours)

    def target(self, context: Context, started: float, mappings: Mappings, limiter: RateLimiter | Unlimited) -> Target:
        """The target that the settings name, or a folder for a dry run.

        `started`: when the checkpoint was made, in seconds since the epoch.
        """
        target = Masivo(
            settings=self.settings,
            key=self.key,
            started=started,
            mappings=mappings,
            clock=context.clock,
            rng=context.rng,
            account=limiter,
            waiting=lambda why, seconds: context.notify(Waiting("reading", why, seconds)),
        )
        return target if self.ask.dry_run is None else FolderTarget(target, self.ask.dry_run)

    def inputs(self, context: Context, started: float) -> dict[str, StageInput]:
        """The source and the rules of each stage. Makes no request."""
        mappings = self.mappings()
        sources = open_sources(self.settings, mappings, accept_broken=self.ask.accept_broken)
        return inputs_of(sources, self.target(context, started, mappings, Unlimited()), mappings)


def inputs_of(sources: Mapping[str, Source], target: Target, mappings: Mappings) -> dict[str, StageInput]:
    return {it: StageInput.of(sources[it], target.rules(it), mapping_mark(mappings[it])) for it in sources}


class _Opened(NamedTuple):
    """Everything that is open before the first request and the first record."""

    account: SharedAccount | NoAccount
    mappings: Mappings
    sources: Mapping[str, Source]
    marks: Marks
    shape: Mapping[str, Any]
    fence: Fence | None
    file: Checkpoint | None  # None for a new run: the checkpoint is made later
    lost: list[Batch]  # batches without a body in the outbox
    started: float  # when the checkpoint was made, in seconds since the epoch


@dataclass(slots=True)
class Assembly:
    """Assembles one run. `stack` closes everything that it opens. `context` has no target's times yet."""

    call: Call
    context: Context
    executor: Callable[[], Executor]  # makes an executor of one thread
    connect: Callable[[Target], AbstractAsyncContextManager[tuple[Client, ReadBack]]]
    stack: AsyncExitStack
    thread: Executor = field(init=False)  # the thread that reads files

    async def run(self, reads: Callable[[Checkpoint], bool], sends: bool) -> Run:
        """Assemble the run. `reads` tells by the checkpoint whether records are read to be sent.

        `sends`: the command makes requests that carry records. Raises `Unusable` if the run was reverted.
        """
        call, settings, notify = self.call, self.call.settings, self.context.notify
        opened = await self._open(sends)
        account, fence = opened.account, opened.fence
        interval = READ_INTERVAL if sends else 0.0
        limiter = account.limiter(self.stack, self.context.clock, self.executor, notify, interval)
        target = call.target(self.context, opened.started, opened.mappings, limiter)
        client, readback = await self.stack.enter_async_context(self.connect(target))
        inputs = inputs_of(opened.sources, target, opened.mappings)
        sent = await self._sent(inputs, account.binding, opened.file if sends else None)
        inputs = narrowed(inputs, sent, settings.since, SECOND, notify)
        if sends and (opened.file is None or reads(opened.file)):
            notify(Judging(at_work(settings.judge)))
        fresh, indexes = await self._read_ahead(opened, inputs, reads, sends)
        file, lost = await self._begin(opened, fresh, limiter)
        file.outbox.can_tell = readback.can_tell
        reading = Reading(
            stages=target.stages,
            inputs=inputs,
            indexes=indexes,
            store=self._store(file, fence),
            lookup=self._opened_to_read(file.path),
            thread=self.thread,
            left=[it.left for it in sent],
            balanced=settings.balances == "dead-letter",
        )
        times = Times(settings.settle_time if target.queued else 0.0, settings.visible_time)
        context = replace(self.context, times=times)
        await give_up(reading, context, lost, call.ask.bodies_lost or call.ask.newest_lost)
        return Run(
            settings=settings,
            reading=reading,
            store=reading.store,
            target=Connection(client, readback, limiter, Reads(readback, context, settings.concurrency)),
            context=context,
            options=RunOptions(
                call.ask.first, call.reader_process_bytes, look=target.queued and not call.ask.passes_look(fence)
            ),
        )

    async def _open(self, sends: bool) -> _Opened:
        """Open the files and make every check that needs no record and no request."""
        settings, ask, notify = self.call.settings, self.call.ask, self.context.notify
        account = self.call.account()
        check_doubles(settings, ask.accept_doubles)
        if settings.since:
            parse_since(settings.since)  # fail before reading the older run, which may take long
        mappings = self.call.mappings()
        sources = open_sources(settings, mappings, accept_broken=ask.accept_broken)
        path = Path(settings.checkpoint)
        check_folder(path)
        self.stack.enter_context(nullcontext() if ask.held else locked(path, ask.command))
        fence = self.stack.enter_context(account.fence(path, ask))
        notify(CheckpointOpened(fence.run_id if fence is not None else ""))
        marks = {name: source.fingerprints() for name, source in sources.items()}
        self.thread = self.stack.enter_context(self.executor())
        shape = shapes(settings, ask.unchecked)
        file = reopen(path, account.binding, shape, marks)
        lost: list[Batch] = []
        if file is not None:
            self.stack.callback(file.close)
            if sends:
                file.refuse_reverted()
            lost = await self._check(file, fence, marks)
        older = Path(settings.not_in) if settings.not_in else None
        account.claim(path, fence if sends else None, marks, ask.export_again, older)
        check_room(path.parent, room_of_outbox(settings, marks, path))
        started = file.run["started"] if file is not None else self.context.now()
        return _Opened(
            account=account, mappings=mappings, sources=sources, marks=marks, shape=shape, fence=fence, file=file,
            lost=lost, started=started,
        )  # fmt: skip

    async def _check(self, file: Checkpoint, fence: Fence | None, marks: Marks) -> list[Batch]:
        """Check export and outbox against the checkpoint. Raises `Unusable` if they differ.

        Returns the batches without a body. They are no error if the operator gives them up, or if the newest copy of
        the checkpoint is lost, which may have settled them.
        """
        await self._reading(partial(check_contents, file, marks))
        given_up = (
            self.call.ask.bodies_lost or file.lost() is not None or (fence is not None and fence.newer is not None)
        )
        return await self._reading(lambda stopped: check_bodies(file, given_up))

    async def _read_ahead(
        self, opened: _Opened, inputs: Mapping[str, StageInput], reads: Callable[[Checkpoint], bool], sends: bool
    ) -> tuple[Marks, Mapping[str, KeyIndex]]:
        """Read what the run needs before its first request: fingerprints of new files, and a dedup index by stage."""
        file, notify = opened.file, self.context.notify
        new = new_files(file, opened.marks, self.call.settings, notify)
        fresh = await self._reading(partial(with_samples, new))
        reading_on = file is None or any(fresh.values()) or reads(file)
        if reading_on or not sends:
            begun = [row.name for row in file.stages()] if file is not None else []
            making = make_ready(opened.sources, self.thread, notify, begun, opened.mappings)
            if await self.context.until_stopped(making) is None:
                raise asyncio.CancelledError
        return fresh, await self._scan(opened, inputs, fresh) if reading_on else {}

    async def _scan(self, opened: _Opened, inputs: Mapping[str, StageInput], fresh: Marks) -> Mapping[str, KeyIndex]:
        """Scan the records that are not read yet. Returns the indexes; raises the `Problem` that stops the run."""
        settings, ask, notify = self.call.settings, self.call.ask, self.context.notify
        if ask.unchecked:
            notify(Warned("unchecked", "unchecked: a duplicate customer in the export will be sent twice"))
            return {}
        added = {name for name, files in fresh.items() if files}
        marks = {it: own.source.fingerprints() for it, own in inputs.items()}
        beside = room_of_outbox(settings, marks, Path(settings.checkpoint))
        jobs = to_scan(settings, inputs, opened.shape, opened.file, added, beside, aside=ask.aside)
        policies = Policies(
            accept_broken=ask.accept_broken,
            owner_twice=settings.transactions.owner_twice,
            balances=settings.balances,
            not_deleted=settings.customers.not_deleted,
        )
        scanning = scan_stages(self.stack, jobs, self.thread, notify, policies)
        found = await self.context.until_stopped(scanning)
        if found is None:
            raise asyncio.CancelledError
        return found

    async def _begin(
        self, opened: _Opened, fresh: Marks, limiter: RateLimiter | Unlimited
    ) -> tuple[Checkpoint, list[Batch]]:
        """Bind the checkpoint to this call and recover from the last one. Returns it and the batches without a body."""
        call, notify = self.call, self.context.notify
        file, lost = opened.file, opened.lost
        if file is None:
            file = create(Path(call.settings.checkpoint), opened.fence, opened.account.binding, opened.started)
            self.stack.callback(file.close)
        limits = str(opened.account.limits)
        told = None if call.ask.aside else call_context(call.settings, call.ask, limits, call.state_dir, call.folder)
        bind(file, opened.shape, fresh, told)
        recover(file, opened.fence, self.context.now(), notify)
        if words := await limiter.enter(file.run["id"], file.starts()):
            notify(Warned("limits-changed", words))
        if lost or file.lost() is not None:
            lost = file.lost_bodies()  # again: recovery has made more batches unknown
        file.sweep_outbox()
        self.stack.callback(_sweep, file)
        return file, lost

    async def _sent(
        self, inputs: Mapping[str, StageInput], binding: Mapping[str, Any], newer: Checkpoint | None
    ) -> list[Sent]:
        """What the older runs have left at the target, the oldest first.

        The settings name one older run. That run may name an even older one, whose records it left out. `newer` is the
        checkpoint that sends now.
        """
        call, notify = self.call, self.context.notify
        found: list[Sent] = []
        chain = list(self._older_runs())
        for at, (path, file) in reversed(list(enumerate(chain))):
            if is_held(path):
                raise Held("not-in-held", f"{path}: its run is still on", "Wait for its end.")
            refuse_stale(path, call.state_dir, file.run["id"], file.run["tick"])
            settings, folder = from_checkpoint(path, file.run["context"], None)
            inputs_then = replace(call, settings=settings, folder=folder).inputs(self.context, file.run["started"])
            older = Older(file, narrowed(inputs_then, found, settings.since, SECOND, ignore))
            older.check(binding if call.ask.dry_run is None else file.run["binding"], newer)
            notify(Waiting("older-run", f"reading what {path} has left at the target"))
            work_file = Path(f"{call.settings.checkpoint}{f'.before-{at}' if at else ''}.not-in")
            sent = await self._reading(partial(make, work_file, older, inputs, SECOND, notify))
            self.stack.callback(sent.left.close)
            self.stack.callback(sent.places.close)
            found.append(sent)
        return found

    def _older_runs(self) -> Iterator[tuple[Path, Checkpoint]]:
        """Open the checkpoint that `not_in` names, read-only, then the one that its own `not_in` names, and so on."""
        name, known = self.call.settings.not_in, set[str]()
        while name:
            path = Path(name)
            file = self._opened_to_read(path)
            if file.run["id"] in known:
                break  # a loop: files were renamed
            known.add(file.run["id"])
            yield path, file
            name = from_checkpoint(path, file.run["context"], None)[0].not_in

    def _store(self, file: Checkpoint, fence: Fence | None) -> Store:
        file.outbox.afterwards = self.stack.enter_context(self.executor()).submit
        self.stack.callback(setattr, file.outbox, "afterwards", at_once)
        writer = CheckpointWriter(file, self.stack.enter_context(self.executor()), fence)
        self.stack.push_async_callback(writer.flush)
        return Store(writer, self._opened_to_read(file.path), self.stack.enter_context(self.executor()))

    async def _reading(self, work: Callable[[Callable[[], bool]], T]) -> T:
        """Run `work` in the thread that reads files. Raises `CancelledError` if the run is stopped meanwhile."""
        found = await asyncio.get_running_loop().run_in_executor(self.thread, work, self.context.stop.is_set)
        if self.context.stopping:
            raise asyncio.CancelledError
        return found

    def _opened_to_read(self, path: Path) -> Checkpoint:
        file = Checkpoint.open(path, read_only=True)
        self.stack.callback(file.close)
        return file


def _sweep(file: Checkpoint) -> None:
    """Delete what no batch needs from the outbox, however the run ended."""
    with suppress(Problem):
        file.sweep_outbox()
