"""The one account of how much of a stage is settled, for bar, log and `status`."""

from __future__ import annotations

from streammig.checkpoint import Checkpoint
from streammig.model import Kind
from streammig.telemetry import Account, Advanced, Answered, DeadLettered, Notice, StageBegan

ALMOST = 0.999


class StageProgress:
    """How much of a stage is settled: accepted, dead-lettered or filtered, in units.

    `status` reads these numbers from the checkpoint, a run is told them by its notices: bar, log and `status` agree.
    """

    def __init__(self, account: Account = Account()) -> None:  # noqa: B008  # frozen
        self._account = account

    def hear(self, notice: Notice) -> None:
        it = self._account
        match notice:
            case StageBegan(_, account):
                self._account = account
            case Advanced(_, frontier, read, filtered):
                self._account = it._replace(frontier=frontier, read=read, filtered=filtered, complete=False)
            case Answered(batch, receipt) if receipt.kind is Kind.ACCEPTED:
                self._account = it._replace(accepted=it.accepted + batch.tally.units)
            case DeadLettered(_, tally):
                self._account = it._replace(dead=it.dead + tally.units)

    @property
    def accepted(self) -> int:
        return self._account.accepted

    @property
    def share(self) -> float | None:
        """From 0 to almost 1: a stage is whole when it has ended. None where the length of its files is not known."""
        return share_settled(self._account)


def account_of(checkpoint: Checkpoint, stage: str) -> Account:
    """How far a stage is, as the checkpoint knows it."""
    totals = checkpoint.totals(stage)
    (state,) = [row.state for row in checkpoint.stages() if row.name == stage]
    return Account(
        frontier=checkpoint.progress(stage).frontier, sizes=checkpoint.lengths(stage), read=totals.taken.units,
        accepted=totals.accepted.units, dead=totals.dead.units, filtered=totals.filtered.units,
        pending=totals.pending.units, complete=state == "complete",
    )  # fmt: skip


def share_settled(account: Account) -> float | None:
    """The share of a stage's units that is settled, from 0 to 1; None where that can't be told.

    How many units the unread part of the export holds is estimated by its bytes.
    """
    settled = account.accepted + account.dead + account.filtered
    of_read = min(max(settled / account.read, 0.0), 1.0) if account.read else 1.0
    if account.complete:
        return of_read
    sizes, frontier = account.sizes, account.frontier
    if not sizes or not sum(sizes):
        return None
    # Of a compressed file the length is an estimate: only the end of the stage is the end.
    return min((sum(sizes[: frontier.source]) + frontier.offset) / sum(sizes), ALMOST) * of_read
