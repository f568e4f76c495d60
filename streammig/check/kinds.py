"""Problems of records by kind: code and field, how often, and where the first ones stand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from streammig.model import DeadLetter, Position
from streammig.report.letters import FOLLOWS, field_of

EXAMPLES = 3
MOST = 10_000  # kinds of a stage; later ones are counted by code alone


class Kind(msgspec.Struct):
    """Problems of one stage that have one code and, where the rules name one, one field."""

    code: str
    field: str
    count: int = 0
    # where, in which column, what the rules say, and the id of the customer
    examples: list[tuple[Position, str | None, str, str]] = []

    @property
    def cause(self) -> str:
        """Why the record's customer will not be at the target; "" where the problem is the record's own."""
        return self.code.removeprefix(FOLLOWS) if self.code.startswith(FOLLOWS) else ""


class Kinds:
    """The problems of a stage, added in reading order, by kind."""

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
        """The most frequent kind first; kinds that follow from a customer's problem last."""
        return iter(sorted(self._found.values(), key=lambda it: (bool(it.cause), -it.count, it.code, it.field)))

    def document(self, files: Sequence[str], ids: bool) -> list[dict[str, Any]]:
        """As JSON: `files` are the names of the stage's files. Examples have `ids` if asked for."""
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
    """The field that a rule's message begins with, without its indexes; "" where it begins with none."""
    path, colon, _ = message.partition(": ")
    return field_of(path) if colon and path[:1] == "$" else ""
