"""Where a file may be cut, so that several processes read it: a guess, proven by who reads up to there."""

from __future__ import annotations

import re

from streammig.sources.handle import Handle
from streammig.sources.locate import CSV, DOCUMENTS, JSON, KEYED, NDJSON

LOOKS = (64 << 10, 1 << 20, 16 << 20)  # bytes that are looked at, more where no record begins in them

_LINE = re.compile(rb"\n[ \t\r\n]*+(?=.)", re.DOTALL)
_ROW = re.compile(rb"\n[\r\n]*+(?=.)", re.DOTALL)
_DOCUMENT = re.compile(rb"\}[ \t\r\n]*+(?=\{)")
_ELEMENT = re.compile(rb"\}[ \t\r\n]*+,[ \t\r\n]*+(?=\{)")
_MEMBER = re.compile(rb'\}[ \t\r\n]*+,[ \t\r\n]*+(?="[^"\\]*+(?:\\.[^"\\]*+)*+"[ \t\r\n]*+:[ \t\r\n]*+\{)', re.DOTALL)
_BETWEEN = {DOCUMENTS: _DOCUMENT, JSON: _ELEMENT, KEYED: _MEMBER}
_UP_TO_BRACKET = re.compile(rb'[^"{}\[\]]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"{}\[\]]*+)*+[{}\[\]]', re.DOTALL)


def next_record(handle: Handle, offset: int, form: str) -> int | None:
    """The offset of a record that seems to begin behind an offset; None where none is seen.

    In a text of which only a part is read a record can't be told from what looks like one. So this proves nothing: what
    stands before must be read up to there, and come to a record that begins at this very byte.
    """
    for size in LOOKS:
        data = handle.at(offset, size)
        if at := _guess(data, form):
            return offset + at
        if len(data) < size:
            break
    return None


def _guess(data: bytes, form: str) -> int:
    if form in (NDJSON, CSV):
        found = (_ROW if form == CSV else _LINE).search(data)
        return found.end() if found else 0
    return _highest(data, _BETWEEN[form])


def _highest(data: bytes, between: re.Pattern[bytes]) -> int:
    """Where two objects stand side by side: of the places with the fewest brackets around them the first."""
    found = between.search(data)
    if found is None:
        return 0
    at = best = found.end()
    depth = least = 0
    while token := _UP_TO_BRACKET.match(data, at):
        at = token.end()
        sign = data[at - 1]
        if sign in b"{[":
            depth += 1
            continue
        depth -= 1
        if depth < least and sign == ord("}") and (found := between.match(data, at - 1)):
            best, least = found.end(), depth
    return best
