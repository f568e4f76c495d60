"""Where a JSON value ends, or an array begins, told by its quotes and brackets alone, however it comes in."""

from __future__ import annotations

import re

# The possessive quantifiers keep a string without an end from being looked at again and again.
_TEXT = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\]"]', re.DOTALL)
_QUOTE, _OPENING, _CLOSING = ord('"'), b"{[", b"}]"


class Extent:
    """Looks at each byte of one object, array or string once, and keeps none.

    If the value is valid, its end is found; if it isn't, that is for whoever parses what was found. ijson could tell
    the end as well, fed up to each closing sign, but it begins a string anew with each piece that it gets of it: a
    record of 100 KB of braces in a string took it a second, ten times as much a hundred.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._inside = False  # a string

    def advance(self, data: bytes, low: int) -> tuple[int, bool]:
        """Look at the data from an index on; the index up to which it was looked at, and whether the value ends
        there. It is to go on from that index, with more behind it."""
        while True:
            if self._inside:
                found = _TEXT.match(data, low)
                low = found.end() if found else low
                if data[low : low + 1] != b'"':
                    return low, False
                low += 1
                self._inside = False
                if not self._depth:
                    return low, True
            low, ended = self._outside(data, low)
            if not self._inside:
                return low, ended

    def _outside(self, data: bytes, low: int) -> tuple[int, bool]:
        depth = self._depth
        for token in _TOKEN.finditer(data, low):
            begin, end = token.span()
            sign = data[begin]
            if sign == _QUOTE:
                if end - begin == 1:
                    self._depth, self._inside = depth, True
                    return end, False
            elif sign in _OPENING:
                depth += 1
            else:
                depth -= 1
            if depth <= 0:
                return end, True
        self._depth = depth
        return len(data), False


_ARRAY = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\["]', re.DOTALL)


def next_array(data: bytes, low: int, inside: bool) -> tuple[int, bool]:
    """The index behind the first `[` outside strings from an index on, or as much as can be looked at without one,
    and whether a string is open there; `inside`: one is open at `low`."""
    if inside:
        found = _TEXT.match(data, low)
        low = found.end() if found else low
        if data[low : low + 1] != b'"':
            return low, True
        low += 1
    for token in _ARRAY.finditer(data, low):
        if data[token.start()] != _QUOTE:
            return token.end(), False
        if token.end() - token.start() == 1:
            return token.end(), True
    return len(data), False
