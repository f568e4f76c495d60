"""The barrier after a stage: the next stage, or the end of the run, waits until samples are visible at the target."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from streammig.checkpoint import Checkpoint, Store
from streammig.context import Context
from streammig.delivery.reads import ROUNDS, Reads
from streammig.errors import SAMPLES_MISSING, SamplesMissing, counted
from streammig.model import Batch, Record
from streammig.target import Permits, Seen
from streammig.telemetry import Waiting, Warned, spoken

BATCHES = 50  # most batches to take samples from, spread evenly from the first accepted one to the last
OWNERS_OF_EACH = 2
POLL = 20.0  # most seconds between two looks at samples that are not visible yet
SHARE = 0.05  # the part of the account's remaining reads that one look may use
Sample = tuple[Batch, Record]


@dataclass(frozen=True, slots=True)
class Barrier:
    """Waits until the target's queue has applied a stage, before the next one starts (times in seconds)."""

    reads: Reads
    permits: Permits
    store: Store
    context: Context
    retried: bool = False  # look at replayed batches only

    async def wait(self, stage: str, last: bool = False) -> bool:
        """Wait until samples of this stage can be read back; False if the run must stop first.

        No stage builds on the `last` one, so it needs no wait if none of its samples can be read back. A sample that
        does not become visible in time is missing: the stage keeps that as its code and message, and the run goes on.
        Raises `SamplesMissing` if all are missing and another stage builds on them.
        """
        settled = await self.store.read(lambda file: file.last_settled(stage))
        if settled is None or await self._seen_before(stage):
            return True
        samples = await self._samples(stage)
        if samples or not last:
            await self._settle(stage, settled)
        missing, others = await self._look(stage, samples)
        if self.context.stopping:
            return False
        if others:
            # The owners are there, so the next stage can build on them; the difference is for people to look at.
            there = f"of {counted(len(samples), 'sample')}, {_are(others)} at the target, but not as sent"
            await self._warn(stage, f"{there}: {_listed(others)}", "")
        if missing:
            await self._tell_missing(stage, missing, len(samples), last)
        if not (missing or others):
            at = self.context.now()
            await self.store.write(lambda file: file.mark_seen(stage, at))
        return True

    async def _settle(self, stage: str, settled: float) -> None:
        """Give the target's queue its time."""
        times = self.context.times
        # At most the settle time: a wall clock that was set back by an hour must not add an hour.
        rest = min(settled + times.settle - self.context.now(), times.settle)
        if rest > 0:
            why = f"the target gets time to apply the {stage}"
            self.context.notify(Waiting("settling", why, rest))
            await self.context.pause(rest)

    async def _look(self, stage: str, samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
        """Read samples until all are visible or the time is over.

        Returns the missing samples, and those that are at the target, but not as sent.
        """
        times, now = self.context.times, asyncio.get_running_loop().time
        missing, others, began, misread = list(samples), list[Sample](), now(), 0
        while missing:
            asked = missing[: await self._most()]
            seen = await self.reads.all(stage, [record for _, record in asked])
            others += [it for it, what in zip(asked, seen, strict=True) if what is Seen.OTHER]
            unseen = [it for it, what in zip(asked, seen, strict=True) if what in (Seen.NOTHING, Seen.CANT_TELL)]
            missing = missing[len(asked) :] + unseen
            rest = times.visible - (now() - began)
            if not missing or rest <= 0 or self.context.stopping:
                break
            misread = misread + 1 if self.reads.misread and set(seen) == {Seen.CANT_TELL} else 0
            if misread == ROUNDS:
                text = f"the target answers reads of {stage} with {self.reads.misread}, which says nothing"
                self.context.notify(Warned("not-readable", text))
                break
            # With a settle time of one second, don't wait twenty.
            pause = min(POLL, max(times.settle, 0.05), rest)
            there = f"{len(samples) - len(missing)} of {counted(len(samples), 'sample')} of {stage}"
            self.context.notify(Waiting("samples", f"{there} visible; at most {spoken(rest)} more", pause))
            await self.context.pause(pause)
        return missing, others

    async def _most(self) -> int:
        """Return how many reads one look may take: the account has other uses for the rest."""
        return max(1, int(min(SHARE * await self.permits.spare(), BATCHES * OWNERS_OF_EACH)))

    async def _samples(self, stage: str) -> list[Sample]:
        """Return sample records of up to two owners from each of some batches."""
        chosen: list[Sample] = []
        if self.reads.proves(stage):
            most = await self._most()
            count = max(1, most // OWNERS_OF_EACH)
            for batch in await self.store.read(lambda file: file.sample(stage, count, self.retried)):
                readable = [it for it in await self.store.records(batch) if self.reads.can_tell(stage, it)]
                chosen.extend((batch, record) for record in _two_owners(readable))
            chosen = chosen[:most]
        if not chosen:
            text = f"{stage}: no record can be read back at the target, so it is not known whether they were applied"
            self.context.notify(Warned("not-readable", text))
        return chosen

    async def _seen_before(self, stage: str) -> bool:
        return any(row.name == stage and row.seen for row in await self.store.read(Checkpoint.stages))

    async def _tell_missing(self, stage: str, missing: Sequence[Sample], asked: int, last: bool) -> None:
        where, samples = _listed(missing), counted(asked, "sample")
        if len(missing) < asked:
            await self._warn(stage, f"of {samples}, {_are(missing)} not visible at the target: {where}")
            return
        none = f"none of {samples} of {stage} became visible at the target within {self.context.times.visible:.0f} s"
        await self._warn(stage, f"{none}, though it accepted them")
        if not last:
            raise SamplesMissing(
                "nothing-visible",
                f"{none}, though it accepted them: {where}",
                "Ask the target's support whether its queue stands still, or why it drops them. The same command looks"
                " again, and sends nothing twice.",
            )

    async def _warn(self, stage: str, text: str, code: str = SAMPLES_MISSING) -> None:
        self.context.notify(Warned(SAMPLES_MISSING, f"{stage}: {text}"))
        (row,) = [row for row in await self.store.read(Checkpoint.stages) if row.name == stage]
        message, at = f"{row.message}; {text}" if row.message else text, self.context.now()
        code = code or row.code
        await self.store.write(lambda file: file.stage_state(stage, row.state, at, message, code))


def _are(samples: Sequence[object]) -> str:
    return f"{len(samples)} {'is' if len(samples) == 1 else 'are'}"


def _listed(samples: Sequence[Sample]) -> str:
    return ", ".join(f"record {it.position.ordinal} (batch {batch.seq})" for batch, it in samples[:10])


def _two_owners(records: Sequence[Record]) -> list[Record]:
    """Return the first record, and the last one of another owner."""
    first = list(records[:1])
    return first + [it for it in records[:0:-1] if it.owner != records[0].owner][:1]
