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

CUSTOMER_FIELDS = frozenset({"deleted_at", "status"})
EVENT_FIELDS = frozenset({"reversed_at", "reversed", "status"})

Texts = Mapping[str, str]
"""Of fields that are there: a field's text, or the JSON of any other value."""


class Filters:
    """Tells the filter that holds for a customer or event from the fields it has."""

    def __init__(self, options: RuleOptions) -> None:
        self._deleted = matches(options.deleted, "deleted")
        self._reversed = matches(options.reversed, "reversed")
        self._inactive_too = options.include_inactive
        self.customer_fields = CUSTOMER_FIELDS | {match.field for match in self._deleted}
        self.event_fields = EVENT_FIELDS | {match.field for match in self._reversed}

    def customer(self, texts: Texts) -> str:
        """The reason why this customer, and what is theirs, is left out, or ""; told from their `customer_fields`."""
        if not texts:
            return ""
        status = texts.get("status", "").upper()
        if status == "DELETED" or _holds(texts.get("deleted_at", "")) or _any(self._deleted, texts):
            return "deleted"
        return "inactive" if status == "INACTIVE" and not self._inactive_too else ""

    def event(self, texts: Texts) -> str:
        """The reason why this event is left out, or ""; told from its `event_fields`."""
        marked = (
            texts.get("reversed") == "true"
            or texts.get("status", "").upper() == "REVERSED"
            or _holds(texts.get("reversed_at", ""))
            or _any(self._reversed, texts)
        )
        return "reversed" if marked else ""


def _holds(text: str) -> bool:
    return text not in ("", "null", "false")


def holds(match: Match, texts: Texts) -> bool:
    """Whether a record has a field as it was named."""
    return _holds(texts.get(match.field, "")) if match.value is None else texts.get(match.field) == match.value


def _any(pairs: tuple[Match, ...], texts: Texts) -> bool:
    return any(holds(match, texts) for match in pairs)
