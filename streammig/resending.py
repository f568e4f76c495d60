"""Sends again what a verify did not find: customers and transactions, never what the target only counts."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from streammig.batching import BatchLimits, ranges_of
from streammig.checkpoint import Beside, Checkpoint, outbox_path
from streammig.dead_letters.replay import WAVE_BYTES, packed
from streammig.errors import Unusable
from streammig.model import Batch, Draft, Range, Record, add_up
from streammig.retrying import is_sealed, shown
from streammig.run import Run
from streammig.verify.accepted import Passage
from streammig.verify.work import Item


@dataclass(frozen=True, slots=True)
class _Wave:
    """What is sent again in one commit: what of each batch is taken, and the batches, all of an owner in one."""

    taken: list[Beside]
    drafts: list[Draft]
    progress: None = None  # the export is not read on

    def commit(self, file: Checkpoint, stage: str, at: float, mapping: str) -> list[Batch]:
        return file.seal_missing(stage, self.taken, self.drafts, mapping, at)


@dataclass(frozen=True, slots=True)
class Resend:
    """One call of `retry --missing`. A unit is missing until the transaction that seals it in a new batch, and from
    then on it is sent like any other: whatever interrupts it, the same call goes on."""

    run: Run

    async def all(self) -> bool:
        """Send all that is missing; False if stopped before. Raises like a run."""
        for name in self.run.reading.inputs:
            if self.run.target.readback.proves(name) and not await self._stage(name):
                return False
        return True

    async def _stage(self, name: str) -> bool:
        run = self.run
        missing = await run.store.read(lambda file: file.beside(name, "missing"))
        if missing:
            await self._check(name, missing)
        if missing or await is_sealed(run, name):
            await run.retry(name, self._waves(name, missing))
        return not run.context.stopping and await shown(run, name)

    def _waves(self, name: str, missing: Sequence[Beside]) -> Iterator[_Wave]:
        run, rules = self.run, self.run.reading.inputs[name].rules
        items = self._items(name, missing) if missing else iter(())
        limits = BatchLimits(bytes=run.settings.max_bytes)
        while (wave := _held(items)) and not run.context.stopping:
            owners: dict[str, list[Record]] = {}
            for it in wave:
                owners.setdefault(it.record.owner, []).append(it.record)
            drafts = packed(owners.values(), rules, limits, outbox_path(run.reading.lookup.path))
            yield _Wave(_taken(wave), [draft for draft, _ in drafts])

    async def _check(self, name: str, missing: Sequence[Beside]) -> None:
        """Raise `Unusable` where the mapping is not the one that made what is missing."""
        made = {it.seq: it.mapping for it in await self.run.store.read(lambda file: list(file.accepted(name)))}
        if any(made[it.seq] != self.run.reading.inputs[name].mapping for it in missing):
            raise Unusable(
                "mapping-changed",
                f"{name}: the mapping is not the one that made the missing records: nothing of them was sent",
                "Put the mapping back that made them. Or verify again: then they are not comparable, and are not sent.",
            )

    def _items(self, name: str, missing: Sequence[Beside]) -> Iterator[Item]:
        pairs = sorted((piece, it.seq) for it in missing for piece in it.ranges)
        begins = [piece.begin[:2] for piece, _ in pairs]

        def ranges(_: str, source: int, begin: int, end: int) -> tuple[list[Range], list[int]]:
            low, high = bisect_left(begins, (source, begin)), bisect_right(begins, (source, end))
            return [piece for piece, _ in pairs[low:high]], [seq for _, seq in pairs[low:high]]

        it = self.run.reading.inputs[name]
        return Passage(name, it.source, it.rules, ranges).items(pairs[0][0].begin._replace(unit=0))


def _held(items: Iterator[Item]) -> list[Item]:
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
