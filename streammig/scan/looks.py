"""What a scan looks for in columns: fields that may mark deleted customers, and whether everything is refused."""

from __future__ import annotations

from collections import Counter
from functools import cache

import msgspec

from streammig.columns import Columns
from streammig.model import Position, Span

FLAGS = frozenset({"deleted", "isdeleted", "removed", "isremoved", "erased", "iserased"})
DATES = frozenset({"deletedat", "deletedon", "deleteddate", "deletiondate", "datedeleted", "removedat", "erasedat"})
ACTIVE = frozenset({"active", "isactive", "enabled", "isenabled"})
NO = frozenset({"", "null", "false", "0", "no", "n", "f", "0.0"})
SHOWN = frozenset({"true", "1", "yes", "y", "t", "deleted", "removed"}) | NO  # values without personal data
A_VALUE = "a value"

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_text = msgspec.json.Decoder(str).decode


class Look:
    """What was seen so far.

    `marks` counts fields that may mark deleted customers, by field and value; `marked` is the first one's position.
    `kept` counts records that are sent or filtered. `refused` counts dead letters by code, up to the first record that
    is kept; `bad` is the first one's position and message.
    """

    def __init__(self) -> None:
        self.marks: Counter[tuple[str, str]] = Counter()
        self.kept = 0
        self.refused: Counter[str] = Counter()
        self.marked: Position | None = None
        self.bad: tuple[Position, str] | None = None

    def take(self, span: Span, columns: Columns) -> None:
        """Add a span, the next in reading order."""
        self.kept += len(columns) + sum(bool(it.filtered) for it in columns.left_out)
        for left in columns.left_out if not self.kept else ():
            self.refused.update(letter.code for letter in left.dead)
            if left.dead and self.bad is None:
                self.bad = left.dead[0].position, left.dead[0].message
        for at, paths in columns.dropped:
            for path in paths:
                if (kind := _kind(path)) and (mark := _mark(span, at, path[2:], kind)):
                    self.marks[mark] += 1
                    self.marked = self.marked or span.position(at)

    def absorb(self, other: Look, counted: int) -> None:
        """Add what was seen behind it, in records that were counted from 0 behind so many others."""
        if not self.kept:
            self.refused += other.refused
            if self.bad is None and other.bad is not None:
                self.bad = other.bad[0].behind(counted), other.bad[1]
        self.kept += other.kept
        self.marks += other.marks
        if self.marked is None and other.marked is not None:
            self.marked = other.marked.behind(counted)


@cache
def _kind(path: str) -> str:
    """How an unknown field may mark deleted customers: "flag", "date", "active", or "" if it does not."""
    name = path.removeprefix("$.").replace("_", "").replace("-", "").lower()
    return "flag" if name in FLAGS else "date" if name in DATES else "active" if name in ACTIVE else ""


def _mark(span: Span, at: int, field: str, kind: str) -> tuple[str, str] | None:
    """The field and its value, if it marks the customer as deleted."""
    try:
        raw = bytes(_members(span.cut(at, at + 1)[0])[field])
        text = _text(raw) if raw.startswith(b'"') else raw.decode()
    except (msgspec.MsgspecError, KeyError):
        return None
    says_no = text.strip().lower() in NO
    if says_no != (kind == "active"):
        return None
    return field, text if kind != "date" and text.strip().lower() in SHOWN else A_VALUE
