"""Looks at the target before a run's first request: what must be there by then, and what must not."""

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

# Records that are looked for: an owner takes one read, what belongs to one may take several. Before a stage of which
# nothing can be proven, the next one is looked at.
OWNERS_LOOKED_FOR, LOOKED_FOR = 5, 2


@dataclass(frozen=True, slots=True)
class Preflight:
    """One look before a process makes its first request."""

    reading: Reading
    store: Store
    reads: Reads
    context: Context

    async def check(self, look: bool) -> None:
        """Raise `Unusable` where the customers that a run builds on are missing, or, with `look`, where what it would
        send next is there already.

        The fence finds an older copy of a checkpoint. This look finds one that was set back together with the fence,
        and the same export under a new checkpoint.
        """
        await self._customers()
        name = await self.store.read(self._next)
        if not look or name is None:
            return
        records = await self._coming(name)
        if found := await self._there(name, records):
            raise Unusable(
                "checkpoint-behind-target",
                f"{len(found)} of the first {len(records)} {name} to be sent are at the target already, as this run"
                f" would send them ({self._named(name, found)}), but this checkpoint did not send them",
                "Nothing was sent. Use the newest copy of the checkpoint, or the checkpoint that sent this export. If"
                " you know that no run has sent these records, run the same command once with --checkpoint-is-current.",
            )

    def _next(self, file: Checkpoint) -> str | None:
        """The first stage with something left to send that can be looked for; None where there is none."""
        lost = file.lost() or Mark()
        for ordinal, row in enumerate(file.stages()):
            if self.reads.proves(row.name) and row.state != "complete" and ordinal >= lost.stage:
                return row.name
        return None

    async def _customers(self) -> None:
        """Where the run has no customers of its own, look whether those that it builds on are at the target at all."""
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
        """Where these records stand, for people."""
        marks = self.reading.inputs[stage].source.fingerprints()
        return ", ".join(spoken_place(it.position, marks) for it in records)

    async def _there(self, name: str, records: list[Record]) -> list[Record]:
        """Those of these records that are there as they would be sent, if they are most of them: one alone may be a
        customer that somebody has moved by hand, or one that occurs twice in an export that was not scanned."""
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
                break  # an outage: each further read would wait for its end
        found = [it for it, how in zip(records, seen, strict=False) if how is Seen.ALL]
        told = sum(how is not Seen.CANT_TELL for how in seen)
        return found if len(found) > told // 2 else []

    async def _coming(self, name: str) -> list[Record]:
        """Some records of what is to be sent next: of the first batch that was never sent, or behind the frontier. What
        a copy that is lost may have sent is expected to be there, so it is what comes behind that."""
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
    """Whether anything of a run has ever left."""
    counts = [file.counts(row.name) for row in file.stages()]
    return any(it["requests"] > it["not_sent"] for it in counts)
