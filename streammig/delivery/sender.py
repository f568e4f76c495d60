"""The sender: takes a batch to the target by permit, intent, request and receipt, and acts on the receipt."""

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

BLIND_WAIT = 60.0  # seconds to wait after a 429 without Retry-After


@dataclass(slots=True)
class _Tries:
    """The attempts for one batch in this delivery."""

    attempt: int
    failures: int = 0
    renewed: bool = False


@dataclass(frozen=True, slots=True)
class SendOptions:
    """The settings of sending."""

    concurrency: int = 4  # requests that may be in flight
    most_parked: int = 3
    breaker: int = 10  # so many whole batches rejected in a row stop the run
    try_named: bool = True  # whether an owner that an answer names is tried alone


@dataclass(slots=True)
class Reachability:
    """Holds all requests back after an unknown outcome, until the target answers a read again."""

    reads: Reads
    context: Context
    backoff: Backoff = field(default_factory=Backoff)
    _lost: bool = False
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    def suspend(self) -> None:
        """Hold requests back: an outcome is unknown."""
        self._lost = True

    async def wait(self) -> None:
        """Wait until a read succeeds, or the run must stop."""
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

    A batch with an unknown outcome keeps its worker busy until it is decided, so there are never more of them than
    workers. After one, the next request waits until an authenticated read succeeds: if the target loses answers, more
    requests would only make more of them. Each open request holds `in_flight`. An accepted one releases it before its
    receipt is durable: the receipt and the next request's intent then share a commit, in this order.
    """

    client: Client
    permits: Permits
    store: Store
    reconciler: Reconciler
    reachability: Reachability
    context: Context
    options: SendOptions
    more_to_come: Callable[[], bool] = lambda: False
    holds_back: Callable[[], bool] = lambda: False  # whether a batch must wait: it may be the last of the stage
    goes_on_later: Callable[[], bool] = lambda: False  # a pilot: batches of a later call may prove an unknown outcome
    doubted: Callable[[], None] = lambda: None  # is told of each unknown outcome
    deciding: int = 0  # workers that read back, and send nothing meanwhile
    refused_at: dict[int, float] = field(default_factory=dict)  # by batch, in this process, by the loop's clock
    try_named: bool = field(init=False)  # whether an owner that an answer names is set aside; False after a wrong name
    in_flight: asyncio.Semaphore = field(init=False)
    sizes: Sizes = field(default_factory=Sizes)
    _stops: Stops = field(default_factory=Stops)
    _noted: set[str] = field(default_factory=set)  # fields of answers that were notified
    _refused: list[Batch] = field(default_factory=list)  # whole batches rejected since the last accepted one
    _oversized: list[Batch] = field(default_factory=list)  # one-owner batches refused by 413 since then
    _settling: set[asyncio.Future[None]] = field(default_factory=set)  # receipts that are not durable yet

    def __post_init__(self) -> None:
        self.try_named = self.options.try_named
        self.in_flight = asyncio.Semaphore(self.options.concurrency)

    @property
    def settling(self) -> bool:
        """Whether an accepted receipt is not durable yet."""
        return bool(self._settling)

    async def settled(self) -> None:
        """Wait until all accepted receipts are durable. Raises the checkpoint's error."""
        await asyncio.gather(*self._settling)

    async def deliver(self, batch: Batch) -> BatchState:
        """Send a sealed batch until its outcome is decided; return its state.

        Returns SEALED only if the run must stop; UNKNOWN only then, or if a pilot leaves it so. A stop waits for an
        open request, for nothing else. Raises `TargetStop` if the target's answer ends the run, and `UnknownOutcome` if
        too many batches are parked.
        """
        state = await self.deliver_one_of_many(batch, may_wait=False)
        await self.settled()
        return state

    async def deliver_one_of_many(self, batch: Batch, may_wait: bool = True) -> BatchState:
        """Deliver as `deliver`, but return ACCEPTED before it is durable.

        If it `may_wait`, also returns SEALED while the batch is held back.
        """
        if not self.sizes.takes(batch.size) and (parts := await self._smaller(batch)):
            return await self._deliver_parts(parts)
        tries = _Tries(batch.attempts)
        body = await self.store.body(batch)
        while not self.context.stopping:
            async with self.in_flight:
                if may_wait and self.holds_back():
                    return BatchState.SEALED
                state = await self._send_until_answered(batch, body, tries)
            # Read-backs and parts come after `in_flight` is released.
            if state is BatchState.UNKNOWN:
                state = await self.decide(batch)
            elif state is BatchState.SPLIT:
                parts = await self._smaller(batch)
                return await (self._deliver_parts(parts) if parts else self._reject_oversized(batch))
            if state is not BatchState.SEALED:
                return state
        return BatchState.SEALED

    async def _send_until_answered(self, batch: Batch, body: bytes, tries: _Tries) -> BatchState:
        """Send a batch until it is processed; return its state. SEALED: the run must stop. SPLIT: it must be split."""
        await self.reachability.wait()
        while not self.context.stopping:
            receipt = await self._send(batch, body, tries)
            if receipt is None:
                break
            receipt = await self._keep_message(batch, tries.attempt, receipt)
            if not _is_plain_yes(receipt):  # its notice comes when it is durable
                self.context.notify(Answered(batch, receipt, tries.attempt))
            state = await self._act_on(batch, receipt, tries)
            if state is not BatchState.SEALED:
                return state
            await self.reachability.wait()
        return BatchState.SEALED

    async def _send(self, batch: Batch, body: bytes, tries: _Tries) -> Receipt | None:
        """Make one request: permit, intent, sending, receipt, each durable before the next; None if stopped."""
        permit = await self.context.until_stopped(self.permits.acquire())
        if permit is None:
            return None
        started = self.context.now()
        tries.attempt = await self.store.write(lambda file: file.sending(batch, started))
        self.context.notify(Sending(batch, tries.attempt))
        receipt = as_ruled(batch, await self._exchange(batch.stage, body, permit))
        # The message follows when it is redacted: the state must not wait for that.
        silent, state, at = msgspec.structs.replace(receipt, message=""), state_after(receipt), self.context.now()

        def note(file: Checkpoint) -> None:
            file.received(batch, tries.attempt, silent, state, at)

        if _is_plain_yes(receipt):
            self._notify_when_durable(self.store.begin(note), Answered(batch, receipt, tries.attempt))
        else:
            await self.store.write(note)
        if receipt.kind is Kind.NOT_SENT:
            permit.unsent()
        elif receipt.status is not None:
            self.permits.answered(receipt.latency)
        if receipt.kind is Kind.THROTTLED or receipt.retry_after is not None:
            await self._obey(receipt)
        if receipt.kind is Kind.UNKNOWN:
            self.reachability.suspend()
        return receipt

    def _notify_when_durable(self, noted: asyncio.Future[None], answered: Answered) -> None:
        def settled(noted: asyncio.Future[None]) -> None:
            self._settling.discard(noted)
            if not noted.cancelled() and noted.exception() is None:
                self.context.notify(answered)

        self._settling.add(noted)
        noted.add_done_callback(settled)

    async def _exchange(self, stage: str, body: bytes, permit: Permit) -> Receipt:
        """Send a body and return the client's receipt. A stop gives the request up if no byte has left yet."""
        began = False

        def begin() -> None:
            nonlocal began
            began = True
            permit.sent()

        receipt = await self.context.until_stopped(self.client.send(stage, body, begin), unless=lambda: began)
        if receipt is None:
            return Receipt(Kind.UNKNOWN if began else Kind.NOT_SENT, message="the run was stopped", code="stopped")
        return receipt

    async def _keep_message(self, batch: Batch, attempt: int, receipt: Receipt) -> Receipt:
        """Keep the target's message, redacted, and the one owner that it names; return the redacted receipt."""
        self._tell_unjudged(batch.stage, receipt)
        if not receipt.message:
            return receipt
        said = receipt.message
        # Without an answer the message is our own: the reason why there is none.
        ours = receipt.ours or receipt.status is None
        message = said if ours else self.client.redact(said)
        nominee: tuple[Range, ...] = ()
        # A message that names an owner is redacted, so it differs.
        if receipt.kind is Kind.REJECTED and self.try_named and message != said:
            nominee = ranges_of(named_record(said, await self.store.records(batch)))
        await self.store.write(lambda file: file.explain(batch, attempt, message, nominee))
        if message != said:  # the operator may need the full message
            await self.store.write(lambda file: file.outbox.keep_answer(batch, said))
        return msgspec.structs.replace(receipt, message=message)

    def _tell_unjudged(self, stage: str, receipt: Receipt) -> None:
        """Notify once about fields of an accepting answer that no rule judges."""
        if new := sorted({self.client.redact(name) for name in receipt.unjudged} - self._noted):
            self._noted.update(new)
            self.context.notify(Warned(
                "answer-fields",
                f"the target's answers to {stage} count as accepted, but have fields unknown to streammig:"
                f" {', '.join(new)}. If one of them can mean a refusal, name it in accepted_if or refused_if"
            ))  # fmt: skip

    async def _act_on(self, batch: Batch, receipt: Receipt, tries: _Tries) -> BatchState:
        """Act on a receipt, and return the batch's state. SEALED: it must be sent again."""
        if self._stops.counts(receipt):
            accepted = await self.store.read(lambda file: file.counts(batch.stage)["accepted"])
            raise refusal(batch, receipt, self.store.command("resolve", batch.seq) if accepted else "")
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
        """Decide an unknown batch by read-backs. SEALED: it is proven that it did not land. UNKNOWN: the run stops."""
        self.reachability.suspend()
        self.deciding += 1
        self.doubted()
        try:
            await self.reachability.wait()
            state = await self.reconciler.decide(batch, self.more_to_come, self.goes_on_later)
        finally:
            self.deciding -= 1
        if state is BatchState.PARKED:
            await self.count_parked(batch.stage)
        return state

    async def count_parked(self, stage: str) -> None:
        """Raise `UnknownOutcome` if more batches of the stage are parked than the settings allow."""
        parked = await self.store.read(lambda file: file.batches(stage, BatchState.PARKED))
        if len(parked) > self.options.most_parked:
            numbers = ", ".join(str(batch.seq) for batch in parked)
            raise UnknownOutcome(
                "too-many-parked",
                f"{stage}: {counted(len(parked), 'batch', 'es')} parked, with an unknown outcome: {numbers}",
                "They are not sent again. Find out at the target whether they landed, and say so (--landed or"
                f" --not-landed): {self.store.command('resolve')}",
            )

    async def _count_refused(self, batch: Batch, receipt: Receipt) -> None:
        """Stop the run after too many whole batches rejected in a row: their records are probably not the cause."""
        self.refused_at[batch.seq] = asyncio.get_running_loop().time()
        if batch.parent is not None:  # parts are likely to be rejected
            return
        self._refused.append(batch)
        unproven = "" if self.reconciler.reads.proves(batch.stage) else ", though they can't be looked for first"
        await self._stop_if_many(
            self._refused,
            f"batches of {batch.stage} in a row were refused as a whole"
            + (f", the last with: {receipt.message}" if receipt.message else ""),
            "Find out what the target lacks (a reward, a brand, a permission?), then run the same"
            f" command: they are sent again{unproven}.",
        )

    async def _reject_oversized(self, batch: Batch) -> BatchState:
        """Reject a batch of one owner, which can't be split. Stops the run if a firewall seems to refuse all bodies."""
        await self.store.write(lambda file: file.move(batch, BatchState.SEALED, BatchState.REJECTED))
        self._oversized.append(batch)
        await self._stop_if_many(
            self._oversized,
            f"customers of {batch.stage} in a row were refused as too large (413), each alone",
            "Ask the operator of the firewall or proxy before the target for its size limit, then run the same"
            " command: they are sent again.",
        )
        return BatchState.REJECTED

    async def _stop_if_many(self, row: list[Batch], what: str, hint: str) -> None:
        """Raise `TargetStop` after too many refusals in a row, and seal those batches again."""
        if len(row) < self.options.breaker:
            return
        found = tuple(row)
        await self.store.write(lambda file: [file.move(it, BatchState.REJECTED, BatchState.SEALED) for it in found])
        why = "The records are probably not the cause; none became a dead letter."
        raise TargetStop("breaker-open", f"{len(found)} {what}", f"{why} {hint}")

    async def may_send_again(self, batch: Batch) -> bool:
        """Tell whether a rejected batch (or one sealed again since) may be sent: a look finds that none of it landed.

        Also True if its stage can't be looked for. False if the look has parked it, or the run must stop.
        """
        if not self.reconciler.reads.proves(batch.stage):
            return True
        whole = await self.reconciler.refused_whole(batch, self.refused_at.get(batch.seq))
        if not whole and not self.context.stopping:
            await self.count_parked(batch.stage)
        return whole

    async def _obey(self, receipt: Receipt) -> None:
        """Make the account wait as long as the target asks."""
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
        """Replace a batch that is too large (413) by parts; return none for a batch of one owner."""
        contents = await self.store.contents(batch)
        groups = shares(contents.records, self.sizes.parts(batch.size))
        return await self.part(batch, contents, groups) if len(groups) > 1 else []

    async def _deliver_parts(self, parts: Sequence[Batch]) -> BatchState:
        for part in parts:
            await self.deliver(part)
        return BatchState.SPLIT

    async def part(self, batch: Batch, contents: Contents, groups: Sequence[list[Record]]) -> list[Batch]:
        """Replace a batch by one part for each group of its records, durably."""
        drafts = [assemble(group, contents.head, contents.tail, ranges_of(group)) for group in groups]
        at = self.context.now()
        return await self.store.write(lambda file: file.split(batch, drafts, at))


def _is_plain_yes(receipt: Receipt) -> bool:
    """Tell whether a receipt needs no more work: accepted, without a message to redact."""
    return receipt.kind is Kind.ACCEPTED and not receipt.message


async def make_dead_letters(
    store: Store, at: float, batch: Batch, records: list[Record], code: str, message: str
) -> None:
    """End a batch: each of its records becomes a dead letter with this reason."""
    letters = [DeadLetter(record.position, record.unit, code, message, record.tally) for record in records]
    owners = [record.owner for record in records]
    await store.write(lambda file: file.dead(batch, letters, at, owners))
