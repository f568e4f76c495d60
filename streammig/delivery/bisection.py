"""Finds the records for which a batch was refused: read back, then halve it until the refused ones stand alone."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from streammig.delivery.courier import Courier, bury
from streammig.delivery.waiting import unless
from streammig.notices import Buried, Waiting, Warned
from streammig.packing import halves
from streammig.ports import Seen
from streammig.records import Batch, BatchState, Record, add_up


@dataclass(frozen=True, slots=True)
class Bisection:
    """Deals with the refused batches of a stage after its healthy ones (times in seconds).

    Bisecting sends the good half again, which is right only if the refusal was of the whole batch: so one of its
    records is looked for at the target first, a settle time after the refusal, and if it is there (or nothing can be
    learnt) the batch is parked. Events can't be read back well enough: without `bisect_events` they are dead letters.
    """

    courier: Courier
    settle_time: float
    bisect_events: bool

    async def settle(self, stage: str) -> None:
        """Bring every refused batch of the stage to an end, or stop where the run stops."""
        journal = self.courier.journal
        while not self.courier.stop.is_set():
            refused = await journal.read(lambda file: file.batches(stage, BatchState.REFUSED))
            if not refused:
                return
            for batch in refused:
                if self.courier.stop.is_set():
                    return
                await self._settle(batch)

    async def _settle(self, batch: Batch) -> None:
        records = (await self.courier.reread([batch]))[0]
        reason = await self.courier.journal.read(lambda file: file.last_message(batch))
        if batch.stage == "events" and not self.bisect_events:
            return await self._bury(batch, records, "refused-with-its-batch", reason)
        parts = halves(records)
        if not parts[1]:
            return await self._bury(batch, records, "refused", reason)
        if batch.parent is None and batch.stage != "events" and not await self._is_absent(batch, records):
            return None
        drafts = [self.courier.assemble(part) for part in parts]
        at = self.courier.clock.time()
        children = await self.courier.journal.write(lambda file: file.split(batch, drafts, at))
        for child, draft in zip(children, drafts, strict=True):
            await self.courier.deliver(child, draft.body)
        return None

    async def _bury(self, batch: Batch, records: list[Record], code: str, reason: str) -> None:
        message = f"the target refused it: {reason}" if reason else "the target refused it"
        await bury(self.courier.journal, self.courier.clock, batch, records, code, message)
        self.courier.tell(Buried(batch.stage, add_up(record.tally for record in records)))

    async def _is_absent(self, batch: Batch, records: list[Record]) -> bool:
        """Whether none of the batch landed, as far as one record can show; parks the batch if that is not proven."""
        clock, stop = self.courier.clock, self.courier.stop
        rest = await self.courier.journal.read(lambda file: file.last_attempt(batch)) + self.settle_time - clock.time()
        if rest > 0:
            self.courier.tell(Waiting(f"batch {batch.seq} of {batch.stage} was refused; looking for it later", rest))
            await unless(stop, asyncio.sleep(rest))
        if stop.is_set():
            return False
        probe = next((record for record in records if self.courier.readback.can_tell(batch.stage, record)), None)
        seen = await self.courier.readback.visible(batch.stage, probe) if probe is not None else Seen.CANT_TELL
        if seen is Seen.NOTHING:
            return True
        await self.courier.journal.write(lambda file: file.move(batch, BatchState.REFUSED, BatchState.PARKED))
        why = (
            "some of it is at the target all the same"
            if seen in (Seen.ALL, Seen.PART)
            else "nothing could be read back"
        )
        self.courier.tell(Warned(f"batch {batch.seq} of {batch.stage} was refused, but {why}: it is parked"))
        await self.courier.count_parked(batch.stage)
        return False
