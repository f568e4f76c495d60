"""Finds the records for which batches were refused, at the end of a stage, within a budget of requests."""

from __future__ import annotations

from dataclasses import dataclass, field

from streammig.batching import halves
from streammig.checkpoint import Contents
from streammig.delivery.named import set_aside
from streammig.delivery.sender import Sender, bury
from streammig.model import Batch, BatchState, Kind, Record, add_up
from streammig.telemetry import DeadLettered, Warned

GROUP = 8  # refused batches that are taken a step further before the largest are chosen again


@dataclass(slots=True)
class Isolation:
    """Brings every refused batch of a stage to an end after its healthy data, the largest first.

    A batch whose answer named one owner is sent without that one, who is tried alone afterwards: two requests instead
    of twenty. Any other is halved until the refused records stand alone; where the first half is accepted, the second
    is known to be refused and is halved without being sent. Halves of several batches don't share a request: each is
    refused every second time, so two together are three times out of four, and the request would tell less.

    Sending parts again is right only if the refusal was of the whole batch, so some of its records are looked for at
    the target first. Events can't be: they are searched only where `bisected` says so, else they are dead letters.

    The budget is `share` of the requests that the stage made otherwise, but at least `least`. When it is spent, what
    is left becomes dead letters, refused with its batch: large batches come first, so that these are few.
    """

    sender: Sender
    bisected: bool
    share: float
    least: int
    _left: int = 0
    _parts: set[int] = field(default_factory=set)  # batches that stem from a refused one, which was looked for
    _inferred: dict[int, Batch] = field(default_factory=dict)  # parts known to be refused, without having been sent

    async def settle(self, stage: str) -> None:
        """Bring every refused batch of the stage to an end, or stop where the run stops."""
        store, context = self.sender.store, self.sender.context
        refused = await store.read(lambda file: file.batches(stage, BatchState.REJECTED))
        if refused:
            await self._budget(stage)
        while refused and not context.stopping:
            refused.sort(key=lambda batch: (-batch.tally.units, batch.seq))
            await self._round(refused[:GROUP])
            refused = await store.read(lambda file: file.batches(stage, BatchState.REJECTED))
            refused += self._inferred.values()
            self._parts.update(await store.read(lambda file: file.refused_parts(stage)))

    async def _budget(self, stage: str) -> None:
        parts = await self.sender.store.read(lambda file: file.refused_parts(stage))
        counts = await self.sender.store.read(lambda file: file.counts(stage))
        spent = sum(parts.values())
        self._left = max(self.least, int(self.share * (counts["requests"] - spent))) - spent
        self._parts.update(parts)

    async def _round(self, group: list[Batch]) -> None:
        nominees: list[Batch] = []
        for batch in group:
            if self.sender.context.stopping:
                return
            nominees += await self._step(batch, await self.sender.store.contents(batch))
        for part in nominees:
            if await self._try(part) is BatchState.ACCEPTED:
                self.sender.try_named = False

    async def _step(self, batch: Batch, contents: Contents) -> list[Batch]:
        """Take a batch that holds something refused one step further; returns its nominee, to be tried later."""
        records = contents.records
        inferred = self._inferred.pop(batch.seq, None) is not None
        last = await self.sender.store.read(lambda file: file.last_attempt(batch))
        if batch.ruling == "set-aside":
            await self._bury(batch, records, "set-aside", "the operator set it aside")
        elif last.kind == Kind.TOO_LARGE:
            await self._bury(batch, records, "too-large-for-target", "413 for this customer alone")
        elif not self.bisected:
            await self._bury(batch, records, "refused-with-its-batch", "events are not searched for the refused one")
        elif batch.state is BatchState.REJECTED and not batch.attempts:  # the rest of one of which some is there
            await self.sender.store.write(lambda file: file.move(batch, BatchState.REJECTED, BatchState.SEALED))
            await self._try(batch)
        elif await self._landed_nowhere(batch, records, inferred):
            if not halves(records)[1]:
                await self._bury(batch, records, "refused", "the target refused it")
            elif self._left < 2:
                await self._bury(batch, records, "refused-with-its-batch", "the requests for finding it are spent")
            else:
                return await self._part(batch, contents)
        return []

    async def _landed_nowhere(self, batch: Batch, records: list[Record], inferred: bool) -> bool:
        """Whether nothing of a refused batch has landed, as far as that can be shown."""
        alone = len({record.owner for record in records}) == 1
        looked_for = inferred or alone or batch.seq in self._parts
        return looked_for or await self.sender.may_go_again(batch)

    async def _part(self, batch: Batch, contents: Contents) -> list[Batch]:
        store, records = self.sender.store, contents.records
        nominee = await store.read(lambda file: file.nominee(batch)) if self.sender.try_named else ()
        pair = set_aside(records, nominee) if nominee else halves(records)
        first, second = await self.sender.part(batch, contents, pair)
        self._parts.update((first.seq, second.seq))
        state = await self._try(first)
        if nominee:
            return [second]
        if state is BatchState.ACCEPTED and halves(pair[1])[1]:
            self._inferred[second.seq] = second
        else:
            await self._try(second)
        return []

    async def _try(self, part: Batch) -> BatchState:
        state = await self.sender.deliver(part)
        self._left -= await self.sender.store.read(lambda file: file.batch(part.stage, part.seq).attempts)
        return state

    async def _bury(self, batch: Batch, records: list[Record], code: str, why: str) -> None:
        reason = await self.sender.store.read(lambda file: file.last_message(batch))
        await bury(
            self.sender.store, self.sender.context.now(), batch, records, code, f"{why}: {reason}" if reason else why
        )
        tally = add_up(record.tally for record in records)
        self.sender.context.notify(DeadLettered(batch.stage, tally))
        if code == "refused-with-its-batch":
            self.sender.context.notify(Warned(
                "rejected-together",
                f"{tally.records} records of {batch.stage} were refused together (batch {batch.seq}); {why},"
                " so all of them are dead letters"
            ))  # fmt: skip
