"""Looks at the target before a run's first request: for what must be there by then, and for what must not."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from streammig.checkpoint import Checkpoint, Journal, spread
from streammig.delivery.verdict import seen_at_last
from streammig.errors import UnknownOutcome, Unusable
from streammig.migration.reading import Reading
from streammig.ports import Clock, ReadBack, Seen
from streammig.records import BatchState, Record
from streammig.telemetry import Notify, Waiting, Warned

# Records that are looked for: one read for a customer, one for each year of a customer's transactions.
SAMPLES = {"customers": 5, "transactions": 2}


@dataclass(frozen=True, slots=True)
class Expectations:
    """What a run expects of the target before it sends anything."""

    reading: Reading
    journal: Journal
    readback: ReadBack
    clock: Clock
    tell: Notify
    stop: asyncio.Event
    settle_time: float

    async def check(self, wary: bool) -> None:
        """Raise `Unusable` or `UnknownOutcome` where something is not as it must be; `wary`: look also whether another
        checkpoint, or a newer copy of this one, has sent what comes next."""
        await self._customers()
        if wary:
            await self._nobody()
            await self._no_newer()

    async def _customers(self) -> None:
        """Where the run has no customers of its own, look whether those that it builds on are at the target at all."""
        first = next(iter(self.reading.sources))
        if first == "customers" or await self.journal.read(_began):
            return
        records = await self.reading.first(first, SAMPLES["customers"])
        seen = [await self.readback.visible("customers", record) for record in records]
        if seen and all(answer is Seen.NOTHING for answer in seen):
            ordinals = ", ".join(str(record.position.ordinal) for record in records)
            raise Unusable(
                "customers-missing",
                f"the customers of {first} are not at the target: none of those of record {ordinals} can be read back",
                "Migrate the customers first, in this run or an earlier one: the target drops what has no customer.",
            )

    async def _nobody(self) -> None:
        """Before the first request of a checkpoint, look whether another one has sent its first customers already."""
        if "customers" not in self.reading.sources or await self.journal.read(_began):
            return
        records = await self.reading.first("customers", SAMPLES["customers"])
        if found := await self._there("customers", records):
            raise Unusable(
                "checkpoint-behind-target",
                f"{len(found)} of the first {len(records)} customers of the export are at the target already, as"
                " this run would send them, though by this checkpoint nothing was sent: another one was probably used",
                "Nothing was sent. Go on with the checkpoint that they were sent with: a new one sends everything anew."
                " If you know that no run has sent this export, run this command once with --checkpoint-is-current.",
            )

    async def _no_newer(self) -> None:
        """Before a run goes on, raise `UnknownOutcome` if what it would send next is at the target already.

        A backup of the whole machine holds the account's file as it was, too, which then vouches for the checkpoint. A
        run that went on since has sent what comes next here. Only what is there as it would be sent counts, and where
        nothing can be seen the run goes on, so that a plain resume asks nobody. Events can't be looked for: before them
        it is the first transactions, which shows at least a run that came as far.
        """
        name = await self.journal.read(lambda file: _stage(file, set(self.reading.sources)))
        if name is None:
            return
        if found := await self._there(name, await self._coming(name)):
            ordinals = ", ".join(str(it.position.ordinal) for it in found)
            raise UnknownOutcome(
                "checkpoint-behind-target",
                f"the target holds {name} of record {ordinals} already, as this run would send them, though by this"
                " checkpoint they were never sent: it is probably an older copy, set back together with the state"
                " folder",
                "Nothing was sent. Restore the newest copy of the checkpoint. If you know that no run has gone on from"
                " a newer copy, run the same command once with --checkpoint-is-current.",
            )

    async def _there(self, name: str, records: list[Record]) -> list[Record]:
        """Those of these records that are there as they would be sent, if they are most of them: one alone may be a
        customer whom somebody has moved by hand, or one that stands twice in an export that was not looked through."""
        seen: list[Seen] = []
        self.tell(Waiting("preflight", f"looking whether the first {name} to be sent are at the target already"))
        for record in records:
            seen.append(await seen_at_last(self.readback, name, record, self.stop, self.settle_time))
            if seen[-1] is Seen.CANT_TELL:
                self.tell(
                    Warned(
                        "not-readable",
                        f"{name} can't be looked for at the target now: whether they were sent before is not known",
                    )
                )
                break  # an outage: each further read would wait for its end
        found = [it for it, how in zip(records, seen, strict=False) if how is Seen.ALL]
        told = sum(how is not Seen.CANT_TELL for how in seen)
        return found if len(found) > told // 2 else []

    async def _coming(self, name: str) -> list[Record]:
        """Some records of what is to be sent next: of the first batch that was never sent, or behind the frontier."""
        count = SAMPLES[name]
        sealed = await self.journal.read(lambda file: file.batches(name, BatchState.SEALED))
        fresh = [batch for batch in sealed if not batch.attempts and batch.parent is None and not batch.retried]
        if fresh:
            return spread(await self.journal.records(fresh[0]), count)
        start = (await self.journal.read(lambda file: file.progress(name))).frontier
        ahead = await self.journal.read(lambda file: file.ahead_ranges(name))
        return await self.reading.first(name, count, start, ahead)


def _stage(file: Checkpoint, names: set[str]) -> str | None:
    """The stage that is to go on, or the one behind the events; None where nothing was sent yet, or nothing is left."""
    rows = file.stages()
    left = [row.name for row in rows if row.name in names and row.state != "complete"]
    if left[:1] == ["events"]:
        del left[0]
    return left[0] if left and _began(file) else None


def _began(file: Checkpoint) -> bool:
    """Whether anything of a run has ever left."""
    counts = [file.counts(row.name) for row in file.stages()]
    return any(it["requests"] > it["not_sent"] for it in counts)
