"""The whole check: every stage that can be opened is scanned and read, and every problem is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from streammig.batching import BatchLimits
from streammig.bodies import room_of_outbox
from streammig.check.stage import Checked, Line, read_stage, rules_of_run
from streammig.context import in_thread
from streammig.dedup import KeyIndex
from streammig.errors import Problem
from streammig.fingerprint import shapes
from streammig.inputs import StageInput, make_ready
from streammig.scan import Pace, Policies, problems_of
from streammig.scan_plan import to_scan
from streammig.settings import Settings
from streammig.stages import STAGES
from streammig.telemetry import Notice, Notify, Warned


@dataclass(slots=True)
class Check:
    """One check. `inputs` are the stages that could be opened. `write` gets every problem of a record. The
    scans keep their findings beside the settings' checkpoint."""

    settings: Settings
    inputs: Mapping[str, StageInput]
    notify: Notify
    thread: Executor
    write: Callable[[Line], None] = lambda _: None
    problems: list[Problem] = field(default_factory=list)  # of whole files or stages
    warnings: list[Warned] = field(default_factory=list)
    wrong: frozenset[str] = frozenset()  # codes of warnings without which a run can't go well
    stages: list[Checked] = field(default_factory=list)

    async def all(self) -> None:
        """Check every stage. Raises `Problem` only where no further reading is possible."""
        if not self.inputs:
            return
        async with AsyncExitStack() as stack:
            await make_ready({name: it.source for name, it in self.inputs.items()}, self.thread, self.notify, ())
            indexes = await self._scan(stack)
            for name, it in self.inputs.items():
                self.stages.append(await self._read(name, it, indexes))

    async def _scan(self, stack: AsyncExitStack) -> Mapping[str, KeyIndex]:
        settings, inputs = self.settings, self.inputs
        marks = {name: it.source.fingerprints() for name, it in inputs.items()}
        beside = room_of_outbox(settings, marks, Path(settings.checkpoint))
        jobs = to_scan(settings, inputs, shapes(settings, unchecked=False), None, inputs.keys(), beside, aside=False)
        # An owner's repeated records are problems of their own, each with its place, and stop nothing here.
        policies = Policies(owner_twice="dead-letter", balances="send", not_deleted=settings.customers.not_deleted)
        indexes, found = await problems_of(stack, jobs, self.thread, self._hear, policies)
        self.problems += found
        return indexes

    async def _read(self, name: str, it: StageInput, indexes: Mapping[str, KeyIndex]) -> Checked:
        tell = Pace(self.notify).telling(f"checking the {name}", it.source)
        limits = BatchLimits(bytes=self.settings.max_bytes)
        rules, halt = rules_of_run(name, it, STAGES[0], indexes), Event()
        read = partial(read_stage, name, it.source, rules, it.rules, limits, tell, self.write, halt)
        return await in_thread(self.thread, read, halt)

    def _hear(self, notice: Notice) -> None:
        """Keep a warning for the end, and pass any other notice on at once."""
        if isinstance(notice, Warned):
            self.warnings.append(notice)
        else:
            self.notify(notice)

    @property
    def found(self) -> bool:
        """Whether anything is wrong."""
        return bool(
            any(it.code in self.wrong for it in self.warnings) or self.problems or any(it.dead for it in self.stages)
        )

    def files(self) -> dict[str, list[dict[str, Any]]]:
        """The files of each stage: their names, sizes in bytes, and hashes of head, tail and samples."""
        return {
            name: [
                {"file": it["file"], "bytes": it["size"], "sha256": it["sha256"]} for it in input_.source.fingerprints()
            ]
            for name, input_ in self.inputs.items()
        }

    def document(self, ids: bool = False) -> dict[str, Any]:
        """As JSON, without the values of records; with `ids` of customers if asked for."""
        return {
            "stages": {it.name: it.document(BatchLimits().units, ids) for it in self.stages},
            "problems": [it.json() for it in self.problems],
            "warnings": [{"code": it.code, "what": it.warning, "wrong": it.code in self.wrong} for it in self.warnings],
        }
