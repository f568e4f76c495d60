"""Verifies a run: reads back what the target accepted, all or a sample, and compares it with the export."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from streammig.checkpoint import Accepted, Checkpoint
from streammig.errors import Unusable, counted
from streammig.run import Run
from streammig.telemetry import Waiting
from streammig.verify.accepted import Passage
from streammig.verify.looks import Looks
from streammig.verify.sample import chosen
from streammig.verify.verdict import Told, Verdict, summary
from streammig.verify.work import Item, Work, work_path

KNOWN = 100_000  # records that differed in an earlier verify, of those a sample looks at again


class Held(NamedTuple):
    """What a stage's accepted batches hold that can be compared: batches, records and units; and units that can't be
    (`aside`)."""

    batches: int = 0
    records: int = 0
    units: int = 0
    aside: int = 0


@dataclass(frozen=True, slots=True)
class Verifier:
    """One verify of a run: a sample of `count` customers with all that belongs to them, or all where it is None.

    A record that the first look does not find as it was sent gets a second look, a settle time later. After an
    interruption the same verify goes on from its file in the state folder. `tell` gets each difference, with values.
    """

    run: Run
    count: int | None
    state_folder: Path
    tell: Callable[[Told], None] = lambda told: None

    async def verify(self) -> dict[str, Any] | None:
        """The summary, once it is in the checkpoint; None if stopped before. Raises `Unusable` where nothing was
        accepted, and what a run raises."""
        read = self.run.reading.read
        held = await read(self._held)
        if not any(it.units for it in held.values()):
            raise Unusable(
                "nothing-accepted",
                "nothing of this run was accepted that can be compared: there is nothing to verify",
                f"See what the run has done: {self.run.store.command('status')}",
            )
        run_id: str = (await self.run.store.read(lambda file: file.run))["id"]
        work = await read(Work, work_path(self.state_folder, run_id))
        mappings = {name: it.mapping for name, it in self.run.reading.inputs.items()}
        binding = json.dumps([self.count, held, mappings])  # an interrupted verify goes on where this is the same
        with closing(work):
            await read(work.begin, binding, {name: self._comparable(name) for name in held})
            looks = await self._looks(work, held)
            if not await looks.all():
                return None
            found = await self._keep(work, held)
            await read(work.forget)
        return found

    def _comparable(self, name: str) -> Iterator[Accepted]:
        """The accepted batches of a stage that can be compared, one after the other."""
        mapping = self.run.reading.inputs[name].mapping
        return (it for it in self.run.reading.lookup.accepted(name) if it.mapping == mapping and not it.letters)

    def _held(self) -> dict[str, Held]:
        found = {}
        for name in self.run.reading.inputs:
            whole = sum(it.tally.units for it in self.run.reading.lookup.accepted(name))
            batches = records = units = 0
            for it in self._comparable(name):
                batches, records, units = batches + 1, records + it.tally.records, units + it.tally.units
            found[name] = Held(batches, records, units, whole - units)
        return found

    async def _looks(self, work: Work, held: Mapping[str, Held]) -> Looks:
        known: dict[str, set[tuple[int, ...]]] = {}
        for found in await self.run.store.read(lambda file: list(islice(file.findings(), KNOWN))):
            known.setdefault(found.stage, set()).add((found.source, found.offset))
        base = next(name for name, it in held.items() if it.units)
        picked = None
        if self.count is not None:
            self.run.context.notify(Waiting("choosing", f"choosing {counted(self.count, 'record')} of {base}"))
            picked = await self.run.reading.read(self._picked, work, base, known.get(base, set()))
        whole = 0
        for name, it in held.items():
            if self.run.target.readback.proves(name):
                whole += min(it.records, len(picked)) if picked is not None else it.records
        return Looks(self.run, work, list(held), base, picked, whole, known)

    def _picked(self, work: Work, base: str, known: Container[tuple[int, ...]]) -> list[Item]:
        """The sample with the `known` records, in reading order, each owner once. The same run gives the same sample,
        so that a verify can go on."""
        rng, sizes = Random(self.run.reading.lookup.run["id"]), work.sizes(base)
        seqs = [*sizes]
        units = {seqs[at]: numbers for at, numbers in chosen([*sizes.values()], self.count or 0, rng).items()}
        it = self.run.reading.inputs[base]
        passed: dict[int, int] = {}
        found: dict[str, Item] = {}
        for item in Passage(base, it.source, it.rules, work.ranges).items():
            begin = passed.get(item.seq, 0)
            passed[item.seq] = end = begin + item.record.units
            drawn = any(begin <= number < end for number in units.get(item.seq, ()))
            if drawn or item.place[:2] in known:
                found.setdefault(item.record.owner, item)
            if self.run.context.stopping:
                break
        return list(found.values())

    async def _keep(self, work: Work, held: Mapping[str, Held]) -> dict[str, Any]:
        """Keep the result in the checkpoint, in one transaction. The suspects are gone through one by one."""
        proves = self.run.target.readback.proves

        def keep(file: Checkpoint) -> dict[str, Any]:
            seen = max(work.seen, file.seen_until())
            verdict = Verdict(work.settled, seen, proves)
            counts = verdict.counts(work.suspects(), self.tell)
            done = {name: work.progress(name) for name in held}
            looked = {name: it.looked for name, it in done.items() if it.looked or proves(name)}
            left = {n: {"not_readable": done[n].unread, "not_comparable": held[n].aside} for n in looked}
            found = summary(looked, counts, left, self.count is not None)
            missing, findings = verdict.missing(work.suspects()), verdict.findings(work.suspects())
            file.note_verified(found, self.run.context.now(), seen, missing, findings)
            return found

        return await self.run.store.write(keep)


async def run_and_look(run: Run, state_folder: Path) -> bool:
    """Run, then verify the sample that the settings ask for, unless a verify is newer than the run. As `Run.run`."""
    whole, count = await run.run(), run.settings.verify_sample
    if not (whole and count and run.context.times.settle):
        return whole
    last = await run.store.read(lambda file: file.verification())
    accepted = await run.store.read(lambda file: any(list(file.accepted(row.name)) for row in file.stages()))
    if accepted and (last is None or last["outdated"]):
        return await Verifier(run, count, state_folder).verify() is not None
    return whole
