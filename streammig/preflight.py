"""Looks at the target before the first request: customers must be there, the records to send must not."""

from __future__ import annotations

from dataclasses import dataclass

from streammig.checkpoint import Checkpoint, Mark, Store, spread
from streammig.context import Context
from streammig.delivery.reads import Reads
from streammig.errors import Unusable
from streammig.inputs import Reading
from streammig.model import BatchState, Record, spoken_place
from streammig.target import Seen
from streammig.telemetry import Waiting, Warned

# Records to look for. An owner takes one read, another record may take several.
OWNERS_LOOKED_FOR, LOOKED_FOR = 5, 2


@dataclass(frozen=True, slots=True)
class Preflight:
    reading: Reading
    store: Store
    reads: Reads
    context: Context

    async def check(self, look: bool) -> None:
        """Raise `Unusable` if the customers that a run depends on are missing at the target.

        With `look`, raise it also if the records to send next are there already. The fence finds an older copy of a
        checkpoint. This look finds a copy that was restored together with its fence, and an export that was sent
        with another checkpoint.
        """
        await self._customers()
        name = await self.store.read(self._next)
        if not look or name is None:
            return
        records = await self._coming(name)
        if found := await self._there(name, records):
            raise Unusable(
                "checkpoint-behind-target",
                f"{len(found)} of the first {len(records)} {name} to be sent are already at the target, with the same"
                f" values ({self._named(name, found)}), but this checkpoint did not send them",
                "Nothing was sent. Use the newest copy of the checkpoint, or the checkpoint that sent this export. If"
                " you know that no run has sent these records, run the same command once with --checkpoint-is-current.",
            )

    def _next(self, file: Checkpoint) -> str | None:
        """The first stage with records left to send that a read-back can find; None if there is none."""
        lost = file.lost() or Mark()
        for ordinal, row in enumerate(file.stages()):
            if self.reads.proves(row.name) and row.state != "complete" and ordinal >= lost.stage:
                return row.name
        return None

    async def _customers(self) -> None:
        """If the run has no customers stage, look whether the customers of its first records are at the target."""
        first = next(iter(self.reading.inputs))
        if first == self.reading.owners or await self.store.read(_began):
            return
        records = await self.reading.first(first, OWNERS_LOOKED_FOR)
        seen = await self.reads.all(self.reading.owners, records)
        if seen and all(answer is Seen.NOTHING for answer in seen):
            raise Unusable(
                "customers-missing",
                f"the customers of {first} are not at the target: none of the owners of"
                f" {self._named(first, records)} can be read back",
                "Migrate the customers first, in this run or an earlier one: the target drops what has no customer.",
            )

    def _named(self, stage: str, records: list[Record]) -> str:
        """The ordinals and files of these records, for a message."""
        marks = self.reading.inputs[stage].source.fingerprints()
        return ", ".join(spoken_place(it.position, marks) for it in records)

    async def _there(self, name: str, records: list[Record]) -> list[Record]:
        """The records that the target shows as they would be sent, if that is most of them, else none.

        A single one proves nothing. Somebody may have moved a customer by hand, or the customer may occur twice in an
        export that was not scanned.
        """
        seen: list[Seen] = []
        self.context.notify(Waiting("preflight", f"looking whether the first {name} are at the target already"))
        for record in records:
            seen += await self.reads.all_retried(name, [record])
            if seen[-1] is Seen.CANT_TELL:
                self.context.notify(
                    Warned(
                        "not-readable",
                        f"{name} can't be looked for at the target now: whether they were sent before is not known",
                    )
                )
                break  # in an outage, each further read would wait for its end
        found = [it for it, how in zip(records, seen, strict=False) if how is Seen.ALL]
        told = sum(how is not Seen.CANT_TELL for how in seen)
        return found if len(found) > told // 2 else []

    async def _coming(self, name: str) -> list[Record]:
        """A few records that are to be sent next: of the first batch that was never sent, or after the frontier.

        A lost newer copy of the checkpoint may have sent more. Its records may be there, so it looks after them.
        """
        count = OWNERS_LOOKED_FOR if name == self.reading.owners else LOOKED_FOR
        sealed = await self.store.read(lambda file: file.batches(name, BatchState.SEALED))
        fresh = [batch for batch in sealed if not batch.attempts and batch.parent is None and not batch.retried]
        if fresh:
            return spread(await self.store.records(fresh[0]), count)
        start = (await self.store.read(lambda file: file.progress(name))).frontier
        lost = await self.store.read(Checkpoint.lost)
        if lost is not None and lost.stage == await self.store.read(lambda file: file.ordinal(name)):
            start = max(start, lost.place)
        ahead = await self.store.read(lambda file: file.ahead_ranges(name))
        return await self.reading.first(name, count, start, ahead)


def _began(file: Checkpoint) -> bool:
    """Whether the run has ever sent a request."""
    counts = [file.counts(row.name) for row in file.stages()]
    return any(it["requests"] > it["not_sent"] for it in counts)
