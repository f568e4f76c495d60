"""JSON documents in a row, as `jq` prints them: each document is a record.

A document may end where `}` and another `{` stand side by side. That is proven by decoding: what decodes as a whole is
one document, for the beginning of a JSON text has one reading.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from streammig.model import Span
from streammig.sources.open import Meter
from streammig.sources.valid import WHITE, decodes, is_cut_off, judge, without_surrogates
from streammig.sources.window import Held, Window

_BETWEEN = re.compile(rb"\}(?=[ \t\r\n]*+\{)")


def are_in_a_row(head: bytes) -> bool:
    """Whether an export that begins so is several documents."""
    return head.startswith(b"{") and _first_end(head, 0) > 0


def _first_end(data: bytes, at: int) -> int:
    """The index behind the document that begins at an index, where another one follows; 0 where none is seen, -1 where
    what begins there is no JSON."""
    for found in _BETWEEN.finditer(data, at):
        piece = without_surrogates(data[at : found.end()])
        if decodes(piece):
            return found.end()
        if not is_cut_off(piece):
            return -1
    return 0


class Documents:
    """The documents of a file from a place on, counted from `ordinal`."""

    def __init__(self, window: Window, source: int, ordinal: int, limit: int, meter: Meter) -> None:
        self._window, self._source, self._ordinal, self._limit, self._meter = window, source, ordinal, limit, meter

    def spans(self, at: int) -> Iterator[Span]:
        """Spans from the beginning of a document, or the blanks before it, on. Raises BrokenExport where the end of a
        document can't be told: behind the last whole one."""
        window, ended = self._window, False
        while not ended:
            ended = not window.fill(at)
            data, index, held = window.data, 0, Held()
            while end := self._next(data, index, ended):
                self._hold(held, data, index, end)
                index = end
                if held.is_full():
                    yield held.span(self._source, data, window.base)
                    held = Held()
            if held.starts:
                yield held.span(self._source, data, window.base)
            at = window.base + index + len(data[index:]) - len(data[index:].lstrip(WHITE))
            if window.end - at > self._limit:
                raise window.broken(at, f"no document ends within {self._limit:,} bytes")
        window.finish()
        if at < window.end:
            raise window.broken(at, judge(window.data[at - window.base :].strip(WHITE))[1])

    def _next(self, data: bytes, index: int, ended: bool) -> int:
        """The index behind the next document; 0 where its end isn't there, or what is there is no JSON."""
        begin = len(data) - len(data[index:].lstrip(WHITE)) if data[index : index + 1] in WHITE else index
        end = _first_end(data, begin)
        if end == 0 and ended and (rest := data[begin:].rstrip(WHITE)) and decodes(without_surrogates(rest)):
            end = begin + len(rest)
        return max(end, 0)

    def _hold(self, held: Held, data: bytes, index: int, end: int) -> None:
        record = data[index:end].lstrip(WHITE)
        self._meter.parsed += len(record)
        code, fault = judge(record)
        base = self._window.base
        held.put(base + end - len(record), base + end, self._ordinal, (len(record), code, fault) if code else None)
        self._ordinal += 1
