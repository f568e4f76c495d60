"""The read-back of every owner in a batch that the target may have accepted in part."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from streammig.batching import assemble, ranges_of
from streammig.checkpoint import Store
from streammig.context import Context
from streammig.delivery.reads import Reads
from streammig.model import Batch, BatchState, DeadLetter, Record
from streammig.target import Seen

CODE = "accepted-in-part"


@dataclass(frozen=True, slots=True)
class InPart:
    """Reads back every owner of a batch (times in seconds).

    A sample proves nothing here: it may lie in the accepted part. An owner is missing if two looks, a settle time
    apart, do not find it.
    """

    store: Store
    context: Context
    reads: Reads
    wait: Callable[[float, Batch], Awaitable[bool]]

    async def decide(self, batch: Batch, records: Sequence[Record]) -> tuple[BatchState, str] | None:
        """Decide a batch by its owners; return its state and the reason.

        ACCEPTED and PARKED are for the caller to write. SPLIT is durable: the missing records are dead letters.
        UNKNOWN: the run must stop first. Returns None if no owner is at the target.
        """
        looks = await self.look(batch, records)
        if looks is None:
            return BatchState.UNKNOWN, ""
        missing = [record for record, seen in looks if seen == {Seen.NOTHING}]
        unclear = len(looks) - len(missing)
        found = f"{len(records) - len(looks)} of its {len(records)} owners can be read back as sent"
        if unclear:
            why = f" ({self.reads.misread})" if self.reads.misread else ""
            return (
                BatchState.PARKED,
                f"{found}, and the answers about {unclear} prove nothing{why}: it is parked for you to decide",
            )
        if not missing:
            return BatchState.ACCEPTED, "every owner of it can be read back, so it landed"
        if len(missing) == len(records):
            return None
        await self._settle(batch, records, missing)
        return BatchState.SPLIT, f"{found}; the other {len(missing)} are dead letters now ({CODE})"

    async def look(self, batch: Batch, records: Sequence[Record]) -> list[tuple[Record, set[Seen]]] | None:
        """Look twice, a settle time apart; return the records that neither look finds as sent, with both results.

        Returns None if the run must stop.
        """
        what = f"reading back all {len(records):,} owners of batch {batch.seq} of {batch.stage}"
        first = await self.reads.all_retried(batch.stage, records, what)
        left = [(record, seen) for record, seen in zip(records, first, strict=True) if seen is not Seen.ALL]
        if left and not self.context.stopping:
            await self.wait(self.context.times.settle, batch)
        second = await self.reads.all_retried(batch.stage, [record for record, _ in left], what)
        if self.context.stopping:
            return None
        looks = [(record, {before, now}) for (record, before), now in zip(left, second, strict=True)]
        return [(record, seen) for record, seen in looks if Seen.ALL not in seen]

    async def _settle(self, batch: Batch, records: Sequence[Record], missing: Sequence[Record]) -> None:
        gone = {(it.position, it.unit) for it in missing}
        there = [record for record in records if (record.position, record.unit) not in gone]
        head, tail, _ = await self.store.contents(batch)
        accepted, dead = (assemble(it, head, tail, ranges_of(it)) for it in (there, missing))
        said = await self.store.read(lambda file: file.last_message(batch))
        why = "the target accepted a part of its batch, and this record can't be read back" + (
            f": {said}" if said else ""
        )
        letters = [DeadLetter(it.position, it.unit, CODE, why, it.tally) for it in missing]
        owners = [it.owner for it in missing]
        at = self.context.now()
        await self.store.write(lambda file: file.settle_in_part(batch, accepted, dead, letters, at, owners))
