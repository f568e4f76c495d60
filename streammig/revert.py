"""Reverts a run: one request for the time window of its customers, then a read-back of each customer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from streammig.checkpoint import Window
from streammig.checkpoint.reverts import (
    ACCEPTED,
    AGAIN,
    DONE,
    NOT_LANDED,
    NOT_SENT,
    REFUSED,
    SENDING,
    UNKNOWN,
    Reverting,
)
from streammig.delivery.backoff import Backoff
from streammig.delivery.sender import BLIND_WAIT
from streammig.errors import SamplesMissing, TargetStop, UnknownOutcome, Unusable
from streammig.model import Kind, Receipt
from streammig.revert_looks import RevertLooks, RevertWork
from streammig.run import Run
from streammig.target import Reverts
from streammig.telemetry import Waiting
from streammig.verify.looks import Looks

STATES = {
    Kind.ACCEPTED: ACCEPTED, Kind.UNKNOWN: UNKNOWN, Kind.NOT_SENT: NOT_SENT, Kind.THROTTLED: NOT_SENT,
    Kind.UNAUTHORIZED: NOT_SENT,
}  # fmt: skip


@dataclass(slots=True)
class Revert:
    """One call of `revert`.

    The intent is durable before the request leaves. An unknown outcome is read back before the request may be made
    again. After any interruption the same call resumes.
    """

    run: Run
    state_folder: Path
    expected: int  # customers, as the operator confirmed
    tell: Callable[[str], None]  # gets the id of each customer that is still there

    async def revert(self) -> dict[str, Any] | None:
        """Revert the run. Returns a summary with the customers gone and stayed, once it is durable; None if stopped.

        Raises `Unusable` if the run can't be reverted, `TargetStop` if the target refuses, `UnknownOutcome` if the
        request did not land, `SamplesMissing` if it was accepted and all customers are still there.
        """
        store, read = self.run.store, self.run.reading.read
        last = await store.read(lambda file: file.last_revert())
        again = last is None or last.state in AGAIN
        number = 1 if last is None else last.number + again
        run_id: str = (await store.read(lambda file: file.run))["id"]
        work = await read(RevertWork, self.state_folder / f"revert-{run_id}.sqlite")
        with closing(work):
            batches = {name: self.run.reading.lookup.accepted(name) for name in self.run.reading.inputs}
            await read(work.begin, f"revert {number}", batches)
            if again and not await self._begun(work):
                return None
            last = await store.read(lambda file: file.last_revert())
            assert last is not None
            if last.state == SENDING:  # an earlier process ended; its request may have left
                await store.write(lambda file: file.revert_is(last.number, UNKNOWN, "the process ended"))
            return await self._read_back(last, work)

    async def _begun(self, work: RevertWork) -> bool:
        """Check the number of customers, wait for the target's queue, and make the request. False if stopped."""
        settle, owners = self.run.context.times.settle, self.run.reading.owners
        window = await self.run.store.read(lambda file: file.window(owners, settle))
        if window.customers != self.expected:
            raise Unusable(
                "revert-unconfirmed",
                f"customers of this run to be reverted: {window.customers:,}; confirmed: {self.expected:,}",
                f"Look again, and confirm the number: {self.run.store.command('revert', '--dry-run')}",
            )
        if not await self.run.reading.read(self._reading(work, window).readable):
            raise Unusable(
                "revert-unseen",
                "no customer of this run can be read back: another mapping made them, or a retry corrected their ids",
                "Restore the mapping that made them. Nothing was sent: a read-back could not show the result.",
            )
        # Until the window is over, the target's queue may still hold customers of this run.
        return await self._until(window.over) and await self._send(window)

    def _reading(self, work: RevertWork, window: Window) -> RevertLooks:
        looks = Looks(self.run, work, [], self.run.reading.owners, None, window.customers, {}, task="reverting")
        return RevertLooks(self.run, work, looks, window.customers)

    async def _until(self, moment: float) -> bool:
        seconds = moment - self.run.context.now()
        if seconds > 0:
            said = "the target's queue may still hold customers of this run"
            self.run.context.notify(Waiting("settling", said, seconds))
        return await self.run.context.pause(seconds)

    # -- the request -------------------------------------------------------------------------------------------------

    async def _send(self, window: Window) -> bool:
        """Repeat the request until it is accepted or its outcome is unknown. False if stopped."""
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
                return True
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
        return False

    async def _wait(self, receipt: Receipt, failures: int, said: str) -> None:
        context = self.run.context
        if receipt.kind is Kind.THROTTLED:
            await self.run.target.permits.on_429()
            seconds = BLIND_WAIT if receipt.retry_after is None else receipt.retry_after
            await self.run.target.permits.pause_for(seconds)  # notifies by itself
        else:
            seconds = Backoff().delay(failures, context.rng)
            context.notify(Waiting("no-connection", f"no connection to the target: {said}", seconds))
            await context.pause(seconds)

    # -- the read-back -----------------------------------------------------------------------------------------------

    async def _read_back(self, last: Reverting, work: RevertWork) -> dict[str, Any] | None:
        """Read back every customer of the run until nothing changes any more. None if stopped."""
        run, read, window = self.run, self.run.reading.read, last.window
        if last.state == DONE:  # an earlier process ended before it could report
            return await self._tell(work, last.summary)
        reading = self._reading(work, window)
        settled = min(last.began + run.context.times.settle - run.context.now(), run.context.times.settle)
        if not await run.context.pause(settled) or not await reading.all():
            return None
        looked, stayed = (await read(work.progress, run.reading.owners)).looked, await read(work.left)
        if looked == stayed:
            await self._nothing_gone(last)
        if not await reading.share_out():
            return None
        summary = {
            "customers": window.customers, "gone": looked - stayed, "stayed": stayed,
            "not_read_back": window.customers - looked, "at": run.context.now(),
        }  # fmt: skip
        everything = looked - stayed == window.customers
        await run.store.write(lambda file: file.reverted(last.number, summary, partial(work.gone_of, everything)))
        return await self._tell(work, summary)

    async def _tell(self, work: RevertWork, summary: Mapping[str, Any]) -> dict[str, Any]:
        """Report the customers that stayed, and let other checkpoints send the export."""
        run_id: str = (await self.run.store.read(lambda file: file.run))["id"]
        await self.run.target.permits.release(run_id)
        await self.run.reading.read(self._tell_kept, work)
        return dict(summary)

    def _tell_kept(self, work: RevertWork) -> None:
        for it in work.suspects():
            self.tell(it.item.record.owner)
        work.forget()

    async def _nothing_gone(self, last: Reverting) -> None:
        waited = self.run.context.times.visible
        if last.state == ACCEPTED:
            raise SamplesMissing(
                "revert-not-visible",
                f"the target accepted the revert, but all customers are still there after {waited:.0f} s",
                "Ask the target's support whether its queue stands still. The same command looks again; it sends no"
                " second revert.",
            )
        await self.run.store.write(lambda file: file.revert_is(last.number, NOT_LANDED))
        raise UnknownOutcome(
            "revert-not-landed",
            f"the revert got no answer, and all customers are still there after {waited:.0f} s: it did not land",
            "The same command asks the target once more.",
        )
