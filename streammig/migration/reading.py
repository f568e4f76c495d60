"""What a run reads: which records are sent, what sealed batches hold, and what takes the place of one that changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar

from streammig.aftercare.retry import buried_retried, reread_retried, spot_of
from streammig.checkpoint import Checkpoint, Journal, Spot
from streammig.dedup import RESEALED, KeyIndex, absent, repeated
from streammig.delivery.courier import Anew
from streammig.errors import Unusable
from streammig.feed import Absent, Judge, examined_again, first_records, nobody_absent, otherwise, reread, reseal
from streammig.migration.binding import fixed
from streammig.packing import BatchLimits
from streammig.ports import Rules, Source
from streammig.records import START, Batch, BatchState, DeadLetter, Place, Range, Record, add_up
from streammig.settings import Settings
from streammig.telemetry import Notify, Warned

P = ParamSpec("P")
T = TypeVar("T")

AS_IT_WAS = (
    "It was not sent again. Take the mapping, and the version, that it was sealed with, and run the same command; what"
    " another mapping would make of the rest can be migrated with a checkpoint of its own."
)


class LeftOut(NamedTuple):
    """What of a batch's records is not sent: dead letters that were none when it was sealed, owners that the target
    will lack, and how many customers a mapping leaves out, of whom nobody knows who they are."""

    dead: list[DeadLetter]
    absent: set[str]
    unnamed: int


@dataclass(frozen=True, slots=True)
class Reading:
    """The sources of a run with all that decides what comes out of them. Files are read in one thread, `thread`."""

    settings: Settings
    path: Path
    lookup: Checkpoint  # the same file, opened to read, for the thread
    journal: Journal
    sources: Mapping[str, Source]
    rules: Mapping[str, Rules]
    owners: KeyIndex | None  # None where it was left out, or no customers are in the run
    thread: Executor
    tell: Notify

    async def read(self, work: Callable[P, T], *arguments: P.args, **more: P.kwargs) -> T:
        """Do in the thread what reads files."""
        return await asyncio.get_running_loop().run_in_executor(self.thread, partial(work, *arguments, **more))

    async def judge(self, name: str, sealed: Sequence[Range] = ()) -> Judge:
        """What says which records of a stage are sent by the run, beside those that are `sealed` already."""
        rules = self.rules[name]
        if name == "customers":
            return Judge(rules, repeated=partial(repeated, self.owners) if self.owners is not None else None)
        known = self.owners is not None or await self.journal.read(Checkpoint.has_absent)
        who = partial(absent, self.owners, self.lookup, name) if known else nobody_absent
        return Judge(rules, who, sealed=sealed)

    def absent_now(self) -> Absent:
        """Who is not in the target now, whatever was known when the run began."""
        return partial(absent, self.owners, self.lookup, None)

    async def first(self, name: str, count: int, start: Place = START, sealed: Sequence[Range] = ()) -> list[Record]:
        """As `first_records`, of those that the run sends."""
        return await self.read(first_records, self.sources[name], await self.judge(name), count, start, sealed)

    async def unchanged(self) -> None:
        """Raise `Unusable` unless every file is still what it was when the run began."""
        for source in self.sources.values():
            await self.read(source.unchanged)

    async def reread(self, name: str, batches: list[Batch]) -> list[list[Record]]:
        """The records of each of these sealed batches, as they come out of the export now."""
        judge = await self.judge(name)
        return await self.read(self._read_again, name, judge, batches)

    def _read_again(self, name: str, judge: Judge, batches: list[Batch]) -> list[list[Record]]:
        """The records of batches: of those made of dead letters from the work file, of others from the export."""
        of_export = [batch for batch in batches if not batch.retried]
        of_letters = [batch for batch in batches if batch.retried]
        found = dict(zip([it.seq for it in of_export], reread(self.sources[name], judge, of_export), strict=True))
        for batch in of_export:
            if apart := self._apart(name, batch):
                found[batch.seq] = [it for it in found[batch.seq] if spot_of(it) not in apart]
        if of_letters:
            again = reread_retried(self.path, self.rules[name], of_letters)
            found |= zip([it.seq for it in of_letters], again, strict=True)
        return [found[batch.seq] for batch in batches]

    async def anew(self, name: str, limits: BatchLimits, batch: Batch, records: list[Record]) -> Anew:
        """What takes the place of a batch that comes out otherwise now. Raises `Unusable` where nothing but another
        export explains that, or what comes out now is more than what it held."""
        if not batch.retried and fixed(self.settings, name, self.lookup):
            raise Unusable(
                "batch-changed",
                f"batch {batch.seq} of {name} does not come out of the export as it was sealed, and there is neither a"
                " mapping nor another version that could be why: the export has changed",
                "Put the export that the checkpoint was begun with back in its place, and run the same command.",
            )
        judge = await self.judge(name)
        left = await self.read(self._left_out, name, judge, batch)
        drafts, large = reseal(self.rules[name], limits, records)
        dead = left.dead + large
        rest = batch.tally - add_up([*(it.tally for it in drafts), *(it.tally for it in dead)])
        if rest.records < 0 or rest.units < 0:
            raise Unusable(
                "batch-changed",
                f"batch {batch.seq} of {name} comes out as more than it was sealed as: what was left out of it by the"
                " mapping or version of then is counted as filtered already",
                AS_IT_WAS,
            )
        if name != "customers":
            return drafts, dead, []
        if rest.records and left.unnamed:
            self.tell(Warned(
                "mapping-changed",
                f"the mapping leaves out customers of batch {batch.seq} that it sent before: nobody can tell which, so"
                " what belongs to them is sent, and dropped by the target"
            ))  # fmt: skip
        lost = {it.position for it in large}
        kept = {record.owner for record in records if record.position not in lost}
        gone = left.absent | {record.owner for record in records} - kept
        return drafts, dead, [(owner, RESEALED) for owner in sorted(gone - kept)]

    def _left_out(self, name: str, judge: Judge, batch: Batch) -> LeftOut:
        """What of a batch's records is left out now; not what was when it was sealed."""
        if batch.retried:
            return LeftOut(buried_retried(self.path, self.rules[name], batch), set(), 0)
        apart = self._apart(name, batch)
        dead: list[DeadLetter] = []
        absent: set[str] = set()
        unnamed = 0
        for it in examined_again(self.sources[name], judge, batch):
            dead += [letter for letter in it.dead if spot_of(letter) not in apart]
            absent |= {owner for owner, _ in it.absent}
            unnamed += sum(tally.records for _, tally in it.filtered) if not it.absent else 0
        return LeftOut(dead, absent, unnamed)

    async def check_ahead(self, name: str) -> None:
        """Raise `Unusable` unless what was sealed beyond the frontier still comes out of the export as it was.

        Reading on passes it by, and can't tell then what a mapping that was mended leaves out of it from what was left
        out before: that would be counted twice, or not at all.
        """
        batches = await self.journal.read(lambda file: file.ahead(name))
        if not batches or fixed(self.settings, name, self.lookup):
            return
        apart = partial(self._apart, name)
        judge = await self.judge(name, await self.journal.read(lambda file: file.ahead_ranges(name)))
        changed = await self.read(otherwise, self.sources[name], self.rules[name], judge, batches, apart)
        if changed:
            numbers = ", ".join(str(batch.seq) for batch in changed[:20])
            raise Unusable(
                "batch-changed",
                f"batch {numbers} of {name}, sealed ahead of what is counted, comes out otherwise now: the mapping or"
                " the version has changed, and the books could not be kept",
                AS_IT_WAS,
            )

    def _apart(self, name: str, batch: Batch) -> set[Spot]:
        """What stands within a batch's ranges and was no part of it."""
        return self.lookup.unpacked(name, batch.ranges)

    async def pilots(self, name: str) -> set[str] | None:
        """The customers that a pilot has sent, unless all of them were: what belongs to others must wait."""
        if name == "customers" or "customers" not in self.sources:
            return None
        rows = await self.journal.read(Checkpoint.stages)
        if any(row.name == "customers" and row.state == "complete" for row in rows):
            return None
        owners: set[str] = set()
        for batch in await self.journal.read(lambda file: file.batches("customers", BatchState.ACCEPTED)):
            owners.update(record.owner for record in (await self.reread("customers", [batch]))[0])
        return owners
