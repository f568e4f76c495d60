"""Sends again what a verify did not find: customers and transactions, never what the target only counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from streammig.batching import BatchLimits, ranges_of
from streammig.checkpoint import MISSED, Accepted, Beside, Checkpoint, outbox_path
from streammig.dead_letters.replay import WAVE_BYTES, Choice, packed
from streammig.errors import Unusable
from streammig.model import Draft, Record, add_up
from streammig.retrying import Retry
from streammig.run import Run
from streammig.target import Rules
from streammig.verify.accepted import Passage
from streammig.verify.work import Item, Work


@dataclass(frozen=True, slots=True)
class Resend:
    """One call of `retry --missing`. A unit is missing until the transaction that seals it in a new batch, and from
    then on it is sent like any other: whatever interrupts it, the same call goes on."""

    run: Run
    state_folder: Path

    async def all(self) -> bool:
        """Send all that is missing; False if stopped before. Raises like a run."""
        retry, read = Retry(self.run, Choice()), self.run.reading.read
        run_id: str = (await self.run.store.read(lambda file: file.run))["id"]
        places = await read(Work, self.state_folder / f"missing-{run_id}.sqlite")
        with closing(places):
            for name in self.run.reading.inputs:
                if self.run.target.readback.proves(name) and not await self._stage(name, retry, places):
                    return False
            await read(places.forget)
        return True

    async def _stage(self, name: str, retry: Retry, places: Work) -> bool:
        run = self.run
        await retry.finish(name)
        if mappings := await run.store.read(lambda file: file.mappings(name, MISSED)):
            it = run.reading.inputs[name]
            if mappings != {it.mapping}:
                raise Unusable(
                    "mapping-changed",
                    f"{name}: the mapping is not the one that made the missing records: nothing of them was sent",
                    "Put the mapping back that made them. Or verify again: then they are not comparable, and are not"
                    " sent.",
                )
            await run.reading.read(self._note, name, places)
            items = Passage(name, it.source, it.rules, places.ranges).items(await run.reading.read(places.first, name))
            while wave := await run.reading.read(_wave, items):
                outbox = outbox_path(run.reading.lookup.path)
                drafts = await run.reading.read(_drafts, wave, it.rules, run.settings.max_bytes, outbox)
                await run.store.write(partial(_seal, name, _taken(wave), drafts, it.mapping, run.context.now()))
                await retry.deliver(name)
                if run.context.stopping:
                    return False
        return not run.context.stopping and await retry.shown(name)

    def _note(self, name: str, places: Work) -> None:
        """Note the places of what is missing of a stage: what was sent since is missing no more."""
        missing = self.run.reading.lookup.beside(name, MISSED)
        batches = (Accepted(it.seq, it.ranges, it.tally, "", False, 0.0) for it in missing)
        places.begin("", {name: batches})


def _wave(items: Iterator[Item]) -> list[Item]:
    """So many of them as are held at a time."""
    found, size = [], 0
    for item in items:
        found.append(item)
        size += len(item.record.body)
        if size >= WAVE_BYTES:
            break
    return found


def _taken(wave: Sequence[Item]) -> list[Beside]:
    """What of each batch is taken."""
    homes: dict[int, list[Record]] = {}
    for it in wave:
        homes.setdefault(it.seq, []).append(it.record)
    return [Beside(seq, ranges_of(records), add_up(it.tally for it in records)) for seq, records in homes.items()]


def _drafts(wave: Sequence[Item], rules: Rules, most: int, outbox: Path) -> list[Draft]:
    """Batches of these records, all of an owner in one of them, their bodies in the outbox."""
    owners: dict[str, list[Record]] = {}
    for it in wave:
        owners.setdefault(it.record.owner, []).append(it.record)
    return [draft for draft, _ in packed(owners.values(), rules, BatchLimits(bytes=most), outbox)]


def _seal(
    stage: str, taken: Sequence[Beside], drafts: Sequence[Draft], mapping: str, at: float, file: Checkpoint
) -> None:
    file.seal_missing(stage, taken, drafts, mapping, at)
