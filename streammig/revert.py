"""Reverts a run: one request for the window in which its customers were migrated, and a read-back of each."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from streammig.batching import ranges_of
from streammig.checkpoint import Accepted, Beside, Window
from streammig.checkpoint.reverts import ACCEPTED, AGAIN, NOT_LANDED, NOT_SENT, REFUSED, SENDING, UNKNOWN
from streammig.delivery.backoff import Backoff
from streammig.delivery.sender import BLIND_WAIT
from streammig.errors import SamplesMissing, TargetStop, UnknownOutcome, Unusable
from streammig.model import Kind, Receipt, add_up
from streammig.run import Run
from streammig.target import MISSING, Difference, Reverts
from streammig.telemetry import Waiting
from streammig.verify.accepted import Passage, Wanted
from streammig.verify.looks import Looks
from streammig.verify.pool import Found, Pool
from streammig.verify.work import Done, Item, Suspect, Work, after, start_at

FIRST = 20  # customers that are looked at until one of them is gone
LOOK = 30.0  # seconds between two looks, at most
THERE = [Difference("", "kept")]
STATES = {
    Kind.ACCEPTED: ACCEPTED, Kind.UNKNOWN: UNKNOWN, Kind.NOT_SENT: NOT_SENT, Kind.THROTTLED: NOT_SENT,
    Kind.UNAUTHORIZED: NOT_SENT,
}  # fmt: skip


@dataclass(slots=True)
class Revert:
    """One call of `revert`. `expected` is the number of customers that the operator confirmed.

    The intent is durable before the request leaves. An unknown outcome is read back before the request may be made
    again. After any interruption the same call goes on from there.
    """

    run: Run
    state_folder: Path
    expected: int

    async def revert(self) -> dict[str, Any] | None:
        """How many customers are gone and how many stayed, once this is in the checkpoint; None if stopped before.

        Raises `Unusable` where the run can't be reverted, `TargetStop` where the target refuses, `UnknownOutcome` where
        the request did not land, and `SamplesMissing` where it was accepted and all customers are still there.
        """
        store = self.run.store
        settle = self.run.context.times.settle
        owners = self.run.reading.owners
        last = await store.read(lambda file: file.last_revert())
        if last is None or last.state in AGAIN:
            window = await store.read(lambda file: file.window(owners, settle))
            if window.customers != self.expected:
                raise Unusable(
                    "revert-unconfirmed",
                    f"customers of this run to be reverted: {window.customers:,}; confirmed: {self.expected:,}",
                    "Look again, and confirm the number: streammig revert CHECKPOINT --dry-run",
                )
            # Until the window is over, the target's queue may still hold customers of this run.
            if not await self._until(window.over) or await self._send(window) is None:
                return None
            last = await store.read(lambda file: file.last_revert())
        assert last is not None
        if last.state == SENDING:  # the process ended, and the request may have left
            await store.write(lambda file: file.revert_is(last.number, UNKNOWN, "the process ended"))
        return await self._read_back(last.number, last.window, last.began, accepted=last.state == ACCEPTED)

    async def _until(self, moment: float) -> bool:
        seconds = moment - self.run.context.now()
        if seconds > 0:
            said = "the target's queue may still hold customers of this run"
            self.run.context.notify(Waiting("settling", said, seconds))
        return await self.run.context.pause(seconds)

    # -- the request -------------------------------------------------------------------------------------------------

    async def _send(self, window: Window) -> str | None:
        """Make the request until it is accepted or its outcome is unknown; None if stopped before."""
        run, renewed, failures = self.run, False, 0
        client = run.target.client
        if not isinstance(client, Reverts):
            raise Unusable("revert-unsupported", "this target can't revert what was migrated", "Nothing was sent.")
        while (permit := await run.context.until_stopped(run.target.permits.acquire())) is not None:
            at = run.context.now()
            number = await run.store.write(lambda file, at=at: file.begin_revert(window, at))  # type: ignore[misc]
            receipt = await client.revert(window.start, window.end, permit.sent)
            said = receipt.message if receipt.ours or receipt.status is None else client.redact(receipt.message)
            state = STATES.get(receipt.kind, REFUSED)
            await run.store.write(lambda file, it=(number, state, said): file.revert_is(*it))  # type: ignore[misc]
            if state in (ACCEPTED, UNKNOWN):
                return state
            if state == REFUSED or (receipt.kind is Kind.UNAUTHORIZED and renewed):
                raise TargetStop(
                    "revert-refused",
                    f"the target refused to revert ({receipt.status})" + (f": {said}" if said else ""),
                    "Nothing was reverted. Ask the target's support for the reason.",
                )
            if receipt.kind is Kind.NOT_SENT:
                permit.unsent()
            if receipt.kind is Kind.UNAUTHORIZED:
                renewed = True
                await run.target.client.renew()
            else:
                failures += 1
                await self._wait(receipt, failures, said)
        return None

    async def _wait(self, receipt: Receipt, failures: int, said: str) -> None:
        context = self.run.context
        if receipt.kind is Kind.THROTTLED:
            await self.run.target.permits.on_429()
            seconds = BLIND_WAIT if receipt.retry_after is None else receipt.retry_after
            await self.run.target.permits.pause_for(seconds)  # which tells it
        else:
            seconds = Backoff().delay(failures, context.rng)
            context.notify(Waiting("no-connection", f"no connection to the target: {said}", seconds))
            await context.pause(seconds)

    # -- the read-back -----------------------------------------------------------------------------------------------

    async def _read_back(self, number: int, window: Window, began: float, accepted: bool) -> dict[str, Any] | None:
        """Read back every customer of the run until nothing changes any more; None if stopped before."""
        run, read, owners = self.run, self.run.reading.read, self.run.reading.owners
        batches = await run.store.read(lambda file: {row.name: list(file.accepted(row.name)) for row in file.stages()})
        run_id: str = (await run.store.read(lambda file: file.run))["id"]
        work = await read(Work, self.state_folder / f"revert-{run_id}.sqlite")
        with closing(work):
            await read(work.begin, f"revert {number}", batches)
            looks = Looks(run, work, {}, owners, None, window.customers, {}, task="reverting")
            reading = _Reading(run, work, looks, window.customers)
            settled = min(began + run.context.times.settle - run.context.now(), run.context.times.settle)
            if not await run.context.pause(settled) or not await reading.all():
                return None
            kept = await read(lambda: list(work.suspects()))
            if len(kept) == window.customers:
                await self._nothing_gone(number, accepted)
            stays = await read(self._stays, work, kept, batches)
            looked = (await read(work.progress, owners)).looked
            summary = self._summary(window, kept, looked)
            await run.store.write(lambda file: file.reverted(number, summary, stays))
            await run.target.permits.release(run_id)
            await read(work.forget)
        return summary | {"kept": [it.item.record.owner for it in kept]}

    async def _nothing_gone(self, number: int, accepted: bool) -> None:
        waited = self.run.context.times.visible
        if accepted:
            raise SamplesMissing(
                "revert-not-visible",
                f"the target accepted the revert, but all customers are still there after {waited:.0f} s",
                "Ask the target's support whether its queue stands still. The same command looks again; it sends no"
                " second revert.",
            )
        await self.run.store.write(lambda file: file.revert_is(number, NOT_LANDED))
        raise UnknownOutcome(
            "revert-not-landed",
            f"the revert got no answer, and all customers are still there after {waited:.0f} s: it did not land",
            "The same command asks the target once more.",
        )

    def _stays(
        self, work: Work, kept: Sequence[Suspect], batches: Mapping[str, Sequence[Accepted]]
    ) -> dict[str, list[Beside]]:
        """What is still at the target, by stage: the records of the customers that stayed."""
        owners = {it.item.record.owner for it in kept}
        found: dict[str, list[Beside]] = {}
        for name, it in self.run.reading.inputs.items() if owners else ():
            items = Passage(name, it.source, it.rules, work.ranges).items(wanted=Wanted(owners, ()))
            found[name] = [
                Beside(seq, ranges_of(records), add_up(record.tally for record in records))
                for seq, group in groupby(sorted(items, key=lambda item: (item.seq, item.place)), lambda item: item.seq)
                for records in [[item.record for item in group]]
            ]
        return found

    def _summary(self, window: Window, kept: Sequence[Suspect], looked: int) -> dict[str, Any]:
        return {
            "customers": window.customers, "gone": looked - len(kept), "stayed": len(kept),
            "not_read_back": window.customers - looked, "at": self.run.context.now(),
        }  # fmt: skip


@dataclass(slots=True)
class _Reading:
    """Looks at all customers of a run until all are gone, or nothing changes any more."""

    run: Run
    work: Work
    looks: Looks
    customers: int

    async def all(self) -> bool:
        """Look until then; False if stopped before. Customers that are still there are the work's suspects."""
        context, read = self.run.context, self.run.reading.read
        now, began = asyncio.get_running_loop().time, asyncio.get_running_loop().time()
        first = await read(lambda: list(islice(self.looks.passage(self.run.reading.owners).items(), FIRST)))
        # The target reverts in its own time: until a first customer is gone, a look at all of them tells nothing.
        while first and all([await self._there(it) for it in first]):
            if now() - began >= context.times.visible:
                break
            if not await self._pause("no customer is gone yet"):
                return False
        if not await self._pass():
            return False
        left, since = await read(self.work.left), now()
        while left and now() - since < (context.times.settle if left < self.customers else 0.0):
            if not await self._pause(f"customers still there: {left:,}") or not await self._again():
                return False
            before, left = left, await read(self.work.left)
            since = since if left == before else now()
        return not context.stopping

    async def _there(self, item: Item) -> bool:
        return bool(await self.run.context.until_stopped(self._look(item)))

    async def _look(self, item: Item) -> list[Difference] | None:
        """An empty list where the customer is gone, `THERE` where it is not; None if the run is to stop."""
        found = await self.looks.look(self.run.reading.owners, item)
        if found is None:
            return None
        return [] if found and found[0].reason == MISSING else THERE

    async def _pass(self) -> bool:
        name = self.run.reading.owners
        place = (await self.run.reading.read(self.work.progress, name)).place

        def note(found: Found) -> None:
            last = max(it.place for it, _ in found)
            self.work.note(name, Done(last, len(found)), [Suspect(name, it, how) for it, how in found if how])

        items = after(self.looks.passage(name).items(start_at(place)), place)
        return await self._pool(note).over(items)

    async def _again(self) -> bool:
        """Look once more at those that are still there."""
        name = self.run.reading.owners

        def note(found: Found) -> None:
            self.work.note_again(name, found)

        items: Iterator[Item] = (it.item for it in self.work.suspects(again=True))
        done = await self._pool(note).over(items)
        await self.run.reading.read(self.work.drop_found)
        return done

    def _pool(self, note: Any) -> Pool:
        return Pool(self.run.reading, self.run.context, self.run.settings.concurrency, self._look, note)

    async def _pause(self, said: str) -> bool:
        seconds = min(LOOK, max(self.run.context.times.settle, 0.05))
        self.run.context.notify(Waiting("reverting", f"reading back the revert: {said}", seconds))
        return await self.run.context.pause(seconds)
