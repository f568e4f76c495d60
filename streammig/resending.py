"""Sends missing records again: customers and transactions that a verify did not find. Never events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from streammig.batching import BatchLimits, ranges_of
from streammig.checkpoint import MISSED, Accepted, Beside, Checkpoint, outbox_path
from streammig.dead_letters.replay import WAVE_BYTES, pack_batches
from streammig.errors import Unusable
from streammig.model import Batch, Draft, Record, add_up
from streammig.retrying import is_sealed, shown
from streammig.run import Run
from streammig.verify.accepted import Passage
from streammig.verify.work import Item, Work


@dataclass(frozen=True, slots=True)
class _Wave:
    """One commit's worth of missing records."""

    taken: list[Beside]  # the part of each old batch that is missing
    drafts: list[Draft]  # new batches; all records of an owner are in the same one
    progress: None = None  # reads no new part of the export

    def commit(self, file: Checkpoint, stage: str, at: float, mapping: str) -> list[Batch]:
        return file.seal_missing(stage, self.taken, self.drafts, mapping, at)


async def resend(run: Run, state_folder: Path) -> bool:
    """Send all missing records. False if stopped. Raises like a run.

    After any interruption the same call resumes: one transaction moves missing units into a batch like any other.
    """
    read = run.reading.read
    run_id: str = (await run.store.read(lambda file: file.run))["id"]
    places = await read(Work, state_folder / f"missing-{run_id}.sqlite")
    with closing(places):
        for name in run.reading.inputs:
            if run.target.readback.proves(name) and not await _stage(run, name, places):
                return False
        await read(places.forget)
    return True


async def _stage(run: Run, name: str, places: Work) -> bool:
    mappings = await run.store.read(lambda file: file.mappings(name, MISSED))
    if mappings - {run.reading.inputs[name].mapping}:
        raise Unusable(
            "mapping-changed",
            f"{name}: the mapping has changed since the missing records were made: none of them was sent",
            "Restore the earlier mapping. Or verify again: then they are not comparable, and are not sent.",
        )
    if mappings or await is_sealed(run, name):
        await run.reading.read(_note, run.reading.lookup, name, places)
        await run.retry(name, _waves(run, name, places))
    return not run.context.stopping and await shown(run, name)


def _note(lookup: Checkpoint, name: str, places: Work) -> None:
    """Write the places of a stage's missing records to the work file, in place of those of an earlier call."""
    batches = (Accepted(it.seq, it.ranges, it.tally, "", False, 0.0) for it in lookup.beside(name, MISSED))
    places.begin("", {name: batches})


def _waves(run: Run, name: str, places: Work) -> Iterator[_Wave]:
    source, rules, _ = run.reading.inputs[name]
    first = places.first(name)
    items = iter(()) if first is None else Passage(name, source, rules, places.ranges).items(first)
    limits = BatchLimits(bytes=run.settings.max_bytes)
    while (wave := _held(items)) and not run.context.stopping:
        owners: dict[str, list[Record]] = {}
        for it in wave:
            owners.setdefault(it.record.owner, []).append(it.record)
        drafts = pack_batches(owners.values(), rules, limits, outbox_path(run.reading.lookup.path))
        yield _Wave(_taken(wave), [draft for draft, _ in drafts])


def _held(items: Iterator[Item]) -> list[Item]:
    """The next items, up to the size of a wave."""
    found, size = [], 0
    for item in items:
        found.append(item)
        size += len(item.record.body)
        if size >= WAVE_BYTES:
            break
    return found


def _taken(wave: Sequence[Item]) -> list[Beside]:
    """The part of each old batch that these items are."""
    homes: dict[int, list[Record]] = {}
    for it in wave:
        homes.setdefault(it.seq, []).append(it.record)
    return [Beside(seq, ranges_of(records), add_up(it.tally for it in records)) for seq, records in homes.items()]
