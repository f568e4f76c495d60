"""Filter deleted and inactive customers, and reversed events.

The target's contract names no field for these states in an export. So there is a short list, and settings add to it:

- a customer is deleted if `deleted_at` has a value, or `status` is DELETED
- a customer is inactive if `status` is INACTIVE
- an event is reversed if `reversed_at` has a value, `reversed` is true, or `status` is REVERSED

Null, false and the empty text are no value. These fields are never sent, and never count as unknown.
"""

from __future__ import annotations

from collections.abc import Mapping

from streammig.masivo.rules.options import Match, RuleOptions, matches

CUSTOMER_FIELDS = frozenset({"deleted_at", "status"})
EVENT_FIELDS = frozenset({"reversed_at", "reversed", "status"})

Texts = Mapping[str, str]
"""By field name, the text of a field, or the JSON of any other value."""


class Filters:
    """Finds the filter for a customer or an event from its fields."""

    def __init__(self, options: RuleOptions) -> None:
        self._deleted = matches(options.deleted, "deleted")
        self._reversed = matches(options.reversed, "reversed")
        self._inactive_too = options.include_inactive
        self.customer_fields = CUSTOMER_FIELDS | {match.field for match in self._deleted}
        self.event_fields = EVENT_FIELDS | {match.field for match in self._reversed}

    def customer(self, texts: Texts) -> str:
        """Return the reason why a customer is left out, or "". `texts` has the customer's `customer_fields`."""
        if not texts:
            return ""
        status = texts.get("status", "").upper()
        if status == "DELETED" or _holds(texts.get("deleted_at", "")) or _any(self._deleted, texts):
            return "deleted"
        return "inactive" if status == "INACTIVE" and not self._inactive_too else ""

    def event(self, texts: Texts) -> str:
        """Return the reason why an event is left out, or "". `texts` has the event's `event_fields`."""
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
    """Whether a record has a field that matches."""
    return _holds(texts.get(match.field, "")) if match.value is None else texts.get(match.field) == match.value


def _any(pairs: tuple[Match, ...], texts: Texts) -> bool:
    return any(holds(match, texts) for match in pairs)
