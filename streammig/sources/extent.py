"""Search for the end of a JSON value by quotes and brackets."""

from __future__ import annotations

import re

# Possessive quantifiers: without them, a string without an end would be searched again and again.
_TEXT = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\]"]', re.DOTALL)
_QUOTE, _OPENING = ord('"'), b"{["


class Extent:
    """Finds the end of a JSON value by quotes and brackets alone. Reads each byte once, in any pieces, and keeps none.

    It does not validate: the caller parses the text that was found.
    """

    def __init__(self, depth: int = 0) -> None:
        self._depth = depth
        self._inside = False  # a string

    def advance(self, data: bytes, low: int, *, stops: bytes = b"") -> tuple[int, bool]:
        """Read data from an index on; return the index after the last byte read, and whether the value ends there.

        The next call goes on from that index, with more data. Also stops after each bracket in `stops`.
        """
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
            low, ended = self._outside(data, low, stops)
            if not self._inside:
                return low, ended

    def _outside(self, data: bytes, low: int, stops: bytes) -> tuple[int, bool]:
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
                if sign in stops:
                    self._depth = depth
                    return end, False
            else:
                depth -= 1
            if depth <= 0:
                return end, True
        self._depth = depth
        return len(data), False
