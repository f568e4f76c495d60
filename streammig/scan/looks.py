"""Find fields that may mark deleted customers, and stages of which every record is refused."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache

import msgspec

from streammig.columns import Columns
from streammig.model import Position, Span
from streammig.target import MayHide, Rules, may_hide

FLAGS = frozenset({"deleted", "isdeleted", "removed", "isremoved", "erased", "iserased", "eliminado", "baja"})
DATES = frozenset({"deletedat", "deletedon", "deleteddate", "deletiondate", "datedeleted", "removedat", "erasedat"})
ACTIVE = frozenset({"active", "isactive", "enabled", "isenabled", "activo"})
STATES = frozenset({"status", "state", "estado"})
GONE = frozenset({"deleted", "removed", "erased", "eliminado", "baja"})  # values in STATES of a deleted customer
NO = frozenset({"", "null", "false", "0", "no", "n", "f", "0.0"})
SHOWN = frozenset({"true", "1", "yes", "y", "t", "si", "s"}) | GONE | NO  # values without personal data
A_VALUE = "a value"
Field = tuple[str, bytes]
"""The name of a field, and its raw JSON value."""

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_text = msgspec.json.Decoder(str).decode


class Look:
    """The findings in the spans so far.

    `marks` counts fields that may mark deleted customers, by field and value; `marked` is the first one's position.
    `kept` counts records that are sent or filtered. `refused` counts dead letters by code, up to the first record that
    is kept; `bad` has position and message of the first one.
    """

    def __init__(self) -> None:
        self.marks: Counter[tuple[str, str]] = Counter()
        self.kept = 0
        self.refused: Counter[str] = Counter()
        self.marked: Position | None = None
        self.bad: tuple[Position, str] | None = None

    def take(self, span: Span, columns: Columns, rules: Rules) -> None:
        """Add the next span in reading order, with the columns that the rules made of it."""
        self.kept += len(columns) + sum(bool(it.filtered) for it in columns.left_out)
        for left in columns.left_out if not self.kept else ():
            self.refused.update(letter.code for letter in left.dead)
            if left.dead and self.bad is None:
                self.bad = left.dead[0].position, left.dead[0].message
        hiding = may_hide(rules)
        for at, fields in _cut(span, columns) if hiding is None or not hiding.hides else _hidden(span, columns, hiding):
            for mark in dict.fromkeys(mark for field in fields if (mark := _mark(*field))):
                self.marks[mark] += 1
                self.marked = self.marked or span.position(at)

    def absorb(self, other: Look, counted: int) -> None:
        """Add the findings of the next piece, whose ordinals count from 0; `counted` records come before it."""
        if not self.kept:
            self.refused += other.refused
            if self.bad is None and other.bad is not None:
                self.bad = other.bad[0].behind(counted), other.bad[1]
        self.kept += other.kept
        self.marks += other.marks
        if self.marked is None and other.marked is not None:
            self.marked = other.marked.behind(counted)


def _cut(span: Span, columns: Columns) -> Iterator[tuple[int, Iterable[Field]]]:
    """For records that are sent: the index, and the fields cut from them that may mark a deleted customer."""
    for at, paths in columns.dropped:
        if names := _marking(paths):
            yield at, _fields(span.cut(at, at + 1), names)


def _hidden(span: Span, columns: Columns, rules: MayHide) -> Iterator[tuple[int, Iterable[Field]]]:
    """As `_cut`, with fields that a mapping did not read, and unknown fields that are sent."""
    made = {at: names for at, paths in columns.dropped if (names := _marking(paths))}
    for at in dict.fromkeys(columns.index):
        (data,) = span.cut(at, at + 1)
        unread = rules.unread(data)
        fields = [(name, bytes(unread[name])) for name in _marking_names(tuple(unread))]
        if at in made:
            fields += _fields(rules.made(data), made[at])
        if fields:
            yield at, fields


@lru_cache(1024)
def _marking(paths: tuple[str, ...]) -> tuple[str, ...]:
    return _marking_names(tuple([path[2:] for path in paths if path.startswith("$.")]))


@lru_cache(1024)
def _marking_names(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple([name for name in names if _kind(name)])


def _fields(records: Iterable[bytes], names: Iterable[str]) -> list[Field]:
    """Return the named fields of some records; a record may lack some."""
    objects = [_members(data) for data in records]
    return [(name, bytes(fields[name])) for fields in objects for name in names if name in fields]


@lru_cache(4096)
def _kind(name: str) -> str:
    """Say how a field may mark deleted customers: "flag", "date", "active" or "state"; "" if it does not."""
    plain = re.sub(r"[\W_]+", "", name).lower()
    kinds = {"flag": FLAGS, "date": DATES, "active": ACTIVE, "state": STATES}
    return next((kind for kind, names in kinds.items() if plain in names), "")


def _mark(name: str, raw: bytes) -> tuple[str, str] | None:
    """Return the field and its value if it marks the customer as deleted; a value that may be personal is hidden."""
    try:
        text = _text(raw) if raw.startswith(b'"') else raw.decode()
    except msgspec.MsgspecError:
        return None
    kind, said = _kind(name), text.strip().lower()
    if said not in GONE if kind == "state" else (said in NO) != (kind == "active"):
        return None
    return name, text if kind != "date" and said in SHOWN else A_VALUE
