"""Sends dead letters again, stage by stage, and releases what waited for a customer of theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from streammig.aftercare.repaired import take_in
from streammig.aftercare.retry import Choice, Parcel, Retrial, Wave
from streammig.batching import BatchLimits
from streammig.checkpoint import FIRST, Checkpoint, WorkFile, forget_work
from streammig.errors import counted
from streammig.migration.crew import Crew
from streammig.reader import nobody_absent
from streammig.records import BatchState
from streammig.report.progress import account_of
from streammig.sources import open_source
from streammig.telemetry import StageBegan, StageEnded, Warned

T = TypeVar("T")
TO_SEND = (BatchState.SEALED, BatchState.UNKNOWN, BatchState.REJECTED)


@dataclass(slots=True)
class Retry:
    """One call of `retry`. Whatever interrupts it, the same call goes on: a letter is dead until the transaction that
    seals it, and from then on it is a batch like any other."""

    crew: Crew
    choice: Choice
    repaired: Path | None = None
    _work: WorkFile = field(init=False)

    async def run(self) -> bool:
        """Try all that is chosen; False if stopped before. Raises like a run."""
        await self._read(self._begin)
        try:
            for name in self.crew.reading.sources:
                if not await self._stage(name):
                    return False
            return True
        finally:
            await self._read(self._work.close)
            forget_work(self.crew.reading.path)

    def _begin(self) -> None:
        reading, file = self.crew.reading, self.crew.reading.lookup
        forget_work(reading.path)  # of a call that a crash ended
        self._work = WorkFile.create(reading.path)
        if self.repaired is None:
            return
        taken = take_in(
            self.repaired, file, self._work, file.run["context"]["inputs"], reading.settings.max_record_bytes
        )
        if taken.strangers:
            name = "names" if taken.strangers == 1 else "name"
            lines = counted(taken.strangers, "line")
            reading.tell(Warned("not-a-letter", f"{self.repaired}: {lines} {name} what is no dead letter (any more)"))

    # -- one stage ---------------------------------------------------------------------------------------------------

    async def _stage(self, name: str) -> bool:
        crew = self.crew
        if name != "customers" and not await self._settled(name):
            return False
        if await crew.journal.read(lambda file: file.batches(name, *TO_SEND)):
            await self._deliver(name)
        retrial, after = await self._retrial(name), FIRST
        while not crew.stop.is_set():
            wave = await self._read(retrial.wave, after)
            if wave is None or crew.stop.is_set():
                break
            after = wave.last
            if await self._seal(name, retrial, wave):
                await self._deliver(name)
        return not crew.stop.is_set() and (name != "customers" or await self._release())

    async def _seal(self, name: str, retrial: Retrial, wave: Wave) -> bool:
        """Seal what a wave sends, and note what is still dead or filtered; whether there is something to send."""
        journal, clock = self.crew.journal, self.crew.clock
        if wave.outcomes:
            at = clock.time()
            await journal.write(lambda file: file.become(name, wave.outcomes, at))
        parcels = retrial.parcels(wave)
        while (parcel := await self._read(_next, parcels)) is not None:
            await self._seal_parcel(name, parcel)
        return bool(wave.groups)

    async def _seal_parcel(self, name: str, parcel: Parcel) -> None:
        at = self.crew.clock.time()
        await self.crew.journal.write(lambda file: file.seal_retried(name, parcel.drafts, parcel.letters, at))

    async def _deliver(self, name: str) -> None:
        """Send what is sealed, and read nothing on."""
        crew = self.crew
        found = await crew.journal.read(lambda file: account_of(file, name))
        crew.tell(StageBegan(name, found._replace(sizes=None)))
        run = await crew.prepare(name, open_source([]))
        await run.run()
        crew.tell(StageEnded(name, "interrupted" if crew.stop.is_set() else "retried"))
        await crew.verify(name)

    async def _retrial(self, name: str) -> Retrial:
        crew, reading = self.crew, self.crew.reading
        gone = nobody_absent if name == "customers" else reading.absent_now()
        return Retrial(
            name, reading.sources[name], reading.rules[name], await reading.judge(name), gone, reading.lookup,
            self._work, BatchLimits(bytes=crew.settings.max_bytes), self.choice, crew.stop.is_set,
        )  # fmt: skip

    # -- between stages ----------------------------------------------------------------------------------------------

    async def _release(self) -> bool:
        """When retried customers were accepted and can be seen, what waited for them may go."""
        crew = self.crew
        if not await crew.journal.read(Checkpoint.to_release):
            return True
        if not await crew.gate("customers", retried=True).passed("customers"):
            return False
        await crew.journal.write(Checkpoint.release)
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


def _next(parcels: Iterator[Parcel]) -> Parcel | None:
    return next(parcels, None)
