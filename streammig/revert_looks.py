"""Reads back every customer of a reverted run, and notes which parts of each batch are gone with them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from streammig.batching import ranges_of
from streammig.checkpoint import Accepted, Beside
from streammig.checkpoint.codec import decode_tally, encode_tally, pack_ranges, unpack_ranges
from streammig.checkpoint.units import without
from streammig.model import START, Place, Record, Tally, add_up
from streammig.run import Run
from streammig.target import MISSING, Difference
from streammig.telemetry import Waiting
from streammig.verify.looks import Looks
from streammig.verify.pool import Found, Pool
from streammig.verify.work import Done, Item, Suspect, Work, after, start_at

FIRST = 20  # customers to read back again and again until one of them is gone
LOOK = 30.0  # most seconds between two rounds of read-backs
TOGETHER = 10_000  # records of one transaction
THERE = [Difference("", "kept")]


class RevertWork(Work):
    """The work file of a revert: which customers are gone, and which ranges of each batch are gone or stay."""

    tables = (*Work.tables, "gone", "share")
    schema = (
        Work.schema
        + """;
CREATE TABLE gone (owner TEXT PRIMARY KEY) WITHOUT ROWID;
-- The part of a batch that is gone (1) or stays (0): packed ranges and their tally.
CREATE TABLE share (
    stage TEXT NOT NULL, seq INTEGER NOT NULL, gone INTEGER NOT NULL, ranges BLOB NOT NULL, tally TEXT NOT NULL,
    PRIMARY KEY (stage, seq, gone)
) WITHOUT ROWID"""
    )

    def are_gone(self, customers: Iterable[Item]) -> None:
        with self.transaction():
            owners = [(it.record.owner,) for it in customers]
            self._db.executemany("INSERT OR IGNORE INTO gone VALUES (?)", owners)

    def share_out(self, stage: str, part: str, items: Sequence[Item]) -> None:
        """Add these records, in reading order, to the part of their batches that is gone or stays.

        `part` is the name under which the progress is stored.
        """
        shares: dict[tuple[int, bool], list[Record]] = {}
        for it in items:
            gone = bool(self.rows("SELECT 1 FROM gone WHERE owner = ?", it.record.owner))
            shares.setdefault((it.seq, gone), []).append(it.record)
        with self.transaction():
            self.note(part, Done(items[-1].place))
            for (seq, gone), records in shares.items():
                before = self._share(stage, seq, gone)
                ranges = pack_ranges([*before.ranges, *ranges_of(records)])
                tally = encode_tally(before.tally + add_up(it.tally for it in records))
                self.change("INSERT OR REPLACE INTO share VALUES (?, ?, ?, ?, ?)", stage, seq, gone, ranges, tally)

    def _share(self, stage: str, seq: int, gone: bool) -> Beside:
        sql = "SELECT ranges, tally FROM share WHERE stage = ? AND seq = ? AND gone = ?"
        for ranges, tally in self.rows(sql, stage, seq, gone):
            return Beside(seq, unpack_ranges(ranges), decode_tally(tally))
        return Beside(seq, (), Tally())

    def gone_of(self, everything: bool, stage: str, batch: Accepted) -> Beside:
        """The part of a batch that is gone.

        If `everything` of the run is gone, that is all but the records that were seen to stay. Otherwise it is only the
        records that were seen to be gone. The sums of corrected records are not known, so in a batch that is gone in
        part they count as staying.
        """
        if everything:
            stays = self._share(stage, batch.seq, False)
            return Beside(batch.seq, tuple(without(batch.ranges, stays.ranges)), batch.tally - stays.tally)
        gone = self._share(stage, batch.seq, True)
        return Beside(batch.seq, batch.ranges, batch.tally) if gone.tally.units == batch.tally.units else gone


@dataclass(slots=True)
class RevertLooks:
    """Reads back all customers of a run until all are gone, or nothing changes any more."""

    run: Run
    work: RevertWork
    looks: Looks
    customers: int

    async def all(self) -> bool:
        """Read back until then. False if stopped. Customers that are still there are the work file's suspects."""
        context, read = self.run.context, self.run.reading.read
        now, began = asyncio.get_running_loop().time, asyncio.get_running_loop().time()
        first = await read(lambda: list(islice(self._customers(), FIRST)))
        # The target reverts later. Until a first customer is gone, reading all of them back proves nothing.
        while first and all([await self._there(it) for it in first]):
            if now() - began >= context.times.visible:
                break
            if not await self._pause("no customer is gone yet"):
                return False
        if not await self._pass():
            return False
        left, since = await read(self.work.left), now()
        while left and now() - since < (context.times.settle if left < self.customers else 0.0):
            if not await self._pause(f"customers still there: {left:,}") or not await self._again():
                return False
            before, left = left, await read(self.work.left)
            since = since if left == before else now()
        return not context.stopping

    def readable(self) -> bool:
        """Whether any customer can be read back."""
        return next(self._customers(), None) is not None

    async def share_out(self) -> bool:
        """Note for each batch which records are gone with their customer, and which stay. False if stopped."""
        for name in self.run.reading.inputs:
            part = f"share {name}"
            last = (await self.run.reading.read(self.work.progress, part)).place
            owned = self._customers if name == self.run.reading.owners else self.looks.passage(name).items
            items = after(owned(start_at(last)), last)

            def step(name: str = name, part: str = part, items: Iterator[Item] = items) -> bool:
                piece = list(islice(items, TOGETHER))
                if piece:
                    self.work.share_out(name, part, piece)
                return bool(piece)

            while await self.run.reading.read(step):
                if self.run.context.stopping:
                    return False
        return not self.run.context.stopping

    def _customers(self, start: Place = START) -> Iterator[Item]:
        """The customers that can be read back.

        A batch of another mapping can't be. Of a retried batch, only customers whose ids the checkpoint knows can be.
        """
        name, lookup = self.run.reading.owners, self.run.reading.lookup
        mapping = self.run.reading.inputs[name].mapping
        aside = {it.seq: it.letters for it in lookup.accepted(name) if it.letters or it.mapping != mapping}
        for item in self.looks.passage(name).items(start, corrected=any(aside.values())):
            owner = item.record.owner
            if item.seq not in aside or (aside[item.seq] and lookup.replayed_keys(name, [owner])):
                yield item

    async def _there(self, item: Item) -> bool:
        return bool(await self.run.context.until_stopped(self._look(item)))

    async def _look(self, item: Item) -> list[Difference] | None:
        """Read back a customer. [] if it is gone, `THERE` if not, None if the run is to stop."""
        found = await self.looks.look(self.run.reading.owners, item)
        if found is None:
            return None
        return [] if found and found[0].reason == MISSING else THERE

    async def _pass(self) -> bool:
        name = self.run.reading.owners
        place = (await self.run.reading.read(self.work.progress, name)).place

        def note(found: Found) -> None:
            last = max(it.place for it, _ in found)
            with self.work.transaction():
                self.work.are_gone(it for it, how in found if not how)
                self.work.note(name, Done(last, len(found)), [Suspect(name, it, how) for it, how in found if how])

        items = after(self._customers(start_at(place)), place)
        return await self._pool(note).over(items)

    async def _again(self) -> bool:
        """Read back once more the customers that are still there."""
        name = self.run.reading.owners

        def note(found: Found) -> None:
            with self.work.transaction():
                self.work.are_gone(it for it, how in found if not how)
                self.work.note_again(name, found)

        items: Iterator[Item] = (it.item for it in self.work.suspects(again=True))
        done = await self._pool(note).over(items)
        await self.run.reading.read(self.work.drop_found)
        return done

    def _pool(self, note: Any) -> Pool:
        return Pool(self.run.reading, self.run.context, self.run.settings.concurrency, self._look, note)

    async def _pause(self, said: str) -> bool:
        seconds = min(LOOK, max(self.run.context.times.settle, 0.05))
        self.run.context.notify(Waiting("reverting", f"reading back the revert: {said}", seconds))
        return await self.run.context.pause(seconds)
