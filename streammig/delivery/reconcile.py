"""Decides by reading back whether a batch with an unknown outcome landed, did not land, or is left to the operator."""

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

SAMPLE = 5  # records of a batch that are looked for, as long as they all say the same
WIDE = 20  # where they do not, and before a batch is sent again
LATER = 3  # later batches that must have appeared; a single one may have overtaken it in a queue with several workers
PROBES = 2  # records of a refused batch that must not be there; of a single one it might be the refused one itself

Policy = Literal["read-back", "park", "resend"]

# What becomes of a batch where nobody looks for it.
_UNSEEN = {
    "park": (BatchState.PARKED, "it is parked for you to decide, as the settings of its stage ask"),
    "resend": (BatchState.SEALED, "it is SENT AGAIN without proof, as you accepted: it may double what it holds"),
}


THERE = frozenset({Seen.ALL, Seen.PART})
SOME_IS_THERE = "some of it is at the target"  # of a batch that was refused
REFUSED_IN_PART = (
    f"it was refused, but {SOME_IS_THERE}, and a sample can't tell what of it is not: it is parked for you to decide"
)


@dataclass(slots=True)
class Evidence:
    """What successive looks at a sample of a batch add up to (times in seconds)."""

    settle_time: float
    _partly: int = 0  # looks in a row at which most of the sample was there, though not all
    _absent_since: float | None = None
    _mixed: list[Seen] = field(default_factory=list)
    _mixed_since: float = 0.0

    def conclude_absence(self, now: float) -> bool:
        """Whether the next look counts as the first or the last of those that find nothing."""
        return self._absent_since is None or now - self._absent_since >= self.settle_time

    def judge(self, seen: list[Seen], passed: bool, now: float) -> tuple[BatchState, str] | None:
        """ACCEPTED, SEALED or PARKED with the reason, or None as long as this look decides nothing. `passed` says
        that later batches could be seen just before."""
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
            return BatchState.SEALED, "it did not land, though a later one did: it is sent again"
        return None

    def _unclear(self, seen: list[Seen], now: float) -> tuple[BatchState, str] | None:
        """Parked when the same few records, or others in their place, are there for as long as a queue may need."""
        if seen != self._mixed:
            self._mixed, self._mixed_since = seen, now
        if now - self._mixed_since < self.settle_time:
            return None
        if Seen.OTHER in seen:
            why = "under its ids the target holds what is not as it was sent, which may have been there before"
        else:
            there = sum(it in THERE for it in seen)
            why = f"of {len(seen)} of its records only {there} can be read back, which proves neither"
        return BatchState.PARKED, f"{why}: it is parked for you to decide"


@dataclass(frozen=True, slots=True)
class Reconciler:
    """Reads back what became of a batch (times in seconds). Time alone proves nothing (I3).

    Landed: what is there matches what was sent, in most of the sample; where some of it is missing, in two looks in a
    row. Not landed: none of the sample is there in two looks a settle time apart, and at both the batches that were
    accepted later, and at least a settle time ago, could be seen: so the target's queue had passed it, and it is not
    slower than the settle time. Anything else is parked: a customer that stood there before, too, though under an id
    of the batch.

    Purchase counts are no proof for events, neither way. A count that has become what the batch would make it shows
    only that so many purchases are known: they may have come as `metrics` with the customer, from an earlier
    migration, or from the till since then, and there is no count from before the batch to compare it with.

    `policy` "park" leaves every unknown outcome to the operator; "resend" sends again without any proof.
    """

    reads: Reads
    store: Store
    context: Context
    policy: Policy = "read-back"

    async def decide(
        self, batch: Batch, more_to_come: Callable[[], bool], goes_on_later: Callable[[], bool] = lambda: False
    ) -> BatchState:
        """ACCEPTED, SEALED (to be sent again), PARKED, or SPLIT where a part of it was taken, durably; UNKNOWN if the
        run is to stop before that.

        `more_to_come` says whether another batch may still be accepted: without one, nothing can prove that this one
        did not land: it is parked, or left UNKNOWN where the stage `goes_on_later`.
        """
        decided = _UNSEEN.get(self.policy) or await self._in_part(batch)
        state, why = decided or await self._look(batch, more_to_come, goes_on_later)
        if state is BatchState.UNKNOWN:
            return state
        if state is BatchState.SPLIT:
            self.context.notify(
                Warned("accepted-in-part", f"batch {batch.seq} of {batch.stage} was taken in part: {why}")
            )
            return state
        if state is BatchState.ACCEPTED and await self.store.read(lambda file: file.last_attempt(batch).refused):
            # What a sample shows of a batch that landed whole or not at all says nothing of one that was taken in part.
            state, why = BatchState.PARKED, REFUSED_IN_PART
        settled = self.context.now() if state is BatchState.ACCEPTED else None
        await self.store.write(lambda file: file.move(batch, BatchState.UNKNOWN, state, settled, why))
        self.context.notify(Decided(batch, state))
        self.context.notify(
            Warned("reconciled", f"batch {batch.seq} of {batch.stage}, whose outcome was unknown: {why}")
        )
        return state

    async def _in_part(self, batch: Batch) -> tuple[BatchState, str] | None:
        """What every owner of a batch shows that may have been taken in part; None where it is told like any other."""
        if await self.store.read(lambda file: file.last_attempt(batch).in_part):
            return await self._each(batch)
        if batch.parent is not None and not batch.attempts:  # what is there of a refused one
            return await self._each(batch)
        if await self.store.read(lambda file: not file.owns(batch.stage) and file.last_attempt(batch).by_lost_copy):
            # Other owners may have shared a request then: which ones depends on what was open when reading went on.
            return await self._each(batch)
        return None

    async def _each(self, batch: Batch) -> tuple[BatchState, str] | None:
        tellable = await self._tellable(batch)
        if sum((it.tally for it in tellable), Tally()) != batch.tally:
            why = "the answer may speak of a part of it, and not all of it can be read back"
            return BatchState.PARKED, f"{why}: it is parked for you to decide"
        if not await self.rest(await self._unsettled(batch), batch):
            return BatchState.UNKNOWN, ""
        return await self._owners.decide(batch, tellable)

    @property
    def _owners(self) -> InPart:
        return InPart(self.store, self.context, self.reads, self.rest)

    async def _look(
        self, batch: Batch, more_to_come: Callable[[], bool], goes_on_later: Callable[[], bool]
    ) -> tuple[BatchState, str]:
        records = await self._tellable(batch)
        if not records:
            return BatchState.PARKED, "nothing of it can be read back, so it is parked for you to decide"
        if not await self.rest(await self._unsettled(batch), batch):
            return BatchState.UNKNOWN, ""
        # The loop's time, for a wall clock that is set forward by an hour must not pass for an hour without a trace.
        now = asyncio.get_running_loop().time
        looks, looking, misread = Evidence(self.context.times.settle), now(), 0
        lost = await self.store.read(lambda file: file.last_attempt(batch).by_lost_copy)
        while not self.context.stopping:
            (passed, behind), at = await self._passed(batch), now()
            seen = await self._see(batch.stage, records, passed is True and looks.conclude_absence(at))
            if lost and Seen.NOTHING in seen and not THERE.isdisjoint(seen):
                # The lost copy cut the same records into other batches: each owner tells for itself.
                if decided := await self._each(batch):
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
                    left = f"the outcome of batch {batch.seq} of {batch.stage} is left unknown: what a later run sends"
                    self.context.notify(Warned("left-unknown", f"{left} may show it"))
                    break
                return BatchState.PARKED, _unproven(seen, behind)
            if not await self.rest(self._pause, batch):
                break
        return BatchState.UNKNOWN, ""

    @property
    def _patience(self) -> float:
        """How long a batch is looked for, at most."""
        return max(self.context.times.visible, 3 * self.context.times.settle)

    @property
    def _pause(self) -> float:
        """Between two looks."""
        return min(LOOK, max(self.context.times.settle, 0.05))

    async def _see(self, stage: str, records: Sequence[Record], sure: bool) -> list[Seen]:
        """What is visible of a few records, or, to be `sure` or where the few do not agree, of more of them."""
        few = await self.reads.all(stage, spread(records, SAMPLE))
        told = set(few) - {Seen.CANT_TELL}
        if told <= {Seen.ALL} or (told == {Seen.NOTHING} and not sure):
            return few
        return await self.reads.all(stage, spread(records, WIDE))

    async def _unsettled(self, batch: Batch) -> float:
        """How long the target's queue has yet to be given for this batch, at most the settle time."""
        began = await self.store.read(lambda file: file.last_attempt(batch).started)
        return min(began + self.context.times.settle - self.context.now(), self.context.times.settle)

    async def refused_whole(self, batch: Batch, refused_at: float | None) -> bool:
        """Whether none of a refused batch landed, as far as a few records can show, looked for when the target's queue
        has passed it: batches that were accepted later can be seen, or, where too few were, two settle times are over
        since it was refused (`refused_at` in the loop's time, if in this process) and nothing that was accepted is
        missing. Parks the batch if that is not proven, but where only some owners are there, just those: the others go
        on as a rejected part. False also if the run is to stop. The operator's word that it did not land stands for
        the look: what is seen of it stood there before."""
        if batch.ruling == "not-landed":
            return True
        now = asyncio.get_running_loop().time
        # By both clocks: the wall clock may be set forward meanwhile, and the loop's knows nothing of an earlier run.
        settled = now() + await self._unsettled(batch)
        if refused_at is not None:
            settled = max(settled, refused_at + self.context.times.settle)
        if not await self.rest(settled - now(), batch):
            return False
        records = await self.store.records(batch)
        others, _ = set_aside(records, await self.store.read(lambda file: file.nominee(batch)))
        probes = spread([record for record in others if self.reads.can_tell(batch.stage, record)], PROBES)
        looking = now()
        while True:
            passed = await self._works(batch)
            seen = await self.reads.at_last(batch.stage, probes)
            if self.context.stopping:
                return False
            there = not THERE.isdisjoint(seen) or Seen.OTHER in seen
            if not there and set(seen) != {Seen.NOTHING}:
                why = "nothing could be read back"
                break
            if passed or (passed is None and now() >= settled + self.context.times.settle):
                if not there:
                    return True
                if await self._parted(batch, records) or self.context.stopping:
                    return False
                why = SOME_IS_THERE
                break
            if passed is False and now() - looking >= self._patience:
                why = "the target does not show what it accepted, so it may not have come to this one yet"
                break
            if not await self.rest(self._pause, batch):
                return False
        before, note = batch.state, f"it was refused, but {why}"
        await self.store.write(lambda file: file.move(batch, before, BatchState.PARKED, note=note))
        self.context.notify(
            Warned("rejected-but-there", f"batch {batch.seq} of {batch.stage} was refused, but {why}: it is parked")
        )
        return False

    async def _parted(self, batch: Batch, records: Sequence[Record]) -> bool:
        """Park only those owners of a refused batch who are not proven to be missing; False where nobody is missing.
        An owner who was at the target before, say with an earlier record, does not keep the others from going on."""
        tellable = [record for record in records if self.reads.can_tell(batch.stage, record)]
        looks = await self._owners.look(batch, tellable)
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

    async def _passed(self, batch: Batch) -> tuple[bool | None, str]:
        """Whether the target's queue has passed this batch: the later ones that are a settle time old are there; and
        what is missing for that, in words. None where enough of them are accepted, but not yet so old."""
        now = self.context.now()
        later = await self.store.read(lambda file: file.accepted_after(batch, now - self.context.times.settle, LATER))
        if len(later) < LATER:
            young = await self.store.read(lambda file: file.accepted_after(batch, now, LATER))
            if len(young) == LATER:
                return None, "what was accepted after it is not yet a settle time old"
            enough = f"it takes {LATER} batches that were accepted after it and can be seen"
            return False, f"{enough}, and there are {len(young)}"
        for other in later:
            if not await self._applied(other):
                return False, "the target does not show what it accepted after it"
        return True, ""

    async def _works(self, batch: Batch) -> bool | None:
        """Whether the target's queue does its work: what was accepted a settle time ago is there. None where that is so
        as far as it goes, but fewer than it takes were accepted after this batch, or can be told from what stood there
        before."""
        until = self.context.now() - self.context.times.settle
        later = await self.store.read(lambda file: file.accepted_after(batch, until, LATER))
        enough = len(later) == LATER
        if not enough:
            later = await self.store.read(lambda file: file.last_accepted(batch, until, LATER))
        shown = [await self._applied(other) for other in later]
        return False if False in shown else True if enough and all(shown) else None

    async def _applied(self, accepted: Batch) -> bool | None:
        """Whether anything of an accepted batch is there, which is enough: what is asked is whether the queue has come
        to it, not what became of it. None where what is there may have stood there before, or nothing can be told."""
        records = spread(await self._tellable(accepted), SAMPLE)
        unclear = not records
        for record in records:
            seen = await self.reads.visible(accepted.stage, record)
            if seen in THERE:
                return True
            unclear = unclear or seen is Seen.OTHER
        return None if unclear else False

    async def _tellable(self, batch: Batch) -> list[Record]:
        """Its records that can be looked for; of an accepted batch, those that were kept as samples."""
        if not self.reads.proves(batch.stage):
            return []
        records = await self.store.records(batch)
        return [record for record in records if self.reads.can_tell(batch.stage, record)]

    async def rest(self, seconds: float, batch: Batch) -> bool:
        """Wait so long; False if the run is to stop."""
        if seconds > 0:
            self.context.notify(
                Waiting("reading-back", f"reading back whether batch {batch.seq} of {batch.stage} landed", seconds)
            )
            await self.context.pause(seconds)
        return not self.context.stopping


def _unproven(seen: Sequence[Seen], behind: str) -> str:
    """Why a batch is parked of which no look proved anything; `behind` is what was amiss with those accepted later."""
    unread = "some of it could not be read" if Seen.CANT_TELL in seen else ""
    why = " and ".join(filter(None, (unread, behind))) or "what can be read back of it was not twice the same"
    later = "once more was accepted, `streammig resolve` with --read-back may prove it"
    return f"it can't be proven whether it landed ({why}): it is parked for you to decide; {later}"
