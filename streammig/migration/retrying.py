"""Sends dead letters again, stage by stage, and releases what waited for a customer of theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from streammig.checkpoint import FIRST, Checkpoint
from streammig.dead_letters.replay import Choice, Parcel, Replay, Wave
from streammig.feed import nobody_absent
from streammig.migration.crew import Crew
from streammig.packing import BatchLimits
from streammig.records import BatchState
from streammig.report.progress import account_of
from streammig.sources import open_source
from streammig.telemetry import StageBegan, StageEnded

T = TypeVar("T")
TO_SEND = (BatchState.SEALED, BatchState.UNKNOWN, BatchState.REJECTED)


@dataclass(slots=True)
class Retry:
    """One call of `retry`. Whatever interrupts it, the same call goes on: a letter is dead until the transaction that
    seals it, and from then on it is a batch like any other."""

    crew: Crew
    choice: Choice

    async def run(self) -> bool:
        """Try all that is chosen; False if stopped before. Raises like a run."""
        for name in self.crew.reading.sources:
            if not await self._stage(name):
                return False
        return True

    # -- one stage ---------------------------------------------------------------------------------------------------

    async def _stage(self, name: str) -> bool:
        crew = self.crew
        if name != "customers" and not await self._settled(name):
            return False
        if await crew.journal.read(lambda file: file.batches(name, *TO_SEND)):
            await self._deliver(name)
        replay, after = self._replay(name), FIRST
        while not crew.stop.is_set():
            wave = await self._read(replay.wave, after)
            if wave is None or crew.stop.is_set():
                break
            after = wave.last
            if await self._seal(name, replay, wave):
                await self._deliver(name)
        return not crew.stop.is_set() and (name != "customers" or await self._release())

    async def _seal(self, name: str, replay: Replay, wave: Wave) -> bool:
        """Seal what a wave sends, and note what is still dead or filtered; whether there is something to send."""
        journal = self.crew.journal
        if wave.dead or wave.filtered:
            await journal.write(lambda file: file.refuse(name, wave.dead, wave.filtered))
        parcels = replay.parcels(wave)
        while (parcel := await self._read(_next, parcels)) is not None:
            await journal.write(partial(_seal, name, parcel, self.crew.clock.time()))
        return bool(wave.groups)

    async def _deliver(self, name: str) -> None:
        """Send what is sealed, and read nothing on."""
        crew = self.crew
        found = await crew.journal.read(lambda file: account_of(file, name))
        crew.tell(StageBegan(name, found._replace(sizes=None)))
        run = await crew.prepare(name, open_source([]))
        await run.run()
        crew.tell(StageEnded(name, "interrupted" if crew.stop.is_set() else "retried"))
        await crew.verify(name)

    def _replay(self, name: str) -> Replay:
        crew, reading = self.crew, self.crew.reading
        customers = name == "customers"
        return Replay(
            name, reading.sources[name], reading.rules[name],
            absent=nobody_absent if customers else reading.absent(), index=reading.owners if customers else None,
            file=reading.lookup, limits=BatchLimits(bytes=crew.settings.max_bytes), choice=self.choice,
            stopped=crew.stop.is_set,
        )  # fmt: skip

    # -- between stages ----------------------------------------------------------------------------------------------

    async def _release(self) -> bool:
        """When replayed customers were accepted and can be seen, what waited for them may go."""
        crew = self.crew
        if not await crew.journal.read(Checkpoint.any_brought):
            return True
        if not await crew.gate("customers", retried=True).passed("customers"):
            return False
        await crew.journal.write(Checkpoint.see_brought)
        return True

    async def _settled(self, name: str) -> bool:
        """Give the target's queue its time for retried events before transactions build on them."""
        crew = self.crew
        at = await crew.journal.read(lambda file: file.retried_at("events"))
        if name != "transactions" or at is None or at + crew.settle_time <= crew.clock.time():
            return True
        return await crew.gate("events", retried=True).passed("events")

    async def _read(self, work: Callable[..., T], *arguments: object) -> T:
        return await self.crew.reading.read(partial(work, *arguments))


def _seal(stage: str, parcel: Parcel, at: float, file: Checkpoint) -> None:
    file.seal_replayed(stage, *parcel, at)


def _next(parcels: Iterator[Parcel]) -> Parcel | None:
    return next(parcels, None)
