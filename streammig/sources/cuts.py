"""Guesses where to cut a file for several processes; the process that reads up to a cut proves it."""

from __future__ import annotations

import re

from streammig.sources.handle import Handle
from streammig.sources.locate import CSV, DOCUMENTS, JSON, KEYED, NDJSON

LOOKS = (64 << 10, 1 << 20, 16 << 20)  # bytes to search: the next size if no record begins in the last one

_LINE = re.compile(rb"\n[ \t\r\n]*+(?=.)", re.DOTALL)
_ROW = re.compile(rb"\n[\r\n]*+(?=.)", re.DOTALL)
_DOCUMENT = re.compile(rb"\}[ \t\r\n]*+(?=\{)")
_ELEMENT = re.compile(rb"\}[ \t\r\n]*+,[ \t\r\n]*+(?=\{)")
_MEMBER = re.compile(rb'\}[ \t\r\n]*+,[ \t\r\n]*+(?="[^"\\]*+(?:\\.[^"\\]*+)*+"[ \t\r\n]*+:[ \t\r\n]*+\{)', re.DOTALL)
_BETWEEN = {DOCUMENTS: _DOCUMENT, JSON: _ELEMENT, KEYED: _MEMBER}
_UP_TO_BRACKET = re.compile(rb'[^"{}\[\]]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"{}\[\]]*+)*+[{}\[\]]', re.DOTALL)


def next_record(handle: Handle, offset: int, form: str) -> int | None:
    """Guess the offset of a record that begins after an offset; None if none is found.

    A part of a text can't prove where a record begins. So a reader of the text before must arrive at this very byte.
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
    """Return the first index between two adjacent objects that has the fewest open brackets around it."""
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
