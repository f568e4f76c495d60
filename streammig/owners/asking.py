"""What is asked of a finished owner table while a stage is read: plain functions, fit to go to another process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from streammig.checkpoint import Checkpoint
from streammig.owners.table import OwnerTable
from streammig.records import Place

REFUSED, RESEALED = "refused", "resealed"
# What becomes of a customer after the owner table is made: by the target, or by a mapping that was mended meanwhile.
_LATER = (REFUSED, RESEALED)
_KEYS = {"duplicate-customer": "id", "duplicate-email": "e-mail"}


def repeated(table: OwnerTable, begin: Place, end: Place) -> Mapping[tuple[int, int, int], tuple[str, str]]:
    """The customers between two places that stand twice: (source, offset, unit) to code and message."""
    return {
        it.place[:3]: (it.code, f"the same {_KEYS[it.code]} stands in record {it.first.ordinal} already, which is sent")
        for it in table.duplicates(begin, end)
    }


def absent(table: OwnerTable | None, lookup: Checkpoint, stage: str | None, owners: Iterable[str]) -> Mapping[str, str]:
    """Who of these will not be in the target by the export, or by what became of it, with the code of the reason.

    Whom a retry has brought to the target is there for the stages that began after it, and now (`stage` is None).
    """
    asked = list(owners)
    released = lookup.released_of(asked, stage)
    asked = [owner for owner in asked if owner not in released]
    noted = lookup.absent_reasons(asked)
    if table is None:
        return noted
    # What the checkpoint noted while reading can be wrong for an id that stands twice: the table knows better.
    return {owner: why for owner, why in noted.items() if why in _LATER} | table.absent(asked)
