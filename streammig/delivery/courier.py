"""Takes one batch to the target: a slot, the intent, the request, the receipt, and what follows from it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Protocol, TypeVar

from streammig.checkpoint import Journal
from streammig.delivery.backoff import Backoff
from streammig.errors import TargetStop
from streammig.notices import Answered, Tell, Waiting
from streammig.packing import halves
from streammig.ports import Clock, ReadBack, Sink
from streammig.records import Batch, BatchState, DeadLetter, Draft, Kind, Receipt, Record

T = TypeVar("T")

LONGEST_WAIT = 86_400.0  # seconds: a Retry-After beyond a day stops the run, which can be resumed then
BLIND_WAIT = 60.0  # seconds to wait on a 429 that does not say how long


class Slot(Protocol):
    """The right to make one request now."""

    def sent(self) -> None:
        """The first byte leaves now."""

    async def unsent(self) -> None:
        """Nothing left: the start is free for another request."""


class Slots(Protocol):
    """Hands out the account's slots and notes, durably, what each is used for."""

    async def take(self, batch: Batch, attempt: int) -> Slot: ...

    def answered(self, latency: float) -> None:
        """A request was answered so many seconds after it left."""

    async def hold(self, seconds: float) -> None:
        """Nobody on this account starts a request for so long. Returns at once: it is the next slot that waits."""

    async def throttled(self) -> None:
        """The target refused a request that our own count allowed: keep a wider margin."""


Reread = Callable[[list[Batch]], Awaitable[list[list[Record]]]]
Assemble = Callable[[list[Record]], Draft]
Redact = Callable[[str, bytes], str]


@dataclass(slots=True)
class Courier:
    """Delivers batches for all workers of a run, under I2 and I3.

    `undecided` tells how many batches have an unknown outcome; a worker that meets one retires, so that there are
    never more of them than requests may be in flight. `doubted` is set after one: the next request waits until an
    authenticated read succeeds, because sending into a target that swallows answers only makes more of them.
    """

    sink: Sink
    readback: ReadBack
    slots: Slots
    journal: Journal
    clock: Clock
    rng: Random
    tell: Tell
    redact: Redact
    reread: Reread
    assemble: Assemble
    stop: asyncio.Event
    backoff: Backoff = field(default_factory=Backoff)
    undecided: int = 0
    _doubt: asyncio.Lock = field(default_factory=asyncio.Lock)
    _doubted: bool = False

    async def deliver(self, batch: Batch, body: bytes) -> BatchState:
        """Send a sealed batch until its fate is known or the run stops; returns the state it is left in.

        SEALED is returned only when `stop` is set: a request that is under way is waited for, nothing else is. Raises
        `TargetStop` where the target's word ends the run.
        """
        attempt, failures, renewed = batch.attempts, 0, False
        while not self.stop.is_set():
            await self._wait_for_trust()
            slot = await self._unless_stopped(self.slots.take(batch, attempt + 1))
            if slot is None:
                break
            started = self.clock.time()
            attempt = await self.journal.write(lambda file, at=started: file.sending(batch, at))  # type: ignore[misc]
            receipt = await self.sink.send(batch.stage, body, slot.sent)
            message = self.redact(receipt.message, body) if receipt.message else ""
            state = _state_after(receipt)
            await self._keep(batch, attempt, receipt, state, message)
            if receipt.kind is Kind.NOT_SENT:
                await slot.unsent()
            elif receipt.status is not None:
                self.slots.answered(receipt.latency)
            if state is BatchState.UNKNOWN:
                self.undecided += 1
                self._doubted = True
            self.tell(Answered(batch, receipt))
            if receipt.kind is Kind.WRONG_WORLD or receipt.stop:
                raise _world_stop(batch, receipt, message)
            if receipt.kind is Kind.TOO_LARGE:
                return await self._split(batch, body)
            if state is not BatchState.SEALED:
                return state
            if receipt.kind is Kind.UNAUTHORIZED:
                if renewed:
                    raise TargetStop(
                        f"the target answered 401 to batch {batch.seq} of {batch.stage} twice, also with a new token",
                        "Check that the API key is still valid, then run the same command.",
                    )
                renewed = True
                await self.sink.renew()
            elif receipt.kind is Kind.THROTTLED:
                await self._obey(receipt)
            else:
                failures += 1
                await self._back_off(failures, message)
        return BatchState.SEALED

    async def _keep(self, batch: Batch, attempt: int, receipt: Receipt, state: BatchState, message: str) -> None:
        at = self.clock.time()
        await self.journal.write(lambda file: file.received(batch, attempt, receipt, state, message, at))

    async def _obey(self, receipt: Receipt) -> None:
        await self.slots.throttled()
        seconds = BLIND_WAIT if receipt.retry_after is None else receipt.retry_after
        if seconds > LONGEST_WAIT:
            raise TargetStop(
                f"the target answered 429 and asks to wait {seconds / 3600:.1f} hours",
                "Run the same command then; nothing is lost or sent twice.",
            )
        self.tell(Waiting("the target answered 429 and asked to wait", seconds))
        await self.slots.hold(seconds)

    async def _back_off(self, failures: int, message: str) -> None:
        seconds = self.backoff.delay(failures, self.rng)
        self.tell(Waiting(f"no connection to the target: {message or 'no reason given'}", seconds))
        await self._unless_stopped(asyncio.sleep(seconds))

    async def _unless_stopped(self, waiting: Awaitable[T]) -> T | None:
        """The result of what is waited for, or None if the run is to stop first."""
        return await unless(self.stop, waiting)

    async def _wait_for_trust(self) -> None:
        """After an unknown outcome nobody sends until the target answers a read again."""
        if not self._doubted:
            return
        async with self._doubt:
            failures = 0
            while self._doubted and not self.stop.is_set():
                if await self.readback.reachable():
                    self._doubted = False
                    return
                failures += 1
                seconds = self.backoff.delay(failures, self.rng)
                self.tell(Waiting("a request got no answer; the target does not answer a read yet", seconds))
                await self._unless_stopped(asyncio.sleep(seconds))

    async def _split(self, batch: Batch, body: bytes) -> BatchState:
        """Deliver a batch that was too large (413) in two halves; a single owner's records become dead letters."""
        records = (await self.reread([batch]))[0]
        parts = halves(records)
        if not parts[1]:
            await bury(self.journal, self.clock, batch, records, "too-large-for-target", "413 for this customer alone")
            return BatchState.DEAD
        drafts = [self.assemble(part) for part in parts]
        at = self.clock.time()
        batches = await self.journal.write(lambda file: file.split(batch, drafts, at))
        for part, draft in zip(batches, drafts, strict=True):
            await self.deliver(part, draft.body)
        return BatchState.SPLIT


async def unless(stop: asyncio.Event, waiting: Awaitable[T]) -> T | None:
    """The result of `waiting`, which is cancelled, and None returned, as soon as `stop` is set."""
    work = asyncio.ensure_future(waiting)
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
        return work.result() if work.done() else None
    finally:
        for task in (work, stopped):
            task.cancel()
        await asyncio.gather(work, stopped, return_exceptions=True)


async def bury(
    journal: Journal, clock: Clock, batch: Batch, records: list[Record], code: str, message: str
) -> list[DeadLetter]:
    """End a batch whose records will not be sent: each becomes a dead letter with this reason."""
    letters = [DeadLetter(record.position, record.unit, code, message, record.tally) for record in records]
    owners = [(record.owner, "refused") for record in records] if batch.stage == "customers" else []
    at = clock.time()
    await journal.write(lambda file: file.dead(batch, letters, at, owners))
    return letters


def _state_after(receipt: Receipt) -> BatchState:
    match receipt.kind:
        case Kind.ACCEPTED:
            return BatchState.ACCEPTED
        case Kind.REFUSED:
            return BatchState.REFUSED
        case Kind.UNKNOWN:
            return BatchState.UNKNOWN
        case _:
            return BatchState.SEALED


def _world_stop(batch: Batch, receipt: Receipt, message: str) -> TargetStop:
    answer = f"{receipt.status}" if receipt.status is not None else "something that is no answer of the API"
    hints = {
        401: "Check the API key.",
        403: "Check that the API key may migrate: the account may lack the permission, or a firewall answers.",
        404: "Check --base-url: nothing answers there under the path of the migration.",
    }
    hint = hints.get(receipt.status or 0, "Look at what answers at --base-url: a proxy, a login page, another service.")
    return TargetStop(
        f"batch {batch.seq} of {batch.stage}: the target answered {answer}" + (f": {message}" if message else ""),
        f"{hint} Then run the same command: it goes on from here.",
    )
