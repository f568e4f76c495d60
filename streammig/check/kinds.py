"""Count the problems of records by kind (code and field), with the places of the first ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from streammig.model import DeadLetter, Position
from streammig.report.letters import FOLLOWS, field_of

EXAMPLES = 3
MOST = 10_000  # kinds of a stage; beyond that, problems are counted by code alone


class Kind(msgspec.Struct):
    """The problems of a stage that share a code and a field; `field` is "" if the rules name none."""

    code: str
    field: str
    count: int = 0
    # position, column, message of the rules, and the customer's id
    examples: list[tuple[Position, str | None, str, str]] = []

    @property
    def cause(self) -> str:
        """The customer's own problem, if this one follows from it; else ""."""
        return self.code.removeprefix(FOLLOWS) if self.code.startswith(FOLLOWS) else ""


class Kinds:
    """Collect the problems of a stage by kind. Add them in reading order."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Kind] = {}

    def add(self, letter: DeadLetter, owner: str, column: str | None) -> None:
        key = letter.code, named_field(letter.message)
        if key not in self._found and len(self._found) >= MOST:
            key = letter.code, ""
        kind = self._found.setdefault(key, Kind(*key))
        kind.count += 1
        if len(kind.examples) < EXAMPLES:
            kind.examples.append((letter.position, column, letter.message, owner))

    def __iter__(self) -> Iterator[Kind]:
        """Give the most frequent kind first, and kinds that follow from a customer's problem last."""
        return iter(sorted(self._found.values(), key=lambda it: (bool(it.cause), -it.count, it.code, it.field)))

    def document(self, files: Sequence[str], ids: bool) -> list[dict[str, Any]]:
        """Return the kinds as JSON. `files` are the names of the stage's files; `ids` adds the customers' ids."""
        return [
            {
                "code": it.code, "field": it.field, "count": it.count,
                "examples": [
                    {
                        "file": files[at.source], "line": at.ordinal, "column": column, "offset": at.offset,
                        "message": message,
                    } | ({"id": owner} if ids else {})
                    for at, column, message, owner in it.examples
                ],
            }
            for it in self
        ]  # fmt: skip


def named_field(message: str) -> str:
    """Return the field at the start of a rule's message, without indexes; "" if the message names none."""
    path, colon, _ = message.partition(": ")
    return field_of(path) if colon and path[:1] == "$" else ""
