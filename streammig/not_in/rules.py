"""The rules of a stage, without what an older run sent, or what was issued before a moment."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from streammig.batching import cut
from streammig.batching.body import part_of
from streammig.columns import Chunk, Columns
from streammig.errors import Unusable
from streammig.model import Examined, Record, Span
from streammig.not_in.left import Issued, Left
from streammig.selection import Absent, leave_out
from streammig.target import MayHide, Rules
from streammig.verify.work import Work

SENT_BEFORE, BEFORE_SINCE = "sent-before", "before-since"  # the filters


class WithoutLeft:
    """The rules of a stage, without the records of owners that have some at the target already. It pickles."""

    def __init__(self, rules: Rules, stage: str, left: Left) -> None:
        self.head, self.tail, self.once = rules.head, rules.tail, rules.once
        self._rules, self._stage, self._left = rules, stage, left
        if isinstance(rules, MayHide):
            self.hides, self.unread, self.made = rules.hides, rules.unread, rules.made

    def columns(self, span: Span) -> Columns:
        columns = self._rules.columns(span)
        there = self._left.present(self._stage, {*columns.owners})
        ats = {at for at, owner in zip(columns.index, columns.owners, strict=True) if owner in there}

        def change(it: Examined) -> Examined:
            gone = (SENT_BEFORE, "")
            return leave_out(it, [(record, gone if record.owner in there else None) for record in it.records])

        return Chunk(span, columns).changed(ats, change) if ats else columns


class WithoutSent:
    """The rules of a stage, without the units at places that an older run sent: for an export that is unchanged.

    Between those places lies what belongs to customers that the older run left out: `filtered` names them.
    """

    def __init__(self, rules: Rules, stage: str, work: Work, filtered: Absent) -> None:
        self.head, self.tail, self.once = rules.head, rules.tail, rules.once
        self._rules, self._stage, self._work, self._filtered = rules, stage, work, filtered

    def columns(self, span: Span) -> Columns:
        columns = self._rules.columns(span)
        ranges, _ = self._work.ranges(self._stage, span.source, span.offset, span.end.offset)
        if not ranges or not len(columns):
            return columns

        never = self._filtered({*columns.owners})

        def change(it: Examined) -> Examined:
            gone, parts = (SENT_BEFORE, ""), cut(it.records, ranges)
            return leave_out(it, [(at, gone if inside and at.owner not in never else None) for at, inside in parts])

        return Chunk(span, columns).changed({*columns.index}, change)


class Since:
    """The rules of a counted stage, without units issued before a moment, in seconds since the epoch."""

    def __init__(self, rules: Rules, moment: float, issued: Issued) -> None:
        self.head, self.tail, self.once = rules.head, rules.tail, rules.once
        self._rules, self._moment, self._issued = rules, moment, issued

    def columns(self, span: Span) -> Columns:
        columns = self._rules.columns(span)
        chunk = Chunk(span, columns)
        old = {
            at
            for at, record in zip(columns.index, chunk.records(0, len(columns)), strict=True)
            if min(self._issued(record.body)) < self._moment
        }

        def change(it: Examined) -> Examined:
            return leave_out(it, [part for record in it.records for part in self._parts(record)])

        return chunk.changed(old, change) if old else columns

    def _parts(self, record: Record) -> Iterator[tuple[Record, tuple[str, str] | None]]:
        for unit, at in enumerate(self._issued(record.body)):
            yield part_of(record, unit, unit + 1), (BEFORE_SINCE, "") if at < self._moment else None


def parse_since(text: str) -> float:
    """The moment that `--since` names, in seconds since the epoch. Raises `Unusable`."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise Unusable(
            "since-invalid", f"since: {text!r} is no moment with a time zone", "Write it like 2026-01-31T00:00:00Z"
        )
    return moment.timestamp()
