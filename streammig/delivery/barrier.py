"""The barrier behind a stage: what the next one builds on, or the run ends with, must be visible at the target."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from streammig.checkpoint import Checkpoint, Store
from streammig.context import Context
from streammig.errors import UnknownOutcome, counted
from streammig.ports import ReadBack, Seen
from streammig.records import Batch, Record
from streammig.telemetry import Waiting, Warned

BATCHES = 5  # spread from the first accepted batch to the last
POLL = 20.0  # seconds between two looks at what is not yet visible, at most


@dataclass(frozen=True, slots=True)
class Barrier:
    """Lets the next stage start when the target's queue has done its work on the last one (times in seconds)."""

    readback: ReadBack
    store: Store
    context: Context
    retried: bool = False  # only what was a dead letter once

    async def wait(self, stage: str, last: bool = False) -> bool:
        """Wait until samples of this stage can be read back; False if the run is to stop first. Behind the `last`
        stage, which nothing builds on, there is nothing to wait for where no sample can tell.

        Samples that never appear while others do are listed, and the run goes on. Raises `UnknownOutcome` if none of
        them appears within the time for it: then what was accepted has perhaps not been taken at all. Behind a run's
        stage either is the stage's message from then on.
        """
        settled = await self.store.read(lambda file: file.last_settled(stage))
        if settled is None or (not self.retried and await self._seen_before(stage)):
            return True
        missing, others = await self._samples(stage), []
        if last and not missing:
            await self.store.write(lambda file: file.saw(stage))
            return not self.context.stopping
        # A wall clock that was set back by an hour must not make this wait an hour longer.
        times = self.context.times
        rest = min(settled + times.settle - self.context.now(), times.settle)
        if rest > 0:
            self.context.notify(
                Waiting("settling", f"{stage} are accepted; the target is given time to apply them", rest)
            )
            await self.context.pause(rest)
        # Purchases are counted when the target comes to it, maybe hours later: that they are not yet proves nothing.
        proving = not (last and stage == "events")
        asked, now = len(missing), asyncio.get_running_loop().time
        began = now()
        while missing and not self.context.stopping:
            seen = [(it, await self.readback.visible(stage, it[1])) for it in missing]
            missing = [it for it, what in seen if what not in (Seen.ALL, Seen.PART, Seen.OTHER)]
            others += [it for it, what in seen if what is Seen.OTHER]
            # Where some are visible the queue works, and what it dropped never comes: no reason to wait for hours.
            all_of_it = proving and len(missing) == asked
            patience = (
                self.context.times.visible if all_of_it else min(self.context.times.settle, self.context.times.visible)
            )
            if not missing or now() - began >= patience:
                break
            # A queue that was given a second to settle is not left alone for twenty.
            pause = min(POLL, max(self.context.times.settle, 0.05), patience)
            there, rest = f"{asked - len(missing)} of {counted(asked, 'sample')} of {stage}", patience - (now() - began)
            self.context.notify(Waiting("samples", f"{there} are visible yet; up to {rest:.0f} s more", pause))
            await self.context.pause(pause)
        if others:
            # What the next stage builds on is there; that it is not as it was sent is for people to look at.
            there = f"of {counted(asked, 'sample')}, {_are(others)} at the target, but not as sent"
            await self._warn(stage, f"{there}: {_listed(others)}")
        if missing and not self.context.stopping:
            await self._judge(stage, missing, asked, proving)
        if not (missing or others or self.retried or self.context.stopping):
            await self.store.write(lambda file: file.saw(stage))
        return not self.context.stopping

    async def _samples(self, stage: str) -> list[tuple[Batch, Record]]:
        """The first and the last record of some batches that a read-back can say something of."""
        batches = await self.store.read(lambda file: file.sample(stage, BATCHES, self.retried))
        chosen: list[tuple[Batch, Record]] = []
        for batch in batches:
            records = await self.store.records(batch)
            tellable = [record for record in _ends(records) if self.readback.can_tell(stage, record)]
            chosen.extend((batch, record) for record in tellable)
        if not chosen:
            self.context.notify(
                Warned(
                    "not-readable",
                    f"nothing of {stage} can be read back at the target: whether it was applied is not known",
                )
            )
        return chosen

    async def _seen_before(self, stage: str) -> bool:
        return any(row.name == stage and row.seen for row in await self.store.read(Checkpoint.stages))

    async def _judge(self, stage: str, missing: Sequence[tuple[Batch, Record]], asked: int, proving: bool) -> None:
        where, samples = _listed(missing), counted(asked, "sample")
        if len(missing) < asked or not proving:
            await self._warn(stage, f"of {samples}, {_are(missing)} not visible at the target: {where}")
            return
        none = f"none of {samples} of {stage} became visible at the target within {self.context.times.visible:.0f} s"
        await self._note(stage, f"{none}, though it accepted them")
        raise UnknownOutcome(
            "nothing-visible",
            f"{none}, though it accepted them: {where}",
            "Ask the target's support whether its queue stands still, or why it drops them. The same command looks"
            " again, and sends nothing twice.",
        )

    async def _warn(self, stage: str, text: str) -> None:
        self.context.notify(Warned("samples-missing", f"{stage}: {text}"))
        await self._note(stage, text)

    async def _note(self, stage: str, text: str) -> None:
        if self.retried:
            return
        (row,) = [row for row in await self.store.read(Checkpoint.stages) if row.name == stage]
        message, at = f"{row.message}; {text}" if row.message else text, self.context.now()
        await self.store.write(lambda file: file.stage_state(stage, row.state, at, message, row.code))


def _are(samples: Sequence[object]) -> str:
    return f"{len(samples)} {'is' if len(samples) == 1 else 'are'}"


def _listed(samples: Sequence[tuple[Batch, Record]]) -> str:
    return ", ".join(f"record {it.position.ordinal} (batch {batch.seq})" for batch, it in samples[:10])


def _ends(records: Sequence[Record]) -> list[Record]:
    return [records[0], records[-1]] if len(records) > 1 else list(records)
