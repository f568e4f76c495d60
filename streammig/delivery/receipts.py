"""The consequences of a receipt for its batch and for the run."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from streammig.errors import TargetStop
from streammig.model import Batch, BatchState, Kind, Receipt

_HINTS = {
    401: "Check the API key.",
    403: "Check that the API key may migrate: the account may lack the permission, or a firewall answers.",
    404: "Check --base-url: no service answers there under the path of the migration.",
    405: "Check --base-url: the service there accepts no migrations.",
}
_STATES = {
    Kind.ACCEPTED: BatchState.ACCEPTED, Kind.REJECTED: BatchState.REJECTED, Kind.UNKNOWN: BatchState.UNKNOWN,
}  # fmt: skip


def state_after(receipt: Receipt) -> BatchState:
    """Return the state of a batch after its receipt. SEALED: not processed, also if the answer is about the run."""
    if receipt.kind is Kind.REJECTED and receipt.stop_after:
        return BatchState.SEALED
    return _STATES.get(receipt.kind, BatchState.SEALED)


def as_ruled(batch: Batch, receipt: Receipt) -> Receipt:
    """Apply the operator's ruling to a receipt: the status that stops runs rejects only the records of this batch."""
    if receipt.kind is Kind.REJECTED and receipt.stop_after and receipt.status == batch.rejects:
        return msgspec.structs.replace(receipt, stop_after=0)
    return receipt


@dataclass(slots=True)
class Stops:
    """Counts receipts in a row that are about the run, not about a batch."""

    _row: int = 0

    def counts(self, receipt: Receipt) -> bool:
        """Count a receipt; return True if the run must stop. A request without an answer leaves the count as it is."""
        if not receipt.stop_after:
            self._row = self._row if receipt.status is None else 0
            return False
        self._row += 1
        return self._row >= receipt.stop_after


def refusal(batch: Batch, receipt: Receipt, resolve: str) -> TargetStop:
    """Return the error that stops the run after an answer that is not about the batch.

    `resolve` is the command that decides about the batch, "" if no batch of its stage was accepted yet.
    """
    known = receipt.kind is Kind.REJECTED and receipt.status is not None
    hint = _HINTS.get(receipt.status or 0) if known else None
    hint = hint or "Look at what answers at --base-url: a proxy, a login page, another service."
    if known and resolve:
        hint += (
            " If this batch alone is the cause, say so with:"
            f" {resolve} --stage {batch.stage} --reject (its bad records are searched), or with --set-aside (all of it"
            " becomes dead letters)."
        )
    return TargetStop(
        "target-refuses",
        f"batch {batch.seq} of {batch.stage}: the target answered {receipt.status}"
        + (f": {receipt.message}" if receipt.message else ""),
        f"{hint} Then run the same command: it goes on from here.",
    )
