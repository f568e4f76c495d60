"""NDJSON: one record a line. msgspec's `decode_lines` can't check that: it joins and splits lines."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from operator import add

import msgspec

from streammig.model import Span
from streammig.sources.open import Meter
from streammig.sources.valid import RAW, WHITE, check_record, decodes, is_cut_off, is_utf8, too_large
from streammig.sources.window import MOST_RECORDS, MOST_SPAN_BYTES, SpanBuilder, Window
from streammig.target import Judge


class Lines:
    """Reads the records of an NDJSON file from a place on, with lines counted from `ordinal`.

    A place may lie between the end of a record and its newline. So a blank first line after a resume is the end of the
    line before, and does not count.
    """

    def __init__(
        self, window: Window, source: int, ordinal: int, limit: int, meter: Meter, judge: Judge | None = None
    ) -> None:
        self._judge = judge
        self._window, self._source, self._ordinal, self._limit, self._meter = window, source, ordinal, limit, meter

    def spans(self, at: int, *, resumed: bool) -> Iterator[Span]:
        """Return spans from the offset `at` on; `resumed`: it is not the file's beginning.

        If the file ends inside its last line, raises BrokenExport after the line before.
        """
        if resumed:
            at = self._past_blanks(at)
        window = self._window
        while True:
            begin = at - window.base
            end = window.data.rfind(b"\n", begin, begin + MOST_SPAN_BYTES)
            if end < 0:
                end = window.data.find(b"\n", begin + MOST_SPAN_BYTES)
            if end >= 0:
                yield from self._block(window.data[begin:end], at)
                at = window.base + end + 1
            elif window.end - at > self._limit + 2:  # a line may end in white space: CR LF
                held, at = self._long_line(at)
                yield from held
            elif not window.fill(at):
                break
        window.finish()
        last = window.data[at - window.base :]
        if is_cut_off(last.strip(WHITE)):
            why = f"line {self._ordinal} has neither its end nor a newline: the file was cut"
            raise window.broken(at, why)
        yield from self._block(last, at)

    def _past_blanks(self, at: int) -> int:
        """Return the offset after the next newline if only white space is before it, else of the first other byte."""
        window = self._window
        while True:
            rest = window.data[at - window.base :].lstrip(b" \t\r")
            if rest or not window.fill(window.end):
                break
            at = window.base
        at = window.end - len(rest)
        return at + rest.startswith(b"\n")

    def _block(self, block: bytes, at: int) -> Iterator[Span]:
        """Return the spans of whole lines, the last without its newline."""
        self._meter.parsed += len(block)
        lines = block.split(b"\n")
        for first in range(0, len(lines), MOST_RECORDS):
            part = lines[first : first + MOST_RECORDS]
            data = block if len(part) == len(lines) else b"\n".join(part)
            span = self._judged_lines(part, data, at)
            if span is None:
                clean = is_utf8(data)
                span = (self._valid_lines(part, data, at) if clean else None) or self._any_lines(part, data, at, clean)
            if span is not None:
                yield span
            at += len(data) + 1
            self._ordinal += len(part)

    def _judged_lines(self, lines: list[bytes], data: bytes, at: int) -> Span | None:
        """Return a span of lines that the judge has checked; None without a judge, or if it is not sure."""
        if self._judge is None:
            return None
        lengths = list(map(len, lines))
        starts = list(accumulate(map((1).__add__, lengths[:-1]), initial=0))
        ends = list(map(add, starts, lengths))
        found = self._judge.lines(data, starts, ends, self._limit)
        ordinals = range(self._ordinal, self._ordinal + len(lines))
        return found and Span(self._source, at, data, starts, ends, ordinals, judged=found)

    def _valid_lines(self, lines: list[bytes], data: bytes, at: int) -> Span | None:
        """Return a span of lines in UTF-8; None if any line is not exactly one valid record."""
        try:
            lengths = list(map(len, map(RAW.decode, lines)))
        except (msgspec.DecodeError, RecursionError):
            return None
        if lengths != list(map(len, lines)) or max(lengths) > self._limit:
            return None
        starts = list(accumulate(map((1).__add__, lengths[:-1]), initial=0))
        ordinals = range(self._ordinal, self._ordinal + len(lines))
        return Span(self._source, at, data, starts, list(map(add, starts, lengths)), ordinals)

    def _any_lines(self, lines: list[bytes], data: bytes, at: int, clean: bool) -> Span | None:
        """Return a span of any lines, with faults; None if all are blank. `clean`: they are UTF-8."""
        held, base = SpanBuilder(), at
        for number, raw in enumerate(lines, self._ordinal):
            if line := raw.strip(WHITE):
                begin, length = at + len(raw) - len(raw.lstrip(WHITE)), len(line)
                if length > self._limit:
                    held.put(begin, begin, number, too_large(length, self._limit))
                else:
                    code, fault = ("", "") if clean and decodes(line) else check_record(line)
                    held.put(begin, begin + length, number, (length, code, fault) if code else None)
            at += len(raw) + 1
        return held.span(self._source, data, base) if held.starts else None

    def _long_line(self, at: int) -> tuple[list[Span], int]:
        """Read a line that is longer than the limit; return its span, if it is not blank, and the offset after it."""
        window, number, held = self._window, self._ordinal, SpanBuilder()
        kept, first, last = b"", -1, 0  # the beginning of the record, its offset, and its end
        while True:
            end = window.data.find(b"\n", at - window.base)
            part = window.data[at - window.base : end if end >= 0 else None]
            text = part.lstrip(WHITE) if first < 0 else part
            if first < 0 and text:
                first = at + len(part) - len(text)
            kept += text[: self._limit + 1 - len(kept)]
            if solid := part.rstrip(WHITE):
                last = at + len(solid)
            at += len(part)
            if end >= 0 or not window.fill(at):
                break
        if end < 0:
            window.finish()
        self._ordinal += 1
        if first < 0:
            return [], at + 1
        length = last - first
        if length > self._limit:
            held.put(first, first, number, too_large(length, self._limit))
        else:
            code, fault = check_record(kept[:length])  # the rest of the line is white space
            held.put(first, last, number, (length, code, fault) if code else None)
        return [held.span(self._source, kept, first)], at + 1
