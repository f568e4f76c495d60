"""The reasons why a record is not sent: each code of a dead letter and of a filter, with a sentence."""

from __future__ import annotations

from collections.abc import Sequence

CODES = {
    "invalid-json": "The bytes are not valid JSON.",
    "invalid-utf8": "The bytes are not valid UTF-8.",
    "invalid-csv": "The row has not as many fields as the header, or breaks the rules of quotes.",
    "lone-surrogate": "A text holds half of a surrogate pair.",
    "too-large": "The record, or one of its units, needs a larger request than the settings allow.",
    "not-an-object": "The record is not a JSON object.",
    "duplicate-field": "A field occurs twice in one object, so it is unclear which one counts.",
    "missing-field": "A field that the target requires is missing.",
    "wrong-type": "A field holds another kind of JSON than the target asks for.",
    "bad-id": "An id is empty, over 255 characters, holds a control character or a slash, or is `migrate`.",
    "bad-email": "An e-mail address does not look like one.",
    "bad-uuid": "The id of a reward or tier is not a UUID.",
    "bad-date": "A date-time is not ISO 8601, or has no time zone while the settings name none.",
    "bad-enum": "A field holds none of the words that the target knows.",
    "bad-amount": "A number has too many digits, or is negative where it can't be.",
    "too-long": "A text is longer than the target allows.",
    "unknown-field": "A field that the target does not know, while the settings say to refuse such records.",
    "too-many-transactions": "A customer has more transactions than one request may carry, and they must not be split.",
    "mapping-failed": "The mapping raised, or returned what is no record.",
}

FILTERS = {
    "deleted": "The customer is deleted.",
    "inactive": "The customer is inactive; the settings can send such customers.",
    "reversed": "The event is reversed.",
    "not-a-purchase": "The event has no order and is no purchase; the settings can send it with an order of zero.",
    "no-events": "The customer has no events.",
    "no-transactions": "The customer has no transactions.",
    "expired-lots": "Lots of a balance that expired before the run; they are left out of their record.",
    "mapping": "The mapping left the record out.",
}


_SHOWN = 20  # faults of one record in a message


class Refusal(Exception):
    """A fault of a record: a code of `CODES`, the field's path or "", and the fault in words without any value."""

    def __init__(self, code: str, where: str, what: str) -> None:
        super().__init__(code)
        self.code = code
        self.where = where
        self.what = what

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what


class Refusals(Exception):
    """All faults of a record, at least one."""

    def __init__(self, faults: Sequence[Refusal]) -> None:
        super().__init__(faults[0].code)
        self.faults = faults


def message_of(faults: Sequence[Refusal]) -> str:
    """Write all faults as one message: the first one, then the others with their codes."""
    texts = [str(faults[0]), *(f"{fault.code}: {fault}" for fault in faults[1:_SHOWN])]
    if len(faults) > _SHOWN:
        texts.append(f"and {len(faults) - _SHOWN} more")
    return "; ".join(texts)


def expected(code: str, where: str, what: str, found: str) -> Refusal:
    """Refuse a field: its path, what was expected there, and the kind of value that was found."""
    return Refusal(code, where, f"expected {what}, found {found}")
