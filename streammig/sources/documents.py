"""Concatenated JSON documents, as `jq` prints them: each document is a record.

A document may end between `}` and the next `{`. Decoding proves that: the prefix of a JSON text has one reading, so a
text that decodes as a whole is one document.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from streammig.model import Span
from streammig.sources.open import Meter
from streammig.sources.valid import WHITE, check_record, decodes, is_cut_off, without_surrogates
from streammig.sources.window import SpanBuilder, Window

_BETWEEN = re.compile(rb"\}(?=[ \t\r\n]*+\{)")


def are_in_a_row(head: bytes) -> bool:
    """Tell whether an export with this beginning consists of several documents."""
    return head.startswith(b"{") and _first_end(head, 0) > 0


def _first_end(data: bytes, at: int) -> int:
    """Return the end of the document at an index, if another follows; 0 if no end is found, -1 if it is no JSON."""
    for found in _BETWEEN.finditer(data, at):
        piece = without_surrogates(data[at : found.end()])
        if decodes(piece):
            return found.end()
        if not is_cut_off(piece):
            return -1
    return 0


class Documents:
    """Reads the documents of a file from a place on, counted from `ordinal`."""

    def __init__(self, window: Window, source: int, ordinal: int, limit: int, meter: Meter) -> None:
        self._window, self._source, self._ordinal, self._limit, self._meter = window, source, ordinal, limit, meter

    def spans(self, at: int) -> Iterator[Span]:
        """Return spans from the begin of a document, or the white space before it.

        Raises BrokenExport after the last whole document if the end of the next can't be found.
        """
        window, ended = self._window, False
        while not ended:
            ended = not window.fill(at)
            data, index, held = window.data, 0, SpanBuilder()
            while end := self._next(data, index, ended):
                self._hold(held, data, index, end)
                index = end
                if held.is_full():
                    yield held.span(self._source, data, window.base)
                    held = SpanBuilder()
            if held.starts:
                yield held.span(self._source, data, window.base)
            at = window.base + index + len(data[index:]) - len(data[index:].lstrip(WHITE))
            if window.end - at > self._limit:
                raise window.broken(at, f"no document ends within {self._limit:,} bytes")
        window.finish()
        if at < window.end:
            raise window.broken(at, check_record(window.data[at - window.base :].strip(WHITE))[1])

    def _next(self, data: bytes, index: int, ended: bool) -> int:
        """Return the end of the next document; 0 if it is not in the data, or the data is no JSON."""
        begin = len(data) - len(data[index:].lstrip(WHITE)) if data[index : index + 1] in WHITE else index
        end = _first_end(data, begin)
        if end == 0 and ended and (rest := data[begin:].rstrip(WHITE)) and decodes(without_surrogates(rest)):
            end = begin + len(rest)
        return max(end, 0)

    def _hold(self, held: SpanBuilder, data: bytes, index: int, end: int) -> None:
        record = data[index:end].lstrip(WHITE)
        self._meter.parsed += len(record)
        code, fault = check_record(record)
        base = self._window.base
        held.put(base + end - len(record), base + end, self._ordinal, (len(record), code, fault) if code else None)
        self._ordinal += 1
