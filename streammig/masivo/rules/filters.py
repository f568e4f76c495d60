"""What is left out on purpose: deleted and inactive customers, reversed events.

The contract names no field for these states on an export, so a short list is known, and settings add to it:

- a customer is deleted if `deleted_at` is there and holds something, or `status` is DELETED
- a customer is inactive if `status` is INACTIVE
- an event is reversed if `reversed_at` is there and holds something, `reversed` is true, or `status` is REVERSED

Holds nothing: null, false, the empty text. These fields are never sent, and never count as unknown.
"""

from __future__ import annotations

from collections.abc import Mapping

from streammig.masivo.rules.options import Match, RuleOptions, matches
from streammig.masivo.rules.values import text_of
from streammig.masivo.splice import Member

CUSTOMER_FIELDS = frozenset({"deleted_at", "status"})
EVENT_FIELDS = frozenset({"reversed_at", "reversed", "status"})

Fields = Mapping[str, Member]


class Filters:
    """Tells the filter that holds for a customer or event from the fields it has."""

    def __init__(self, options: RuleOptions) -> None:
        self._deleted = matches(options.deleted, "deleted")
        self._reversed = matches(options.reversed, "reversed")
        self._inactive_too = options.include_inactive
        self.customer_fields = CUSTOMER_FIELDS | {match.field for match in self._deleted}
        self.event_fields = EVENT_FIELDS | {match.field for match in self._reversed}

    def customer(self, data: bytes, fields: Fields) -> str:
        """The reason why this customer, and what is theirs, is left out, or ""."""
        status = text_of(data, fields.get("status")).upper()
        if status == "DELETED" or _holds(data, fields.get("deleted_at")) or _any(self._deleted, data, fields):
            return "deleted"
        return "inactive" if status == "INACTIVE" and not self._inactive_too else ""

    def event(self, data: bytes, fields: Fields) -> str:
        """The reason why this event is left out, or ""."""
        marked = (
            text_of(data, fields.get("reversed")) == "true"
            or text_of(data, fields.get("status")).upper() == "REVERSED"
            or _holds(data, fields.get("reversed_at"))
            or _any(self._reversed, data, fields)
        )
        return "reversed" if marked else ""


def _holds(data: bytes, member: Member | None) -> bool:
    return text_of(data, member) not in ("", "null", "false")


def _any(pairs: tuple[Match, ...], data: bytes, fields: Fields) -> bool:
    return any(match.field in fields and text_of(data, fields[match.field]) == match.value for match in pairs)
