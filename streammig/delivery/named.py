"""Finds the one owner of a rejected batch that the target's answer names."""

from __future__ import annotations

import re
from collections.abc import Sequence

from streammig.model import Range, Record

# A name begins and ends where no longer name could go on: "c-1" is no token of "c-12", "c-1-7", "c-1@shop.example" or
# of a text that was cut behind it.
_BEFORE = r"(?<![\w@])(?<!\w[-.+])"
_BEHIND = r"(?![\w@…]|[-.+]\w)"


def named_record(message: str, records: Sequence[Record]) -> list[Record]:
    """The records of the only owner whose id or e-mail stands in the message as a whole token, whatever its case.

    Empty if nobody's does, or those of several owners, or if the batch holds nobody else: then there is nothing to set
    aside. `message` is what the target said, not yet redacted. A naming is a hint, never a proof.
    """
    text = message.casefold()
    owners = {
        record.owner for record in records for name in (record.owner, record.unique) if name and _stands(name, text)
    }
    chosen = [record for record in records if record.owner in owners]
    return chosen if len(owners) == 1 and len(chosen) < len(records) else []


def _stands(name: str, text: str) -> bool:
    folded = name.casefold()
    # The plain search first: a thousand regular expressions would take 0.2 s to compile.
    return folded in text and re.search(_BEFORE + re.escape(folded) + _BEHIND, text) is not None


def set_aside(records: Sequence[Record], nominee: Sequence[Range]) -> tuple[list[Record], list[Record]]:
    """The rest of a batch's records, and those that lie in the nominee's ranges."""
    inside = [any(begin[:3] <= _place(record) < end[:3] for begin, end in nominee) for record in records]
    pairs = list(zip(records, inside, strict=True))
    return [record for record, mine in pairs if not mine], [record for record, mine in pairs if mine]


def _place(record: Record) -> tuple[int, int, int]:
    return record.position.source, record.position.offset, record.unit
