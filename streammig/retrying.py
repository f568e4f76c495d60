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
from streammig.reader import nobody_absent
from streammig.records import BatchState
from streammig.report.progress import account_of
from streammig.run import Run
from streammig.sources import open_source
from streammig.telemetry import StageBegan, StageEnded, Warned

T = TypeVar("T")
TO_SEND = (BatchState.SEALED, BatchState.UNKNOWN, BatchState.REJECTED)


@dataclass(slots=True)
class Retry:
    """One call of `retry`. Whatever interrupts it, the same call goes on: a letter is dead until the transaction that
    seals it, and from then on it is a batch like any other."""

    crew: Run
    choice: Choice
    repaired: Path | None = None
    _work: WorkFile = field(init=False)

    async def run(self) -> bool:
        """Try all that is chosen; False if stopped before. Raises like a run."""
        await self._read(self._begin)
        try:
            for name in self.crew.reading.inputs:
                if not await self._stage(name):
                    return False
            return True
        finally:
            await self._read(self._work.close)
            forget_work(self.crew.reading.lookup.path)

    def _begin(self) -> None:
        reading, file = self.crew.reading, self.crew.reading.lookup
        forget_work(reading.lookup.path)  # of a call that a crash ended
        self._work = WorkFile.create(reading.lookup.path)
        if self.repaired is None:
            return
        taken = take_in(
            self.repaired, file, self._work, file.run["context"]["inputs"], self.crew.settings.max_record_bytes
        )
        if taken.strangers:
            name = "names" if taken.strangers == 1 else "name"
            lines = counted(taken.strangers, "line")
            self.crew.context.notify(
                Warned("not-a-letter", f"{self.repaired}: {lines} {name} what is no dead letter (any more)")
            )

    # -- one stage ---------------------------------------------------------------------------------------------------

    async def _stage(self, name: str) -> bool:
        crew = self.crew
        if name != "customers" and not await self._settled(name):
            return False
        if await crew.store.read(lambda file: file.batches(name, *TO_SEND)):
            await self._deliver(name)
        retrial, after = await self._retrial(name), FIRST
        while not crew.context.stop.is_set():
            wave = await self._read(retrial.wave, after)
            if wave is None or crew.context.stop.is_set():
                break
            after = wave.last
            if await self._seal(name, retrial, wave):
                await self._deliver(name)
        return not crew.context.stop.is_set() and (name != "customers" or await self._release())

    async def _seal(self, name: str, retrial: Retrial, wave: Wave) -> bool:
        """Seal what a wave sends, and note what is still dead or filtered; whether there is something to send."""
        store, context = self.crew.store, self.crew.context
        if wave.outcomes:
            at = context.now()
            await store.write(lambda file: file.become(name, wave.outcomes, at))
        parcels = retrial.parcels(wave)
        while (parcel := await self._read(_next, parcels)) is not None:
            await self._seal_parcel(name, parcel)
        return bool(wave.groups)

    async def _seal_parcel(self, name: str, parcel: Parcel) -> None:
        at = self.crew.context.now()
        await self.crew.store.write(lambda file: file.seal_retried(name, parcel.drafts, parcel.letters, at))

    async def _deliver(self, name: str) -> None:
        """Send what is sealed, and read nothing on."""
        crew = self.crew
        found = await crew.store.read(lambda file: account_of(file, name))
        crew.context.notify(StageBegan(name, found._replace(sizes=None)))
        run = await crew.prepare(name, open_source([]))
        await run.run()
        crew.context.notify(StageEnded(name, "interrupted" if crew.context.stop.is_set() else "retried"))
        await crew.verify(name)

    async def _retrial(self, name: str) -> Retrial:
        crew, reading = self.crew, self.crew.reading
        source, rules, _ = reading.inputs[name]
        gone = nobody_absent if name == "customers" else reading.absent_now()
        return Retrial(
            name, source, rules, await reading.judge(name), gone, reading.lookup,
            self._work, BatchLimits(bytes=crew.settings.max_bytes), self.choice, crew.context.stop.is_set,
        )  # fmt: skip

    # -- between stages ----------------------------------------------------------------------------------------------

    async def _release(self) -> bool:
        """When retried customers were accepted and can be seen, what waited for them may go."""
        crew = self.crew
        if not await crew.store.read(Checkpoint.to_release):
            return True
        if not await crew.barrier("customers", retried=True).wait("customers"):
            return False
        await crew.store.write(Checkpoint.release)
        return True

    async def _settled(self, name: str) -> bool:
        """Give the target's queue its time for retried events before transactions build on them."""
        crew = self.crew
        at = await crew.store.read(lambda file: file.retried_at("events"))
        if name != "transactions" or at is None or at + crew.context.times.settle <= crew.context.now():
            return True
        return await crew.barrier("events", retried=True).wait("events")

    async def _read(self, work: Callable[..., T], *arguments: object) -> T:
        return await self.crew.reading.read(partial(work, *arguments))


def _next(parcels: Iterator[Parcel]) -> Parcel | None:
    return next(parcels, None)
