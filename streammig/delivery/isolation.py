"""Isolation: finds the bad records of rejected batches at the end of a stage, within a budget of requests."""

from __future__ import annotations

from dataclasses import dataclass, field

from streammig.batching import halves
from streammig.checkpoint import Contents
from streammig.delivery.named import set_aside
from streammig.delivery.sender import Sender, make_dead_letters
from streammig.model import Batch, BatchState, Kind, Record, add_up
from streammig.telemetry import DeadLettered, Warned

GROUP = 8  # batches of one round; then the largest are chosen again


@dataclass(slots=True)
class Isolation:
    """Settles every rejected batch of a stage after its healthy data, the largest first.

    If the answer to a batch named one owner, the batch goes without that owner, who is tried alone afterwards: two
    requests instead of twenty. Any other batch is halved until the bad records are alone. If the first half is
    accepted, the second must be bad, and is halved without a request. Halves of two batches never share a request:
    each is rejected every second time, so both together three times out of four, which would tell less.

    Parts may be sent only if the target rejected the whole batch, so a few records are looked for first. Events can't
    be looked for: they are bisected only if `bisected` is set, and become dead letters otherwise.

    The budget is `share` of the stage's other requests, but at least `least`. After that, all that is left becomes
    dead letters (`refused-with-its-batch`). The largest batches come first, so that these are few.
    """

    sender: Sender
    bisected: bool
    share: float
    least: int
    _left: int = 0
    _parts: set[int] = field(default_factory=set)  # parts of a rejected batch that was looked for already
    _inferred: dict[int, Batch] = field(default_factory=dict)  # parts known to be bad without a request

    async def settle(self, stage: str) -> None:
        """Settle every rejected batch of the stage, unless the run stops."""
        store, context = self.sender.store, self.sender.context
        refused = await store.read(lambda file: file.batches(stage, BatchState.REJECTED))
        if refused:
            await self._set_budget(stage)
        while refused and not context.stopping:
            refused.sort(key=lambda batch: (-batch.tally.units, batch.seq))
            await self._round(refused[:GROUP])
            refused = await store.read(lambda file: file.batches(stage, BatchState.REJECTED))
            refused += self._inferred.values()
            self._parts.update(await store.read(lambda file: file.refused_parts(stage)))

    async def _set_budget(self, stage: str) -> None:
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
        """Take the next step with a rejected batch; return the part with the named owner, to be tried later."""
        records = contents.records
        inferred = self._inferred.pop(batch.seq, None) is not None
        last = await self.sender.store.read(lambda file: file.last_attempt(batch))
        if batch.ruling == "set-aside":
            await self._give_up(batch, records, "set-aside", "the operator set it aside")
        elif last.kind == Kind.TOO_LARGE:
            await self._give_up(batch, records, "too-large-for-target", "413 for this customer alone")
        elif not self.bisected:
            await self._give_up(batch, records, "refused-with-its-batch", "events are not searched for the bad one")
        elif batch.state is BatchState.REJECTED and not batch.attempts:  # the rest of a batch that landed in part
            await self.sender.store.write(lambda file: file.move(batch, BatchState.REJECTED, BatchState.SEALED))
            await self._try(batch)
        elif await self._landed_nowhere(batch, records, inferred):
            if not halves(records)[1]:
                await self._give_up(batch, records, "refused", "the target refused it")
            elif self._left < 2:
                await self._give_up(
                    batch, records, "refused-with-its-batch", "the budget of requests to find it is spent"
                )
            else:
                return await self._part(batch, contents)
        return []

    async def _landed_nowhere(self, batch: Batch, records: list[Record], inferred: bool) -> bool:
        """Tell whether no part of a rejected batch has landed, as far as a look can show."""
        alone = len({record.owner for record in records}) == 1
        looked_for = inferred or alone or batch.seq in self._parts
        return looked_for or await self.sender.may_send_again(batch)

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

    async def _give_up(self, batch: Batch, records: list[Record], code: str, why: str) -> None:
        said = await self.sender.store.read(lambda file: file.last_message(batch))
        message = f"{why}: {said}" if said else why
        await make_dead_letters(self.sender.store, self.sender.context.now(), batch, records, code, message)
        tally = add_up(record.tally for record in records)
        self.sender.context.notify(DeadLettered(batch.stage, tally))
        if code == "refused-with-its-batch":
            self.sender.context.notify(Warned(
                "rejected-together",
                f"{tally.records} records of {batch.stage} were refused together (batch {batch.seq}); {why},"
                " so all of them are dead letters"
            ))  # fmt: skip
