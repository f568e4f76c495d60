"""What the account's file knows of a checkpoint: the slots noted for it, and if it is its newest copy."""

from __future__ import annotations

from dataclasses import dataclass

from streammig.budget import AccountFile, Pacer, Send, Slot, damaged
from streammig.checkpoint import Checkpoint, describe, described
from streammig.records import Batch, Tally
from streammig.telemetry import Notify, Warned


def vouched_for(file: Checkpoint, account: AccountFile, current: bool, tell: Notify) -> bool:
    """Whether the checkpoint is known to be the newest copy, by the account's file or because the operator says so
    (`current`); what it has forgotten of its sends is unknown from now on, and told. Raises like `reconcile`."""
    with file.transaction():  # a copy that is refused is left as it was
        news, vouched = reconcile(file, account)
    if news:
        names = ", ".join(f"{batch.seq} of {batch.stage}" for batch in news[:20])
        tell(
            Warned(
                "checkpoint-older",
                f"the checkpoint is older than its last send: the outcome is unknown for batch {names}",
            )
        )
    if current:
        account.trust(file.run["id"])
    if not vouched:
        then = (
            "as you said that it is, nothing is looked for at the target before"
            if current
            else "each batch is looked for at the target before it is sent, by up to 20 reads, and events, which can't"
            " be looked for, wait for your word (--checkpoint-is-current)"
        )
        tell(
            Warned(
                "fence-missing",
                "the account's file does not know this checkpoint from its beginning on (another host, a lost volume?),"
                f" so nobody can tell whether it is the newest copy: {then}",
            )
        )
    return vouched or current


def reconcile(file: Checkpoint, account: AccountFile) -> tuple[list[Batch], bool]:
    """Compare a checkpoint with what the account's file knows of its sends.

    Returns the batches that the checkpoint did not know to be sent (it was set back in time), now unknown, and whether
    the account's file can vouch for it at all: one that was made later can't, and takes over the sends that the
    checkpoint knows, so that at least no older copy than this one passes for the newest.
    Raises `Unusable` where the account's file is damaged, or the checkpoint too old to be brought up to date.
    """
    run_id, news = file.run["id"], []
    if not account.knows(run_id):
        starts = file.starts()
        sends = [Send(run_id, stage, seq, attempt, at) for stage, seq, attempt, at in starts]
        account.seed(run_id, [it.at for it in sends], sends, max((it.at for it in sends), default=0.0))
        return [], False
    for send in account.sends_of(run_id):
        blank = Batch(send.stage, send.seq, (), Tally(), b"", 0)
        try:
            batch = described(send.stage, send.seq, send.what) if send.what else blank
        except ValueError as error:
            raise damaged(account.path, str(error)) from None
        if file.adopt(batch, send.attempt, send.at):
            news.append(batch)
    return news, not account.doubts(run_id)


@dataclass(frozen=True, slots=True)
class AccountSlots:
    """The account's slots for one checkpoint: each is noted with the batch and attempt it is used for."""

    pacer: Pacer
    run_id: str

    async def take(self, batch: Batch, attempt: int) -> Slot:
        send = Send(self.run_id, batch.stage, batch.seq, attempt, self.pacer.now(), describe(batch))
        return await self.pacer.slot("migration", send)

    def answered(self, latency: float) -> None:
        self.pacer.answered(latency)

    async def hold(self, seconds: float) -> None:
        await self.pacer.hold(seconds)

    async def throttled(self) -> None:
        await self.pacer.throttled()
