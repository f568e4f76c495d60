"""Verifies a run: reads back what the target accepted, all or a sample, and compares it with the export."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from streammig.checkpoint import Accepted, Checkpoint
from streammig.errors import Unusable, counted
from streammig.model import add_up
from streammig.run import Run
from streammig.telemetry import Waiting
from streammig.verify.accepted import Passage
from streammig.verify.looks import Looks
from streammig.verify.sample import chosen
from streammig.verify.verdict import Told, Verdict, summary
from streammig.verify.work import Item, Work, work_path

Batches = Mapping[str, Sequence[Accepted]]


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
        store, read = self.run.store, self.run.reading.read
        accepted, aside = await store.read(self._batches)
        if not any(it.tally.units for batches in accepted.values() for it in batches):
            raise Unusable(
                "nothing-accepted",
                "nothing of this run was accepted that can be compared: there is nothing to verify",
                "See what the run has done: streammig status CHECKPOINT",
            )
        run_id: str = (await store.read(lambda file: file.run))["id"]
        work = await read(Work, work_path(self.state_folder, run_id))
        with closing(work):
            await read(work.begin, self._binding(accepted), accepted)
            looks = await self._looks(work, accepted)
            if not await looks.all():
                return None
            found = await self._keep(work, accepted, aside)
            await read(work.forget)
        return found

    def _batches(self, file: Checkpoint) -> tuple[Batches, dict[str, int]]:
        """By stage, the accepted batches that can be compared, and how many units can't be."""
        found: dict[str, list[Accepted]] = {}
        aside = {}
        for name, read in self.run.reading.inputs.items():
            batches = list(file.accepted(name))
            found[name] = [it for it in batches if it.mapping == read.mapping and not it.letters]
            aside[name] = sum(it.tally.units for it in batches) - sum(it.tally.units for it in found[name])
        return found, aside

    def _binding(self, accepted: Batches) -> str:
        """What a verify depends on: it goes on from an interrupted one only where this is the same."""
        sizes = {name: [len(it), sum(each.tally.units for each in it)] for name, it in accepted.items()}
        mappings = {name: it.mapping for name, it in self.run.reading.inputs.items()}
        return json.dumps([self.count, sizes, mappings])

    async def _looks(self, work: Work, accepted: Batches) -> Looks:
        known: dict[str, set[tuple[int, ...]]] = {}
        for it in await self.run.store.read(Checkpoint.findings):
            known.setdefault(it.stage, set()).add((it.source, it.offset))
        base = next(name for name, batches in accepted.items() if any(each.tally.units for each in batches))
        picked = None
        if self.count is not None:
            self.run.context.notify(Waiting("choosing", f"choosing {counted(self.count, 'record')} of {base}"))
            picked = await self.run.reading.read(self._picked, work, accepted[base], base, known.get(base, set()))
        whole = 0
        for name, batches in accepted.items():
            held = add_up(it.tally for it in batches).records
            if self.run.target.readback.proves(name):
                whole += min(held, len(picked)) if picked is not None else held
        return Looks(self.run, work, accepted, base, picked, whole, known)

    def _picked(
        self, work: Work, batches: Sequence[Accepted], base: str, known: Container[tuple[int, ...]]
    ) -> list[Item]:
        """The sample with the `known` records, in reading order, each owner once. The same run gives the same sample,
        so that a verify can go on."""
        rng = Random(self.run.reading.lookup.run["id"])
        wanted = chosen([it.tally.units for it in batches], self.count or 0, rng)
        units = {batches[at].seq: numbers for at, numbers in wanted.items()}
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

    async def _keep(self, work: Work, accepted: Batches, aside: Mapping[str, int]) -> dict[str, Any]:
        """Keep the result in the checkpoint, in one transaction."""
        proves = self.run.target.readback.proves
        settled = {(name, it.seq): it.settled for name, batches in accepted.items() for it in batches}

        def keep(file: Checkpoint) -> dict[str, Any]:
            seen = max(work.seen, file.seen_until())
            verdict = Verdict(settled, seen, proves, self.tell)
            findings = list(verdict.findings(work.suspects()))
            done = {name: work.progress(name) for name in accepted}
            looked = {name: it.looked for name, it in done.items() if it.looked or proves(name)}
            left = {n: {"not_readable": done[n].unread, "not_comparable": aside[n]} for n in looked}
            found = summary(looked, verdict.counts, left, self.count is not None)
            file.note_verified(found, self.run.context.now(), seen, verdict.missing(work.suspects()), findings)
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
