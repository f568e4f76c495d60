"""The looks of a verify: at which records, in which order, and with which differences."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from streammig.delivery.sender import Reachability
from streammig.run import Run
from streammig.selection import WithOwners
from streammig.target import MISSING, UNREADABLE, Difference
from streammig.telemetry import Verifying, Waiting
from streammig.verify.accepted import Passage, Wanted
from streammig.verify.pool import Found, Pool
from streammig.verify.work import Done, Item, Suspect, Work, after, start_at

TRIES = 5  # reads of a record until one says something
TOLD = 1.0  # seconds between two notices of how far it is
COUNTED = 20_000  # records whose counts are noted together
COUNTING = "counting"  # the name of the count's progress, beside those of the stages

UNTOLD = [Difference("", UNREADABLE)]
UNSHOWN = [Difference("", "not-readable")]  # the target shows nothing of its kind


@dataclass(slots=True)
class Looks:
    """Looks at all records of the accepted batches of these stages, or at a sample.

    A sample is the records `picked` of the stage `base`, and their owners' records of the other stages. Records that
    differed in an earlier verify are always part of it: `known` has them by file and offset. `whole` is about how many
    looks there are, and `task` what they are for.
    """

    run: Run
    work: Work
    stages: Sequence[str]
    base: str
    picked: Sequence[Item] | None
    whole: int
    known: Mapping[str, Container[tuple[int, ...]]]
    task: str = "verifying"
    _done: int = 0
    _told: float = 0.0
    _begun: tuple[float, int] | None = None
    _reachable: Reachability = field(init=False)

    def __post_init__(self) -> None:
        self._reachable = Reachability(self.run.target.reads, self.run.context)

    async def all(self) -> bool:
        """Every first look, then every second one; False if the run is to stop before."""
        if self.counted_stage and not await self._count():
            return False
        for name in self.stages:
            if name == self.counted_stage and self.run.reading.owners in self.stages:
                continue  # the look at a customer compares the count, too
            done = await self.run.reading.read(self.work.progress, name)
            self._done += done.looked
            if not await self._pool(name).over(self._items(name, done)):
                return False
        return await self._again()

    @property
    def counted_stage(self) -> str:
        """The stage whose units the target only counts; "" without one."""
        return next((name for name in self.stages if not self.run.target.readback.proves(name)), "")

    def _wanted(self, name: str) -> Wanted | None:
        if self.picked is None:
            return None
        return Wanted({it.record.owner for it in self.picked}, self.known.get(name, set()))

    def passage(self, name: str) -> Passage:
        reading = self.run.reading
        it = reading.inputs[name]
        rules = it.rules if name == reading.owners else WithOwners(it.rules, reading.lookup.filtered_owners)
        return Passage(name, it.source, rules, self.work.ranges)

    async def _count(self) -> bool:
        """Add up the counted units by owner; False if the run is to stop before."""
        last = (await self.run.reading.read(self.work.progress, COUNTING)).place
        name = self.counted_stage
        items = after(self.passage(name).items(start_at(last), self._wanted(name)), last)
        of = partial(self.run.target.readback.counted, name)

        def step() -> bool:
            piece = [it._replace(counted=of(it.record)) for it in islice(items, COUNTED)]
            if piece:
                self.work.count(COUNTING, piece[-1].place, piece)
            return bool(piece)

        while await self.run.reading.read(step):
            if self.run.context.stopping:
                return False
        return not self.run.context.stopping

    def _items(self, name: str, done: Done) -> Iterator[Item]:
        """The records of a stage that no look was at yet, in reading order."""
        if name == self.counted_stage:
            yield from self.work.counters(done.looked)
            return
        here = self.picked if self.picked is not None and name == self.base else None
        found = iter(here) if here is not None else self.passage(name).items(start_at(done.place), self._wanted(name))
        for item in after(found, done.place):
            of_owner = name == self.run.reading.owners
            yield item._replace(counted=self.work.counted(item.record.owner)) if of_owner else item

    def _pool(self, name: str) -> Pool:
        def note(found: Found) -> None:
            read = [(it, how) for it, how in found if how != UNSHOWN]
            there = {it.seq for it, how in read if not how or how[0].reason not in (MISSING, UNREADABLE)}
            suspects = [Suspect(name, it, how) for it, how in read if how]
            unread = sum(it.record.units for it, how in found if how == UNSHOWN)
            last = max(it.place for it, _ in found)
            self.work.note(
                name,
                Done(last, len(read), unread),
                suspects,
                max((self.work.settled(name, it) for it in there), default=0.0),
            )

        return self._pooled(name, note)

    def _pooled(self, name: str, note: Callable[[Found], None]) -> Pool:
        run = self.run
        return Pool(run.reading, run.context, run.settings.concurrency, partial(self.look, name), note)

    async def look(self, name: str, item: Item) -> list[Difference] | None:
        """How a record differs from what was sent; None if the run is to stop before that is known.

        A read that tells nothing is tried again, up to `TRIES` times.
        """
        readback, context = self.run.target.readback, self.run.context
        if name != self.counted_stage and not readback.can_tell(name, item.record):
            return UNSHOWN
        for _ in range(TRIES):
            found = await readback.differences(name, item.record, item.counted)
            if found is not None:
                self._say()
                return found
            if context.stopping:
                return None
            self._reachable.suspend()
            await self._reachable.wait()
        return None if context.stopping else UNTOLD

    def _say(self) -> None:
        """Tell how far the verify is, at most once a second."""
        now = asyncio.get_running_loop().time()
        self._begun = self._begun or (now, self._done)
        self._done += 1
        if now - self._told < TOLD:
            return
        self._told = now
        (began, before), whole = self._begun, max(self.whole, self._done)
        left = (now - began) * (whole - self._done) / max(self._done - before, 1)
        of = f"{self._done:,} of about {whole:,}" if self._done <= self.whole else f"{self._done:,}"
        said = f"{self.task}: {of} {'record' if whole == 1 else 'records'} read back"
        self.run.context.notify(Verifying(self.task, said, left if now > began else None))

    async def _again(self) -> bool:
        """The second look, a settle time after the first one; False if the run is to stop before."""
        stages = await self.run.reading.read(lambda: sorted({it.stage for it in self.work.suspects(again=True)}))
        if not stages:
            return True
        settle = self.run.context.times.settle
        said = "records that were missing or different are looked at again"
        self.run.context.notify(Waiting("second-look", said, settle))
        if not await self.run.context.pause(settle):
            return False
        for name in stages:
            items = (it.item for it in self.work.suspects(again=True) if it.stage == name)
            if not await self._pooled(name, partial(self.work.note_again, name)).over(items):
                return False
        return True
