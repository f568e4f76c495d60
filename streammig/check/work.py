"""Run a whole check: scan and read every stage that can be opened, and keep every problem."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from streammig.batching import BatchLimits
from streammig.bodies import room_of_outbox
from streammig.check.plan import disk
from streammig.check.purchases import Purchases, room_of_purchases
from streammig.check.stage import Checked, Line, NoteMaker, Stage
from streammig.context import in_thread
from streammig.dedup import OWNER_TWICE, KeyIndex
from streammig.disk import check_room, own_folder
from streammig.errors import MachineFault, Problem, Unusable
from streammig.fingerprint import shapes
from streammig.inputs import StageInput, make_ready
from streammig.scan import Policies, Tasks, Workers, problems_of, scan_folder
from streammig.scans import to_scan
from streammig.selection import BALANCE_DIFFERS
from streammig.settings import Settings
from streammig.stages import ONCE, STAGES
from streammig.target import TellsFacts
from streammig.telemetry import Notice, Notify, Waiting, Warned


@dataclass(slots=True)
class Check:
    """One check. `inputs` are the stages that could be opened. `write` gets every problem of a record.

    The scans keep their findings beside the checkpoint that the settings name.
    """

    settings: Settings
    inputs: Mapping[str, StageInput]
    notify: Notify
    thread: Executor
    write: Callable[[Line], None] = lambda _: None
    hire: Callable[[int], Workers | None] = lambda size: None  # takes the bytes of the export
    problems: list[Problem] = field(default_factory=list)  # of whole files or stages
    warnings: list[Warned] = field(default_factory=list)
    wrong: frozenset[str] = frozenset()  # codes of warnings that count as problems
    stages: list[Checked] = field(default_factory=list)
    _indexed: bool = True  # whether the disk has room to look for duplicates
    _key: bytes = field(default_factory=partial(os.urandom, 32))

    async def all(self) -> None:
        """Check every stage. Raises `Problem` only if nothing more can be read."""
        if not self.inputs:
            return
        async with AsyncExitStack() as stack:
            self.inputs = await self._grouped()
            folder = scan_folder(Path(self.settings.checkpoint))
            works = {name: self._work(stack, folder, name, it) for name, it in self.inputs.items()}
            for work in works.values():
                stack.callback(work.close)
            workers = await in_thread(self.thread, self._hired, Event())
            if workers is not None:
                stack.callback(workers.leave)
            indexes = await self._scan(stack, works, workers)
            await self._history(indexes)
            tasks = Tasks(workers, Event(), self._hear)
            note_makers = {name: self._note_maker(name, indexes.get(STAGES[0])) for name in works}

            def begin_plans() -> None:
                for name, work in works.items():
                    work.begin_plan(note_makers[name], indexes.get(name), tasks)

            await in_thread(self.thread, begin_plans, tasks.halt)
            for name, work in works.items():
                self.notify(Waiting("planning", f"planning the requests of the {name}"))
                self.stages.append(await in_thread(self.thread, work.settle, tasks.halt))

    async def _grouped(self) -> dict[str, StageInput]:
        """Group single rows, and return the stages that can be read. A stage that can't be grouped is a problem."""
        found = {}
        for name, it in self.inputs.items():
            try:
                await make_ready({name: it.source}, self.thread, self.notify, ())
            except MachineFault as problem:
                self.problems.append(problem)
            else:
                found[name] = it
        return found

    def _work(self, stack: AsyncExitStack, folder: Path, name: str, it: StageInput) -> Stage:
        stage, purchases = self.settings.stage(name), self._purchases(stack, folder, it)
        return Stage(name, it.source, folder, self.write, purchases, None if stage.map else stage.fields)

    def _purchases(self, stack: AsyncExitStack, folder: Path, it: StageInput) -> Purchases | None:
        """Return the index of a stage with purchases; None, with a warning, if the disk has no room for it."""
        if not isinstance(it.rules, TellsFacts) or not it.rules.has_keys:
            return None
        own = sum(mark["length"] for mark in it.source.fingerprints())
        try:
            check_room(folder, {**room_of_purchases(own), **disk(self.settings, self.inputs)})
            own_folder(folder)
            found = Purchases(folder / "purchases", self._key)
        except MachineFault as problem:
            self.warnings.append(Warned(problem.code, f"{problem.what}. Purchases that come twice are not looked for"))
            return None
        stack.callback(found.close)
        return found

    async def _history(self, indexes: Mapping[str, KeyIndex]) -> None:
        """Warn of customers that have a balance and no transactions."""
        customers = indexes.get(STAGES[0])
        if customers is None:
            return
        for name in ONCE & indexes.keys():
            halt = Event()
            count = partial(_without_history, customers, indexes[name], halt)
            found, first = await in_thread(self.thread, count, halt)
            if found:
                said = f"customers with a balance and no {name}: {found:,}; the first is record {first:,}"
                self.warnings.append(Warned("balance-without-history", said))

    def _hired(self) -> Workers | None:
        """Return the workers; None, with a warning, if those in the settings can't be reached."""
        try:
            return self.hire(sum(mark["length"] for it in self.inputs.values() for mark in it.source.fingerprints()))
        except Unusable as problem:
            self.warnings.append(Warned(problem.code, f"{problem.what}; this process does the work. {problem.hint}"))
            return None

    async def _scan(
        self, stack: AsyncExitStack, works: Mapping[str, Stage], workers: Workers | None
    ) -> Mapping[str, KeyIndex]:
        """Read every stage once: its keys go into an index, its notes to `works`."""
        settings, inputs = self.settings, self.inputs
        marks = {name: it.source.fingerprints() for name, it in inputs.items()}
        beside = room_of_outbox(settings, marks, Path(settings.checkpoint))
        jobs = to_scan(settings, inputs, shapes(settings, unchecked=False), None, inputs.keys(), beside, aside=False)
        try:
            check_room(Path(settings.checkpoint).parent, disk(settings, inputs))
        except MachineFault as problem:  # each record is judged nevertheless
            self.problems.append(problem)
            jobs, self._indexed = [replace(it, policy=None) for it in jobs], False
        jobs = [
            replace(it, note_maker_of=partial(self._note_maker, it.name), take_note=works[it.name].take) for it in jobs
        ]
        # An owner's repeated records are problems of their own, each with its place, and stop nothing here.
        policies = Policies(owner_twice="dead-letter", balances="send", not_deleted=settings.customers.not_deleted)
        indexes, found = await problems_of(stack, jobs, self.thread, self._hear, policies, workers)
        self.problems += found
        return indexes

    def _note_maker(self, name: str, customers: KeyIndex | None) -> NoteMaker:
        """Make the note maker of a stage; `customers` is their index."""
        first = name == STAGES[0]
        owners = None if first else customers
        rules = self.inputs[name].rules
        alone = self._indexed and (rules.once or (first and self.settings.duplicates != "none"))
        return NoteMaker(rules, owners, not alone, self._key, BatchLimits(bytes=self.settings.max_bytes))

    def _hear(self, notice: Notice) -> None:
        """Keep a warning for the end; pass on any other notice."""
        if isinstance(notice, Warned):
            self.warnings.append(notice)
        else:
            self.notify(notice)

    @property
    def found(self) -> bool:
        """Whether the check found a problem."""
        warned = any(it.code in self.wrong for it in self.warnings)
        return warned or bool(self.problems) or any(it.dead or it.repeated for it in self.stages)

    def _stops(self) -> list[str]:
        """Return the codes of record problems that stop the run before its first request."""
        found = {kind.code for it in self.stages for kind in it.kinds}
        asked = {BALANCE_DIFFERS: self.settings.balances, OWNER_TWICE: self.settings.transactions.owner_twice}
        return [code for code, policy in asked.items() if policy == "stop" and code in found]

    def files(self) -> dict[str, list[dict[str, Any]]]:
        """Return the files of each stage: name, size in bytes, and hash of head, tail and samples."""
        return {
            name: [
                {"file": it["file"], "bytes": it["size"], "sha256": it["sha256"]} for it in input_.source.fingerprints()
            ]
            for name, input_ in self.inputs.items()
        }

    def document(self, ids: bool = False) -> dict[str, Any]:
        """Return the check as JSON, without values of records; `ids` adds the customers' ids."""
        return {
            "stages": {it.name: it.document(BatchLimits().units, ids) for it in self.stages},
            "stops": self._stops(),
            "problems": [it.json() for it in self.problems],
            "warnings": [{"code": it.code, "what": it.warning, "wrong": it.code in self.wrong} for it in self.warnings],
        }


def _without_history(customers: KeyIndex, others: KeyIndex, halt: Event) -> tuple[int, int]:
    """Count the customers with a balance and no record in `others`; and give the ordinal of the first, 0 if none."""
    places = customers.owners_unknown_to(others, halt.is_set)
    first = next(places, None)
    return (0, 0) if first is None else (1 + sum(1 for _ in places), first.ordinal)
