"""The inputs of a run: the source and rules of each stage, and which of its records are sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from types import MappingProxyType
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar

from streammig.checkpoint import MISSED, Checkpoint, Store
from streammig.context import in_thread
from streammig.dedup import KeyIndex, absent, owners_twice, repeated
from streammig.errors import UnknownOutcome, Unusable
from streammig.fields import FieldMapping
from streammig.grouping import GroupedSource, OfRows, grouped_folder
from streammig.mapping import mapping_mark
from streammig.model import START, BatchState, Place, Range, Record
from streammig.reader import FIRST, first_objects, first_records, owners_until
from streammig.scan import ScanProgress
from streammig.selection import UNDECIDED, Absent, WithBalance, WithoutRepeated, WithOwners
from streammig.settings import Settings
from streammig.sources import FileSource, Form, check_form, open_source, parse_input
from streammig.sources.source import Source
from streammig.target import Judges, Rules, Stage
from streammig.telemetry import Grouping, Notify, Warned

P = ParamSpec("P")
T = TypeVar("T")


class StageInput(NamedTuple):
    """The source and the rules of a stage."""

    source: Source
    rules: Rules
    mapping: str  # hash of the mapping; "" without one

    @classmethod
    def of(cls, source: Source, rules: Rules, mapping: str) -> StageInput:
        """Make an input. A file source gets the rules' judge, which then works while records are framed."""
        if isinstance(source, FileSource) and isinstance(rules, Judges):
            source = source.judged_by(rules.judge)
        return cls(source, rules, mapping)


def open_sources(
    settings: Settings, mappings: Mapping[str, Callable[[Any], Any] | None], *, accept_broken: bool
) -> dict[str, Source]:
    """Open the source of each stage that has files. Raises `Unusable`."""
    sources: dict[str, Source] = {}
    for name in settings.stages:
        stage = settings.stage(name)
        form = Form(stage.delimiter, stage.encoding, stage.keyed)
        check_form(f"[{name}]", form)
        inputs = [parse_input(text) for text in stage.files]
        most = settings.max_record_bytes
        source = open_source(inputs, max_record_bytes=most, form=form, accept_broken=accept_broken)
        mapping = mappings[name]
        own = mapping.mapping if isinstance(mapping, OfRows) else mapping
        if isinstance(own, FieldMapping) and source.header is not None:
            own.check_columns(source.header)
        if isinstance(mapping, OfRows):
            folder = grouped_folder(Path(settings.checkpoint)) / name
            mark = mapping_mark(mapping)
            sources[name] = GroupedSource(
                source, mapping, name, folder, limit=most, mark=mark, accept_broken=accept_broken
            )  # fmt: skip
        else:
            sources[name] = source
    if not sources:
        raise Unusable(
            "no-input",
            "there is nothing to migrate: no stage has a file",
            "Name one with --customers, --events or --transactions, or in a settings file.",
        )
    return sources


async def make_ready(
    sources: Mapping[str, Source], thread: Executor, notify: Notify, begun: Collection[str],
    mappings: Mapping[str, Callable[[Any], Any] | None] = MappingProxyType({}),
) -> bool:  # fmt: skip
    """Prepare the sources before they are read: group rows, and warn of source fields that no record has.

    `begun`: stages with records that may have been sent. A cancel keeps the groups made so far. Returns True, to
    tell the end from a stop in `until_stopped`.
    """
    for name, source in sources.items():
        if isinstance(source, GroupedSource):
            await _group(name, source, thread, notify, begun=name in begun)
        elif isinstance(source, FileSource) and name not in begun:
            await _warn_of_unseen(name, source, mappings.get(name), thread, notify)
    return True


async def _group(name: str, source: GroupedSource, thread: Executor, notify: Notify, *, begun: bool) -> None:
    loop = asyncio.get_running_loop()
    if await loop.run_in_executor(thread, partial(source.is_made, begun=begun)):
        return
    room = await loop.run_in_executor(thread, source.room)
    notify(Grouping(name, str(source.folder), room))
    tell, halt = ScanProgress(notify).tracker(f"grouping the {name}", source.rows), Event()
    await in_thread(thread, partial(source.make, lambda span: tell(span.end), halt.is_set), halt)


async def _warn_of_unseen(
    name: str, source: FileSource, mapping: Callable[[Any], Any] | None, thread: Executor, notify: Notify
) -> None:
    """Warn of each source field that none of the first records has. For a table, `check_columns` has done this."""
    if not isinstance(mapping, FieldMapping) or source.header:
        return
    unseen = partial(mapping.unseen, first_objects(source))
    for field, near in await asyncio.get_running_loop().run_in_executor(thread, unseen):
        text = f"[{name}]: none of the first {FIRST:,} records has the field {field}."
        notify(Warned("field-unseen", text + (f" Is {near} meant?" if near else "")))


@dataclass(frozen=True, slots=True)
class Reading:
    """The sources of a run, and everything that decides which of their records are sent."""

    stages: Sequence[Stage]  # of the target; `inputs` has those of the run
    inputs: Mapping[str, StageInput]
    indexes: Mapping[str, KeyIndex]  # of the customers and of each once-only stage; empty without a scan
    store: Store
    lookup: Checkpoint  # the same checkpoint, read-only, for `thread`
    thread: Executor  # one thread, which reads all files
    left: Sequence[Left] = ()  # what older runs have left at the target
    balanced: bool = False  # leave out once-only records that do not add up to their owner's balance

    async def read(self, work: Callable[P, T], *arguments: P.args, **more: P.kwargs) -> T:
        """Run `work`, which reads files, in the thread."""
        return await asyncio.get_running_loop().run_in_executor(self.thread, partial(work, *arguments, **more))

    @property
    def owners(self) -> str:
        """The stage of the owners (customers)."""
        return self.stages[0].name

    async def rules(self, name: str, sealed: Sequence[Range] = ()) -> Rules:
        """The rules of a stage with everything around them that leaves records out.

        `sealed`: ranges of records that are in a batch already, and stay in it. Raises like `undecided`.
        """
        undecided = await self.undecided() if name != self.owners else frozenset[str]()
        return await self._rules(name, undecided, sealed)

    async def _rules(self, name: str, undecided: frozenset[str], sealed: Sequence[Range] = ()) -> Rules:
        rules, index = self.inputs[name].rules, self.indexes.get(name)
        marks = self.inputs[name].source.fingerprints()
        if name == self.owners:
            return rules if index is None else WithoutRepeated(rules, partial(repeated, index, marks))
        elsewhere = self.owners in self.indexes or bool(self.left)
        if undecided or elsewhere or await self.store.read(Checkpoint.has_absent):
            rules = WithOwners(rules, self.absent(undecided), sealed)
        if index is not None:
            rules = WithoutRepeated(rules, partial(owners_twice, index, marks))
        if index is not None and self.balanced and self.owners in self.indexes:
            rules = WithBalance(rules, self.inputs[name].rules, self.indexes[self.owners])
        return rules

    def absent(self, undecided: frozenset[str]) -> Absent:
        """A function that names the customers who will not be at the target, or may not be: the `undecided`."""
        known: Absent = partial(absent, self.indexes.get(self.owners), self.lookup)
        for left in self.left:
            known = partial(absent_but_left, known, left, self.owners)
        return partial(absent_or_undecided, known, undecided)

    async def undecided(self) -> frozenset[str]:
        """The customers of parked batches. They may be missing at the target.

        Raises `UnknownOutcome` if a parked batch has lost its body, so that its customers are not known.
        """
        parked = await self.store.read(lambda file: file.batches(self.owners, BatchState.PARKED))
        if await self.store.read(lambda file: [it for it in parked if not file.outbox.holds(it)]):
            await self.decided(self.owners)
        return frozenset([record.owner for batch in parked for record in await self.store.records(batch)])

    async def decided(self, name: str) -> None:
        """Raise `UnknownOutcome` if a stage has a batch with an unknown outcome."""
        states = (BatchState.UNKNOWN, BatchState.PARKED)
        left = await self.store.read(lambda file: file.batches(name, *states))
        if left:
            numbers = ", ".join(str(batch.seq) for batch in left[:20])
            raise UnknownOutcome(
                "outcome-unknown",
                f"{name}: the outcome of batch{'es' if len(left) > 1 else ''} {numbers} is unknown",
                f"Not sent again. Show what is known, and decide: {self.store.command('resolve')}",
            )

    async def first(self, name: str, count: int, start: Place = START, sealed: Sequence[Range] = ()) -> list[Record]:
        """As the function `first_records`, by the rules of this run once everything is decided."""
        rules = await self._rules(name, frozenset())
        return await self.read(first_records, self.inputs[name].source, rules, count, start, sealed)

    async def unchanged(self) -> None:
        """Raise `Unusable` if a file has changed since the run began."""
        for it in self.inputs.values():
            await self.read(it.source.unchanged)

    async def pilots(self, name: str) -> set[str] | None:
        """The customers that a pilot has sent; records of others must wait. None if no record has to wait."""
        if name == self.owners or self.owners not in self.inputs:
            return None
        rows = await self.store.read(Checkpoint.stages)
        if any(row.name == self.owners and row.state == "complete" for row in rows):
            return None
        frontier = await self.store.read(lambda file: file.progress(self.owners).frontier)
        owners = await self.read(owners_until, self.inputs[self.owners].source, await self.rules(self.owners), frontier)
        return owners - self.lookup.absent_reasons(owners).keys()


class Left(Protocol):
    """What an older run has left at the target: `Left` of `streammig.not_in`."""

    def present(self, stage: str, owners: Iterable[str]) -> Mapping[str, bytes]: ...
    def missing(self, owners: Iterable[str]) -> set[str]: ...


def absent_but_left(known: Absent, left: Left, stage: str, owners: Iterable[str]) -> Mapping[str, str]:
    """As `known`, without owners that an older run has sent, and with those of them that are missing at the target."""
    asked = list(owners)
    found = known(asked)
    there = left.present(stage, found) if found else {}
    lost = dict.fromkeys(left.missing(asked), MISSED)
    return {owner: why for owner, why in found.items() if owner not in there} | lost


def absent_or_undecided(known: Absent, undecided: frozenset[str], owners: Iterable[str]) -> Mapping[str, str]:
    """As `known`, with the undecided owners."""
    asked = list(owners)
    return {owner: UNDECIDED for owner in asked if owner in undecided} | dict(known(asked))
