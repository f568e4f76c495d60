"""Leaves records out around the target's rules: duplicates, records of absent owners, balances that do not add up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from streammig.batching import cut
from streammig.checkpoint import MISSED, Spot
from streammig.columns import Chunk, Columns
from streammig.dedup import UNKNOWN, KeyIndex, sums_of
from streammig.model import FILTERED, DeadLetter, Examined, Place, Range, Record, Span
from streammig.target import Rules

Absent = Callable[[Iterable[str]], Mapping[str, str]]
"""Takes owners. Returns those that will not be at the target, each with `FILTERED` or a dead letter's code."""

Repeated = Callable[[Place, Place], Mapping[Spot, tuple[str, str]]]
"""Takes two places. Returns the duplicates between them: a dead letter's code and message, by spot."""

NO_CUSTOMER = "its customer is not in the export, or its record there has no id that can be read"
UNDECIDED = "undecided"  # the reason of an absent owner whose batch is parked
NOT_DECIDED = "its customer's batch is parked: decide that with resolve, then send this with retry"
MISSED_BEFORE = (
    "the older run has sent its customer, but the target does not show the customer: send the customer again with"
    " retry --missing of that run, then retry this"
)
# By the reason of an absent owner; else its record is a dead letter for that reason.
MESSAGES = {UNDECIDED: NOT_DECIDED, MISSED: MISSED_BEFORE, UNKNOWN: NO_CUSTOMER}
BALANCE_DIFFERS = "balance-differs"
NOT_EXPLAINED = "its transactions do not add up, by reward and brand, to the balance of its customer"
OF_FILTERED = "customer-filtered"  # the filter for records of a filtered customer

Why = tuple[str, str]
"""The code and the message of a dead letter. For a filtered record the message is ""."""


class WithoutRepeated:
    """Rules that leave out duplicates: records whose owner or other unique key occurs more than once."""

    def __init__(self, rules: Rules, repeated: Repeated) -> None:
        self.head, self.tail, self.once = rules.head, rules.tail, rules.once
        self._rules, self._repeated = rules, repeated

    def columns(self, span: Span) -> Columns:
        columns = self._rules.columns(span)
        repeated = self._repeated(span.position(0).begin, span.end)
        if not repeated:
            return columns
        offsets = {offset for _, offset, _ in repeated}
        ats = {at for at in range(len(span)) if span.position(at).offset in offsets}

        def change(it: Examined) -> Examined:
            where = it.position.source, it.position.offset
            return leave_out(it, [(record, repeated.get((*where, record.unit))) for record in it.records])

        return Chunk(span, columns).changed(ats, change)


class WithOwners:
    """Rules that leave out records of owners that will not be at the target.

    `sealed` are ranges in reading order. Their records are in a batch already, and stay there even if the owner has
    become absent since.
    """

    def __init__(self, rules: Rules, absent: Absent, sealed: Sequence[Range] = ()) -> None:
        self.head, self.tail, self.once = rules.head, rules.tail, rules.once
        self._rules, self._absent, self._sealed = rules, absent, sealed

    def columns(self, span: Span) -> Columns:
        columns = self._rules.columns(span)
        absent = self._absent({*columns.owners})
        if not absent:
            return columns
        ats = {at for at, owner in zip(columns.index, columns.owners, strict=True) if owner in absent}

        def change(it: Examined) -> Examined:
            parts: list[tuple[Record, Why | None]] = []
            for record in it.records:
                if reason := absent.get(record.owner):
                    why = why_left_out(reason)
                    parts += [(part, None if inside else why) for part, inside in cut([record], self._sealed)]
                else:
                    parts.append((record, None))
            return leave_out(it, parts)

        return Chunk(span, columns).changed(ats, change)


class WithBalance:
    """Rules of a once-only stage that leave out records that do not add up to their owner's balance.

    `own`: the stage's rules without any wrapper. `index`: the owners' index.
    """

    def __init__(self, rules: Rules, own: Rules, index: KeyIndex) -> None:
        self.head, self.tail, self.once = rules.head, rules.tail, rules.once
        self._rules, self._own, self._index = rules, own, index

    def columns(self, span: Span) -> Columns:
        columns = self._rules.columns(span)
        chunk, index = Chunk(span, columns), self._index
        sums = sums_of(self._own, chunk, bytes.fromhex(index.about.key))
        rows = zip(columns.index, columns.owners, sums, strict=True)
        ats = {at for at, owner, own in rows if index.differs(owner, own)}

        def change(it: Examined) -> Examined:
            return leave_out(it, [(record, (BALANCE_DIFFERS, NOT_EXPLAINED)) for record in it.records])

        return chunk.changed(ats, change) if ats else columns


def why_left_out(reason: str) -> Why:
    """The code and message for a record whose owner is absent for this reason."""
    if reason == FILTERED:
        return OF_FILTERED, ""
    return "owner-" + reason, MESSAGES.get(reason, f"its customer's record is a dead letter: {reason}")


def leave_out(it: Examined, parts: Sequence[tuple[Record, Why | None]]) -> Examined:
    """Replace the records of a source record by these parts. A part with a `Why` becomes filtered or a dead letter."""
    kept = tuple(part for part, why in parts if why is None)
    filtered = [(why[0], part.tally) for part, why in parts if why is not None and not why[1]]
    dead = [DeadLetter(part.position, part.unit, *why, part.tally) for part, why in parts if why is not None and why[1]]
    return msgspec.structs.replace(it, records=kept, filtered=(*it.filtered, *filtered), dead=(*it.dead, *dead))
