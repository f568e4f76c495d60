"""Search for the one owner of a rejected batch that the target's answer names."""

from __future__ import annotations

import re
from collections.abc import Sequence

from streammig.model import Range, Record

# What may stand before and after a whole name. So "c-1" is not found in "c-12", "c-1-7", "c-1@shop.example", or at the
# end of a truncated text ("…").
_BEFORE = r"(?<![\w@])(?<!\w[-.+])"
_AFTER = r"(?![\w@…]|[-.+]\w)"


def named_record(message: str, records: Sequence[Record]) -> list[Record]:
    """Return the records of the only owner whose id or e-mail the message contains as a whole token, in any case.

    Empty if it names no owner or several, or if the batch has no other owner. `message` is not redacted yet. The result
    is a hint, never a proof.
    """
    text = message.casefold()
    owners = {
        record.owner for record in records for name in (record.owner, record.unique) if name and _is_in(name, text)
    }
    chosen = [record for record in records if record.owner in owners]
    return chosen if len(owners) == 1 and len(chosen) < len(records) else []


def _is_in(name: str, text: str) -> bool:
    folded = name.casefold()
    # A plain search first: to compile a thousand regular expressions would take 0.2 s.
    return folded in text and re.search(_BEFORE + re.escape(folded) + _AFTER, text) is not None


def set_aside(records: Sequence[Record], nominee: Sequence[Range]) -> tuple[list[Record], list[Record]]:
    """Divide a batch's records: those outside and those inside the nominee's ranges."""
    inside = [any(begin[:3] <= _place(record) < end[:3] for begin, end in nominee) for record in records]
    pairs = list(zip(records, inside, strict=True))
    return [record for record, mine in pairs if not mine], [record for record, mine in pairs if mine]


def _place(record: Record) -> tuple[int, int, int]:
    return record.position.source, record.position.offset, record.unit
