"""Takes one batch to the target: a permit, the intent, the request, the receipt, and what follows from it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from streammig.batching import assemble, ranges_of
from streammig.checkpoint import Checkpoint, Contents, Store
from streammig.context import Context
from streammig.delivery.backoff import Backoff
from streammig.delivery.named import named_record
from streammig.delivery.reads import Reads
from streammig.delivery.receipts import Stops, as_ruled, refusal, state_after
from streammig.delivery.reconcile import Reconciler
from streammig.delivery.sizes import Sizes, shares
from streammig.errors import TargetStop, UnknownOutcome, counted
from streammig.model import Batch, BatchState, DeadLetter, Kind, Range, Receipt, Record
from streammig.target import Client, Permit, Permits
from streammig.telemetry import Answered, Sending, Waiting, Warned

BLIND_WAIT = 60.0  # seconds to wait on a 429 that does not say how long


@dataclass(slots=True)
class _Tries:
    """What was tried for one batch."""

    attempt: int
    failures: int = 0
    renewed: bool = False


@dataclass(frozen=True, slots=True)
class SendOptions:
    """The settings of sending."""

    concurrency: int = 4  # requests that may be in flight
    most_parked: int = 3
    breaker: int = 10  # whole batches refused in a row that stop the run
    try_named: bool = True  # whether the record that an answer names is tried alone


@dataclass(slots=True)
class Reachability:
    """After an unknown outcome nobody sends until the target answers a read again."""

    reads: Reads
    context: Context
    backoff: Backoff = field(default_factory=Backoff)
    _lost: bool = False
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    def doubt(self) -> None:
        """An outcome is unknown."""
        self._lost = True

    async def wait(self) -> None:
        """Wait until a read succeeds, or the run is to stop."""
        if not self._lost:
            return
        async with self._asking:
            failures = 0
            while self._lost and not self.context.stopping:
                if await self.reads.reachable():
                    self._lost = False
                    return
                failures += 1
                seconds = self.backoff.delay(failures, self.context.rng)
                why = "a request got no answer; the target does not answer a read yet"
                self.context.notify(Waiting("unreachable", why, seconds))
                await self.context.pause(seconds)


@dataclass(slots=True)
class Sender:
    """Delivers the batches of one stage for all its workers, under I2 and I3.

    A batch with an unknown outcome keeps its worker busy until it is decided, so that there are never more of them
    than workers. After one, the next request waits until an authenticated read succeeds: sending into a target that
    swallows answers only makes more of them. `in_flight` is held by each request that is under way. A yes frees it
    at once: its receipt and the next request's intent then share a commit, in this order.
    """

    client: Client
    permits: Permits
    store: Store
    reconciler: Reconciler
    reachability: Reachability
    context: Context
    options: SendOptions
    more_to_come: Callable[[], bool] = lambda: False
    holds_back: Callable[[], bool] = lambda: False  # whether a batch must wait for what comes after it
    goes_on_later: Callable[[], bool] = lambda: False  # a pilot: what a later call sends may show what became of it
    deciding: int = 0  # workers that read back and send nothing meanwhile
    refused_at: dict[int, float] = field(default_factory=dict)  # by batch: in this process, in the loop's time
    try_named: bool = field(init=False)  # whether an owner that an answer names is set aside; not after a wrong one
    in_flight: asyncio.Semaphore = field(init=False)
    sizes: Sizes = field(default_factory=Sizes)
    _stops: Stops = field(default_factory=Stops)
    _noted: set[str] = field(default_factory=set)  # fields of answers that were told
    _refused: list[Batch] = field(default_factory=list)  # whole batches, since the last one that was accepted
    _oversized: list[Batch] = field(default_factory=list)  # of one owner, by a 413, since the last one accepted
    _settling: set[asyncio.Future[None]] = field(default_factory=set)  # receipts that are not durable yet

    def __post_init__(self) -> None:
        self.try_named = self.options.try_named
        self.in_flight = asyncio.Semaphore(self.options.concurrency)

    @property
    def settling(self) -> bool:
        """Whether something is accepted that is not durable yet."""
        return bool(self._settling)

    async def settled(self) -> None:
        """Wait until all that was accepted is durable. Raises what the checkpoint raised."""
        await asyncio.gather(*self._settling)

    async def deliver(self, batch: Batch) -> BatchState:
        """Send a sealed batch until its fate is known; returns the state it is left in.

        UNKNOWN is returned only when `stop` is set or a pilot leaves it so; SEALED only when `stop` is set. A request
        that is under way is waited for, nothing else is. Raises `TargetStop` where the target's word ends the run,
        `UnknownOutcome` where too many are parked.
        """
        state = await self.deliver_one_of_many(batch, may_wait=False)
        await self.settled()
        return state

    async def deliver_one_of_many(self, batch: Batch, may_wait: bool = True) -> BatchState:
        """As `deliver`, but ACCEPTED is returned before that is durable, and SEALED also while the batch is held back,
        where it `may_wait`."""
        if not self.sizes.takes(batch.size) and (parts := await self._smaller(batch)):
            return await self._deliver_parts(parts)
        tries = _Tries(batch.attempts)
        body = await self.store.body(batch)
        while not self.context.stopping:
            async with self.in_flight:
                if may_wait and self.holds_back():
                    return BatchState.SEALED
                state = await self._send_until_answered(batch, body, tries)
            # Who reads back, or waits for the parts of a batch, leaves its place to others.
            if state is BatchState.UNKNOWN:
                state = await self.decide(batch)
            elif state is BatchState.SPLIT:
                parts = await self._smaller(batch)
                return await (self._deliver_parts(parts) if parts else self._reject_oversized(batch))
            if state is not BatchState.SEALED:
                return state
        return BatchState.SEALED

    async def _send_until_answered(self, batch: Batch, body: bytes, tries: _Tries) -> BatchState:
        """Send a batch as long as the answer is that it was not taken in; SEALED means that the run is to stop, SPLIT
        that it is to be split."""
        await self.reachability.wait()
        while not self.context.stopping:
            receipt = await self._send(batch, body, tries)
            if receipt is None:
                break
            receipt = await self._explain(batch, tries.attempt, receipt)
            if not _is_plain_yes(receipt):  # that is told when it is durable
                self.context.notify(Answered(batch, receipt, tries.attempt))
            state = await self._follow(batch, receipt, tries)
            if state is not BatchState.SEALED:
                return state
            await self.reachability.wait()
        return BatchState.SEALED

    async def _send(self, batch: Batch, body: bytes, tries: _Tries) -> Receipt | None:
        """One request: permit, intent, sending, receipt, each durable before the next; None when stopped."""
        permit = await self.context.until_stopped(self.permits.acquire())
        if permit is None:
            return None
        started = self.context.now()
        tries.attempt = await self.store.write(lambda file: file.sending(batch, started))
        self.context.notify(Sending(batch, tries.attempt))
        receipt = as_ruled(batch, await self._exchange(batch.stage, body, permit))
        # Its message follows when it is redacted: what is decided must not wait for that.
        silent, state, at = msgspec.structs.replace(receipt, message=""), state_after(receipt), self.context.now()

        def note(file: Checkpoint) -> None:
            file.received(batch, tries.attempt, silent, state, at)

        if _is_plain_yes(receipt):
            self._settle(self.store.begin(note), Answered(batch, receipt, tries.attempt))
        else:
            await self.store.write(note)
        if receipt.kind is Kind.NOT_SENT:
            permit.unsent()
        elif receipt.status is not None:
            self.permits.answered(receipt.latency)
        if receipt.kind is Kind.THROTTLED or receipt.retry_after is not None:
            await self._obey(receipt)
        if receipt.kind is Kind.UNKNOWN:
            self.reachability.doubt()
        return receipt

    def _settle(self, noted: asyncio.Future[None], answered: Answered) -> None:
        def settled(noted: asyncio.Future[None]) -> None:
            self._settling.discard(noted)
            if not noted.cancelled() and noted.exception() is None:
                self.context.notify(answered)

        self._settling.add(noted)
        noted.add_done_callback(settled)

    async def _exchange(self, stage: str, body: bytes, permit: Permit) -> Receipt:
        """The client's receipt; where the run is to stop before the first byte left, the request is given up."""
        began = False

        def begin() -> None:
            nonlocal began
            began = True
            permit.sent()

        receipt = await self.context.until_stopped(self.client.send(stage, body, begin), unless=lambda: began)
        if receipt is None:
            return Receipt(Kind.UNKNOWN if began else Kind.NOT_SENT, message="the run was stopped", code="stopped")
        return receipt

    async def _explain(self, batch: Batch, attempt: int, receipt: Receipt) -> Receipt:
        """Keep what the target said, redacted, and the one owner it named; returns the receipt as it may be shown."""
        self._note_unjudged(batch.stage, receipt)
        if not receipt.message:
            return receipt
        said = receipt.message
        # Without an answer the words are ours, too: why there is none.
        ours = receipt.ours or receipt.status is None
        message = said if ours else self.client.redact(said)
        nominee: tuple[Range, ...] = ()
        # Where nothing was redacted, nobody is named.
        if receipt.kind is Kind.REJECTED and self.try_named and message != said:
            nominee = ranges_of(named_record(said, await self.store.records(batch)))
        await self.store.write(lambda file: file.explain(batch, attempt, message, nominee))
        if message != said:  # the operator may need the words as they came
            await self.store.write(lambda file: file.outbox.keep_answer(batch, said))
        return msgspec.structs.replace(receipt, message=message)

    def _note_unjudged(self, stage: str, receipt: Receipt) -> None:
        """Say once which fields of a yes nobody judges."""
        if new := sorted({self.client.redact(name) for name in receipt.unjudged} - self._noted):
            self._noted.update(new)
            self.context.notify(Warned(
                "answer-fields",
                f"the target's answers to {stage} are accepted, and hold fields that say nothing to streammig:"
                f" {', '.join(new)}. If one of them may speak against it, name it in accepted_if or refused_if"
            ))  # fmt: skip

    async def _follow(self, batch: Batch, receipt: Receipt, tries: _Tries) -> BatchState:
        """What follows from a receipt; SEALED means that the batch is to be sent again."""
        if self._stops.counts(receipt):
            accepted = await self.store.read(lambda file: file.counts(batch.stage)["accepted"])
            raise refusal(batch, receipt, some_accepted=accepted > 0)
        match receipt.kind:
            case Kind.ACCEPTED:
                self._refused.clear()
                self._oversized.clear()
                self.sizes.accept(batch.size)
            case Kind.REJECTED:
                await self._count_refused(batch, receipt)
            case Kind.TOO_LARGE:
                self.sizes.refuse(batch.size)
                return BatchState.SPLIT
            case Kind.UNAUTHORIZED:
                if tries.renewed:
                    raise TargetStop(
                        "token-refused",
                        f"the target answered 401 to batch {batch.seq} of {batch.stage} twice, also with a new token",
                        "Check that the API key is still valid, then run the same command.",
                    )
                tries.renewed = True
                await self.client.renew()
            case Kind.NOT_SENT if not self.context.stopping:
                tries.failures += 1
                await self._back_off(tries.failures, receipt.message)
        return state_after(receipt)

    async def decide(self, batch: Batch) -> BatchState:
        """Read back what became of a batch with an unknown outcome; SEALED means that it is proven not to have
        landed, UNKNOWN that the run is to stop first."""
        self.reachability.doubt()
        self.deciding += 1
        try:
            await self.reachability.wait()
            state = await self.reconciler.decide(batch, self.more_to_come, self.goes_on_later)
        finally:
            self.deciding -= 1
        if state is BatchState.PARKED:
            await self.count_parked(batch.stage)
        return state

    async def count_parked(self, stage: str) -> None:
        """Stop the run where more batches are parked than a passing trouble explains."""
        parked = await self.store.read(lambda file: file.batches(stage, BatchState.PARKED))
        if len(parked) > self.options.most_parked:
            numbers = ", ".join(str(batch.seq) for batch in parked)
            raise UnknownOutcome(
                "too-many-parked",
                f"{stage}: {counted(len(parked), 'batch', 'es')} parked, with an unknown outcome: {numbers}",
                "They are not sent again. Find out at the target whether they landed, and say so (--landed or"
                f" --not-landed): streammig resolve CHECKPOINT BATCH --stage {stage}",
            )

    async def _count_refused(self, batch: Batch, receipt: Receipt) -> None:
        """Stop the run where so many whole batches in a row are rejected: their records are probably not the cause."""
        self.refused_at[batch.seq] = asyncio.get_running_loop().time()
        if batch.parent is not None:  # a part, which is likely to be refused
            return
        self._refused.append(batch)
        unproven = "" if self.reconciler.reads.proves(batch.stage) else ", though they can't be looked for first"
        await self._break(
            self._refused,
            f"batches of {batch.stage} in a row were refused as a whole"
            + (f", the last with: {receipt.message}" if receipt.message else ""),
            "Find out what the target wants (a reward, a brand or a permission that it lacks?), then run the same"
            f" command: they are sent again{unproven}.",
        )

    async def _reject_oversized(self, batch: Batch) -> BatchState:
        """A batch of one owner can't be split: it is rejected, unless a firewall says 413 to everybody."""
        await self.store.write(lambda file: file.move(batch, BatchState.SEALED, BatchState.REJECTED))
        self._oversized.append(batch)
        await self._break(
            self._oversized,
            f"customers of {batch.stage} in a row were refused as too large (413), each alone",
            "Ask who runs the firewall or proxy before the target for the size it lets through, then run the same"
            " command: they are sent again.",
        )
        return BatchState.REJECTED

    async def _break(self, row: list[Batch], what: str, hint: str) -> None:
        """Stop the run where so many refusals came in a row that no record explains them; they may go again."""
        if len(row) < self.options.breaker:
            return
        found = tuple(row)
        await self.store.write(lambda file: [file.move(it, BatchState.REJECTED, BatchState.SEALED) for it in found])
        why = "Probably no data problem; nothing was dead-lettered for it."
        raise TargetStop("breaker-open", f"{len(found)} {what}", f"{why} {hint}")

    async def may_go_again(self, batch: Batch) -> bool:
        """Whether a refused batch, or one that was sealed again since, may be sent (again): none of it has landed, as
        far as can be shown. True too of what can't be looked for. False if it was parked, or the run is to stop."""
        if not self.reconciler.reads.proves(batch.stage):
            return True
        whole = await self.reconciler.refused_whole(batch, self.refused_at.get(batch.seq))
        if not whole and not self.context.stopping:
            await self.count_parked(batch.stage)
        return whole

    async def _obey(self, receipt: Receipt) -> None:
        """Let the account wait as long as the target asks for."""
        if receipt.kind is Kind.THROTTLED:
            await self.permits.on_429()
        seconds = BLIND_WAIT if receipt.retry_after is None else receipt.retry_after
        await self.permits.pause_for(seconds, receipt.status or 429)

    async def _back_off(self, failures: int, message: str) -> None:
        seconds = self.reachability.backoff.delay(failures, self.context.rng)
        self.context.notify(
            Waiting("no-connection", f"no connection to the target: {message or 'no reason given'}", seconds)
        )
        await self.context.pause(seconds)

    async def _smaller(self, batch: Batch) -> list[Batch]:
        """Replace a batch that is too large (413) by parts; none of a single owner, who can't be split."""
        contents = await self.store.contents(batch)
        groups = shares(contents.records, self.sizes.parts(batch.size))
        return await self.part(batch, contents, groups) if len(groups) > 1 else []

    async def _deliver_parts(self, parts: Sequence[Batch]) -> BatchState:
        for part in parts:
            await self.deliver(part)
        return BatchState.SPLIT

    async def part(self, batch: Batch, contents: Contents, groups: Sequence[list[Record]]) -> list[Batch]:
        """Replace a batch by parts of these records each, durably."""
        drafts = [assemble(group, contents.head, contents.tail, ranges_of(group)) for group in groups]
        at = self.context.now()
        return await self.store.write(lambda file: file.split(batch, drafts, at))


def _is_plain_yes(receipt: Receipt) -> bool:
    """Whether nothing has to be redacted, or to follow."""
    return receipt.kind is Kind.ACCEPTED and not receipt.message


async def bury(
    store: Store, at: float, batch: Batch, records: list[Record], code: str, message: str
) -> list[DeadLetter]:
    """End a batch whose records will not be sent: each becomes a dead letter with this reason."""
    letters = [DeadLetter(record.position, record.unit, code, message, record.tally) for record in records]
    owners = [record.owner for record in records]
    await store.write(lambda file: file.dead(batch, letters, at, owners))
    return letters
