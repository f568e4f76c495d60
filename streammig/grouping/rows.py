"""Map a record that holds the rows of one customer: each row is mapped by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import msgspec
import orjson

from streammig.fields import FieldError, FieldMapping, kind

ABSENT = object()
ROWS = "rows"  # the field of a record with the places of its rows
_decode = msgspec.json.Decoder(float_hook=Decimal).decode


class OfRows:
    """Makes a target's record from `{"id": …, "<stage>": [row, …], "rows": ["file:number", …]}`.

    `mapping`, if there is one, maps each row as if it were a record; the field `owner` is cut from the result. A result
    that names another customer is left out, for that customer's record has it too. So a mapping may be mended after its
    rows were grouped. If it then leaves out a whole record, that is a `FieldError`.
    """

    def __init__(self, stage: str, owner: str, mapping: Callable[[Any], Any] | None = None) -> None:
        self.mapping = mapping
        self._stage, self.owner = stage, owner
        self._owners_alone = mapping.only(owner) if isinstance(mapping, FieldMapping) else mapping

    def __reduce__(self) -> tuple[Any, ...]:
        return OfRows, (self._stage, self.owner, self.mapping)

    def __call__(self, record: Any) -> dict[str, Any] | None:
        rows = record.get(self._stage) if isinstance(record, dict) else None
        if not isinstance(rows, list):
            raise FieldError(f"$.{self._stage}", f"a list of rows was expected, found {kind(rows)}")
        customer, made, others = record.get("id", ABSENT), list[Any](), False
        places = record.get(ROWS)
        for at, row in enumerate(rows):
            place = places[at] if isinstance(places, list) and at < len(places) else ""
            for part in self._parts(row, at, place):
                owner = part.pop(self.owner, None)
                if customer is ABSENT or owner in (None, "", customer):
                    made.append(part)
                else:
                    others = True
        if others and not made:
            raise FieldError(f"$.{self._stage}", "the mapping names another customer than when the rows were grouped")
        if not made:
            return None
        return ({} if customer is ABSENT else {"id": customer}) | {self._stage: made}

    def _parts(self, row: Any, at: int, place: object) -> list[dict[str, Any]]:
        """Map a row, and return the results as new objects."""
        where = f"$.{self._stage}[{at}]"
        try:
            made = self.mapping(row) if self.mapping is not None else row
        except FieldError as error:
            said = f"{error.said} (row {place})" if place else error.said
            raise FieldError(where + error.path.removeprefix("$"), said) from None
        parts = made if isinstance(made, list) else [] if made is None else [made]
        if wrong := [part for part in parts if not isinstance(part, Mapping)]:
            raise FieldError(where, f"an object was expected, found {kind(wrong[0])}")
        return [dict(part) for part in parts]

    def owners(self, row: bytes) -> list[bytes]:
        """Return the customers that a row names, as JSON; none if the row is invalid, for the rules say why."""
        try:
            made = _decode(row)
            made = self._owners_alone(made) if self._owners_alone is not None else made
            parts = made if isinstance(made, list) else [made]
            found = [part.get(self.owner) for part in parts if isinstance(part, Mapping)]
            return [*dict.fromkeys(orjson.dumps(each) for each in found if each is not None and each != "")]
        except KeyboardInterrupt:
            raise
        except BaseException:  # a mapping is foreign code, and may raise anything
            return []
