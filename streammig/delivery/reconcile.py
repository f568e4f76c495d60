"""The reconciler: decides by read-backs whether a batch with an unknown outcome landed, did not land, or is parked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from streammig.batching import assemble, ranges_of
from streammig.checkpoint import Checkpoint, Store, spread
from streammig.context import Context
from streammig.delivery.in_part import InPart
from streammig.delivery.named import set_aside
from streammig.delivery.reads import LOOK, ROUNDS, Reads
from streammig.model import Batch, BatchState, Record, Tally
from streammig.target import Seen
from streammig.telemetry import Decided, Waiting, Warned

SAMPLE = 5  # records of a batch to look for, as long as all results agree
WIDE = 20  # records to look for if they don't, and before a batch is sent again
LATER = 3  # later batches that must be visible; in a queue with several workers, one may overtake
PROBES = 2  # records of a rejected batch that must not be at the target; a single one might be the bad one itself

Policy = Literal["read-back", "park", "resend"]

# The decision without a read-back, by policy.
_UNSEEN = {
    "park": (BatchState.PARKED, "it is parked for you to decide, as the settings of its stage ask"),
    "resend": (BatchState.SEALED, "it is SENT AGAIN without proof, as you accepted: it may double what it holds"),
}


THERE = frozenset({Seen.ALL, Seen.PART})
SOME_IS_THERE = "some of it is at the target"
REFUSED_IN_PART = (
    f"it was refused, but {SOME_IS_THERE}, and a sample can't tell which part: it is parked for you to decide"
)


@dataclass(slots=True)
class Evidence:
    """The conclusion from successive looks at a sample of a batch (times in seconds)."""

    settle_time: float
    _partly: int = 0  # looks in a row that found most of the sample, but not all
    _absent_since: float | None = None
    _mixed: list[Seen] = field(default_factory=list)
    _mixed_since: float = 0.0

    def absence_counts(self, now: float) -> bool:
        """Tell whether a look that finds nothing now is the first of its kind, or late enough to be the last."""
        return self._absent_since is None or now - self._absent_since >= self.settle_time

    def judge(self, seen: list[Seen], passed: bool, now: float) -> tuple[BatchState, str] | None:
        """Return ACCEPTED, SEALED or PARKED with the reason; None while the looks so far decide nothing.

        `passed`: just before this look, later batches were visible.
        """
        told = set(seen) - {Seen.CANT_TELL}
        if set(seen) == {Seen.NOTHING}:
            return self._absent(passed, now)
        self._absent_since = None
        most = 2 * sum(it in THERE for it in seen) > len(seen)
        if most and told == {Seen.ALL}:
            return BatchState.ACCEPTED, "it can be read back, so it landed"
        self._partly = self._partly + 1 if most else 0
        if self._partly == 2:
            return BatchState.ACCEPTED, "part of it can be read back, so it landed; check what is missing"
        return None if most or not told - {Seen.NOTHING} else self._unclear(seen, now)

    def _absent(self, passed: bool, now: float) -> tuple[BatchState, str] | None:
        self._partly = 0
        if not passed:
            self._absent_since = None
        elif self._absent_since is None:
            self._absent_since = now
        elif now - self._absent_since >= self.settle_time:
            return BatchState.SEALED, "it did not land, though later batches did: it is sent again"
        return None

    def _unclear(self, seen: list[Seen], now: float) -> tuple[BatchState, str] | None:
        """Park the batch if looks find the same mix of results for a settle time."""
        if seen != self._mixed:
            self._mixed, self._mixed_since = seen, now
        if now - self._mixed_since < self.settle_time:
            return None
        if Seen.OTHER in seen:
            why = "the target holds other data under its ids, which may have been there before"
        else:
            there = sum(it in THERE for it in seen)
            why = f"of {len(seen)} of its records only {there} can be read back, which proves neither outcome"
        return BatchState.PARKED, f"{why}: it is parked for you to decide"


@dataclass(frozen=True, slots=True)
class Reconciler:
    """Decides unknown outcomes by read-backs (times in seconds). Time alone proves nothing (I3).

    Landed: most of the sample is at the target as sent; if some of it is missing, in two looks in a row. Not landed:
    two looks, a settle time apart, find none of the sample, and both find the batches accepted later (at least a settle
    time ago). Then the target's queue has passed the batch, and is not slower than the settle time. Any other result is
    parked, also a customer who was at the target before, under an id of the batch.

    Purchase counts prove nothing about events. The purchases may also come from `metrics` of the customer, from an
    earlier migration or from the till, and there is no count from before the batch.

    `policy` "park" leaves every unknown outcome to the operator; "resend" sends again without any proof.
    """

    reads: Reads
    store: Store
    context: Context
    policy: Policy = "read-back"

    async def decide(
        self, batch: Batch, more_to_come: Callable[[], bool], goes_on_later: Callable[[], bool] = lambda: False
    ) -> BatchState:
        """Decide an unknown batch durably: ACCEPTED, SEALED (to be sent again), PARKED, or SPLIT (accepted in part).

        Returns UNKNOWN if the run must stop first. `more_to_come` tells whether another batch may still be accepted.
        Without one, nothing can prove that this one did not land. Then it is parked, or left UNKNOWN if the stage
        `goes_on_later`.
        """
        decided = _UNSEEN.get(self.policy) or await self._in_part(batch)
        state, why = decided or await self._sample(batch, more_to_come, goes_on_later)
        if state is BatchState.UNKNOWN:
            return state
        if state is BatchState.SPLIT:
            self.context.notify(
                Warned("accepted-in-part", f"batch {batch.seq} of {batch.stage} was accepted in part: {why}")
            )
            return state
        if state is BatchState.ACCEPTED and await self.store.read(lambda file: file.last_attempt(batch).refused):
            # The target rejected it, yet a sample is there: it landed in part, and a sample can't tell which part.
            state, why = BatchState.PARKED, REFUSED_IN_PART
        settled = self.context.now() if state is BatchState.ACCEPTED else None
        await self.store.write(lambda file: file.move(batch, BatchState.UNKNOWN, state, settled, why))
        self.context.notify(Decided(batch, state))
        self.context.notify(
            Warned("reconciled", f"batch {batch.seq} of {batch.stage}, whose outcome was unknown: {why}")
        )
        return state

    async def _in_part(self, batch: Batch) -> tuple[BatchState, str] | None:
        """Decide a batch by each of its owners if it may have landed in part; return None otherwise."""
        if await self.store.read(lambda file: file.last_attempt(batch).in_part):
            return await self._each_owner(batch)
        if batch.parent is not None and not batch.attempts:  # the owners of a rejected batch who were at the target
            return await self._each_owner(batch)
        if await self.store.read(lambda file: not file.owns(batch.stage) and file.last_attempt(batch).by_lost_copy):
            # The lost copy may have packed its owners into several requests: that depends on the bins open then.
            return await self._each_owner(batch)
        return None

    async def _each_owner(self, batch: Batch) -> tuple[BatchState, str] | None:
        records = await self._readable(batch)
        if sum((it.tally for it in records), Tally()) != batch.tally:
            why = "it may have landed in part, and not all of it can be read back"
            return BatchState.PARKED, f"{why}: it is parked for you to decide"
        if not await self._wait(await self._time_to_settle(batch), batch):
            return BatchState.UNKNOWN, ""
        return await self._owners.decide(batch, records)

    @property
    def _owners(self) -> InPart:
        return InPart(self.store, self.context, self.reads, self._wait)

    async def _sample(
        self, batch: Batch, more_to_come: Callable[[], bool], goes_on_later: Callable[[], bool]
    ) -> tuple[BatchState, str]:
        """Decide a batch by successive looks at a sample of its records."""
        records = await self._readable(batch)
        if not records:
            return BatchState.PARKED, "nothing of it can be read back, so it is parked for you to decide"
        if not await self._wait(await self._time_to_settle(batch), batch):
            return BatchState.UNKNOWN, ""
        # By the loop's time: a wall clock that is set forward by an hour must not count as an hour of looking.
        now = asyncio.get_running_loop().time
        looks, looking, misread = Evidence(self.context.times.settle), now(), 0
        lost = await self.store.read(lambda file: file.last_attempt(batch).by_lost_copy)
        while not self.context.stopping:
            (passed, lacking), at = await self._queue_passed(batch), now()
            seen = await self._look(batch.stage, records, wide=passed is True and looks.absence_counts(at))
            if lost and Seen.NOTHING in seen and not THERE.isdisjoint(seen):
                # The lost copy made other batches of the same records: so each owner is decided by itself.
                if decided := await self._each_owner(batch):
                    return decided
                continue
            if decided := looks.judge(seen, passed is True, at):
                return decided
            misread = misread + 1 if self.reads.misread and set(seen) == {Seen.CANT_TELL} else 0
            if misread == ROUNDS:
                why = f"the target answers reads of it with {self.reads.misread}, which says nothing"
                return BatchState.PARKED, f"{why}: it is parked for you to decide"
            hopeless = passed is False and not more_to_come() and now() - looking >= self.context.times.settle
            if hopeless or now() - looking >= self._patience:
                if goes_on_later() and not more_to_come():
                    left = f"the outcome of batch {batch.seq} of {batch.stage} is left unknown: batches of a later"
                    self.context.notify(Warned("left-unknown", f"{left} run may prove it"))
                    break
                return BatchState.PARKED, _unproven(seen, lacking)
            if not await self._wait(self._pause, batch):
                break
        return BatchState.UNKNOWN, ""

    @property
    def _patience(self) -> float:
        """The longest time to look for a batch."""
        return max(self.context.times.visible, 3 * self.context.times.settle)

    @property
    def _pause(self) -> float:
        """The time between two looks."""
        return min(LOOK, max(self.context.times.settle, 0.05))

    async def _look(self, stage: str, records: Sequence[Record], *, wide: bool) -> list[Seen]:
        """Read a few of the records; read more if the few don't agree, or if they are all missing and `wide` is set."""
        few = await self.reads.all(stage, spread(records, SAMPLE))
        told = set(few) - {Seen.CANT_TELL}
        if told <= {Seen.ALL} or (told == {Seen.NOTHING} and not wide):
            return few
        return await self.reads.all(stage, spread(records, WIDE))

    async def _time_to_settle(self, batch: Batch) -> float:
        """Return the rest of the settle time for this batch's last request, at most all of it."""
        began = await self.store.read(lambda file: file.last_attempt(batch).started)
        return min(began + self.context.times.settle - self.context.now(), self.context.times.settle)

    async def refused_whole(self, batch: Batch, refused_at: float | None) -> bool:
        """Look for a few records of a rejected batch; return True if none of it has landed.

        The look counts after the target's queue has passed the batch: later batches are visible. If too few were
        accepted later, two settle times must be over since the refusal, and no accepted batch may be missing.
        `refused_at` is the refusal's time by the loop's clock; None if it was in an earlier process.

        Parks the batch if that is not proven. If only some owners are at the target, parks these, and the others go on
        as a rejected part. Also returns False if the run must stop. An operator's ruling "not-landed" replaces the
        look: then the records were at the target before.
        """
        if batch.ruling == "not-landed":
            return True
        now = asyncio.get_running_loop().time
        # By both clocks: the wall clock may be set forward meanwhile, and the loop's clock starts with the process.
        settled = now() + await self._time_to_settle(batch)
        if refused_at is not None:
            settled = max(settled, refused_at + self.context.times.settle)
        if not await self._wait(settled - now(), batch):
            return False
        records = await self.store.records(batch)
        others, _ = set_aside(records, await self.store.read(lambda file: file.nominee(batch)))
        probes = spread(self._readable_of(batch.stage, others), PROBES)
        looking = now()
        while True:
            passed = await self._queue_works(batch)
            seen = await self.reads.all_retried(batch.stage, probes)
            if self.context.stopping:
                return False
            there = not THERE.isdisjoint(seen) or Seen.OTHER in seen
            if not there and set(seen) != {Seen.NOTHING}:
                why = "nothing could be read back"
                break
            if passed or (passed is None and now() >= settled + self.context.times.settle):
                if not there:
                    return True
                if await self._part_owners(batch, records) or self.context.stopping:
                    return False
                why = SOME_IS_THERE
                break
            if passed is False and now() - looking >= self._patience:
                why = "the target does not show what it accepted, so its queue may not have come to this batch yet"
                break
            if not await self._wait(self._pause, batch):
                return False
        await self._park_refused(batch, f"it was refused, but {why}")
        return False

    async def _park_refused(self, batch: Batch, note: str) -> None:
        await self.store.write(lambda file: file.move(batch, batch.state, BatchState.PARKED, note=note))
        text = f"batch {batch.seq} of {batch.stage} is parked: {note}"
        self.context.notify(Warned("rejected-but-there", text))

    async def _part_owners(self, batch: Batch, records: Sequence[Record]) -> bool:
        """Park the owners of a rejected batch who are not proven to be missing; the others go on as a rejected part.

        Returns False if either group is empty. So an owner who was at the target before does not hold up the others.
        """
        looks = await self._owners.look(batch, self._readable_of(batch.stage, records))
        if looks is None:
            return False
        missing = [record for record, seen in looks if seen == {Seen.NOTHING}]
        gone = {(record.position, record.unit) for record in missing}
        found = {record.owner for record in records if (record.position, record.unit) not in gone}
        groups = [[it for it in records if (it.owner in found) is there] for there in (True, False)]
        if not all(groups):
            return False
        contents, at = await self.store.contents(batch), self.context.now()
        drafts = [assemble(it, contents.head, contents.tail, ranges_of(it)) for it in groups]

        def part(file: Checkpoint) -> None:
            with file.transaction():
                there, rest = file.split(batch, drafts, at)
                file.move(there, BatchState.SEALED, BatchState.PARKED, note=REFUSED_IN_PART)
                file.move(rest, BatchState.SEALED, BatchState.REJECTED)

        await self.store.write(part)
        owners = f"{len(found):,} of its owners are at the target and are parked, the others are not and go on"
        text = f"batch {batch.seq} of {batch.stage} was refused, but {SOME_IS_THERE}: {owners}"
        self.context.notify(Warned("rejected-but-there", text))
        return True

    async def _queue_passed(self, batch: Batch) -> tuple[bool | None, str]:
        """Tell whether the target's queue has passed this batch: later batches, a settle time old, are visible.

        Returns None if enough were accepted later, but are not that old yet. The text says what the proof lacks.
        """
        now = self.context.now()
        later = await self.store.read(lambda file: file.accepted_after(batch, now - self.context.times.settle, LATER))
        if len(later) < LATER:
            young = await self.store.read(lambda file: file.accepted_after(batch, now, LATER))
            if len(young) == LATER:
                return None, "the batches accepted after it are not a settle time old yet"
            enough = f"the proof takes {LATER} batches that were accepted after it and can be seen"
            return False, f"{enough}, and there are {len(young)}"
        for other in later:
            if not await self._applied(other):
                return False, "the target does not show what it accepted after it"
        return True, ""

    async def _queue_works(self, batch: Batch) -> bool | None:
        """Tell whether the target's queue works: batches accepted a settle time ago are visible.

        Returns None if none of them is missing, but the proof is weak: too few came after this batch, or some may have
        been at the target before.
        """
        until = self.context.now() - self.context.times.settle
        later = await self.store.read(lambda file: file.accepted_after(batch, until, LATER))
        enough = len(later) == LATER
        if not enough:
            later = await self.store.read(lambda file: file.last_accepted(batch, until, LATER))
        shown = [await self._applied(other) for other in later]
        return False if False in shown else True if enough and all(shown) else None

    async def _applied(self, accepted: Batch) -> bool | None:
        """Tell whether any sample of an accepted batch is visible: then the queue has come to it.

        Returns None if the samples can't tell: they may have been at the target before, or there are none.
        """
        records = spread(await self._readable(accepted), SAMPLE)
        unclear = not records
        for record in records:
            seen = await self.reads.visible(accepted.stage, record)
            if seen in THERE:
                return True
            unclear = unclear or seen is Seen.OTHER
        return None if unclear else False

    async def _readable(self, batch: Batch) -> list[Record]:
        """Return the records of a batch (of an accepted one, its samples) that can be looked for."""
        if not self.reads.proves(batch.stage):
            return []
        return self._readable_of(batch.stage, await self.store.records(batch))

    def _readable_of(self, stage: str, records: Sequence[Record]) -> list[Record]:
        return [record for record in records if self.reads.can_tell(stage, record)]

    async def _wait(self, seconds: float, batch: Batch) -> bool:
        """Wait with a notice; return False if the run must stop."""
        if seconds > 0:
            self.context.notify(
                Waiting("reading-back", f"reading back whether batch {batch.seq} of {batch.stage} landed", seconds)
            )
            await self.context.pause(seconds)
        return not self.context.stopping


def _unproven(seen: Sequence[Seen], lacking: str) -> str:
    """Return the reason for parking a batch without a proof; `lacking` says what is wrong with later batches, or ""."""
    unread = "some of it could not be read" if Seen.CANT_TELL in seen else ""
    why = " and ".join(filter(None, (unread, lacking))) or "two looks at it did not agree"
    later = "once more was accepted, `streammig resolve` with --read-back may prove it"
    return f"it can't be proven whether it landed ({why}): it is parked for you to decide; {later}"
