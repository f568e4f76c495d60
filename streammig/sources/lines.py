"""NDJSON: one record a line."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from streammig.records import Run, Slice
from streammig.sources.judging import RAW, TOO_LARGE, WHITE, is_cut_off, is_utf8, judge
from streammig.sources.opening import Meter
from streammig.sources.window import Window

RUN_RECORDS = 1000


class Lines:
    """The records of an NDJSON file from a place on.

    Lines are counted from `ordinal`. Where the first line is blank it counts as the end of the line before, since a
    place may lie between the end of a record and its newline.
    """

    def __init__(self, window: Window, source: int, ordinal: int, limit: int, meter: Meter) -> None:
        self._window, self._source, self._ordinal, self._limit, self._meter = window, source, ordinal, limit, meter

    def runs(self, at: int, resumed: bool) -> Iterator[Run]:
        """Runs from the offset `at` on; `resumed`: it is not the file's beginning. Raises BrokenExport where the file
        was cut inside its last line: behind the line before."""
        if resumed:
            at = self._past_blanks(at)
        window = self._window
        while True:
            begin = at - window.base
            end = window.data.rfind(b"\n", begin)
            if end >= 0:
                yield from self._block(window.data[begin:end], at)
                at = window.base + end + 1
            elif window.end - at > self._limit + 2:  # a line may end in white space: CR LF
                run, at = self._long(at)
                yield from run
            elif not window.fill(at):
                break
        window.finish()
        last = window.data[at - window.base :]
        if is_cut_off(last.strip(WHITE)):
            why = f"line {self._ordinal} has neither its end nor a newline: the file was cut"
            raise window.broken(at, why)
        yield from self._block(last, at)

    def _past_blanks(self, at: int) -> int:
        """Behind the newline of the line that the place lies in, if nothing but white space stands before it."""
        window = self._window
        while True:
            rest = window.data[at - window.base :].lstrip(b" \t\r")
            if rest or not window.fill(window.end):
                break
            at = window.base
        at = window.end - len(rest)
        return at + rest.startswith(b"\n")

    def _block(self, block: bytes, at: int) -> Iterator[Run]:
        """The runs of whole lines, the last without its newline."""
        self._meter.parsed += len(block)
        clean, decode, source, limit = is_utf8(block), RAW.decode, self._source, self._limit
        run: Run = []
        number = self._ordinal
        for raw in block.split(b"\n"):
            line = raw.strip(WHITE)
            if line:
                length = len(line)
                offset = at if length == len(raw) else at + len(raw) - len(raw.lstrip(WHITE))
                if length > limit:
                    run.append(too_large(source, offset, number, length, limit))
                else:
                    code = fault = ""
                    try:
                        decode(line)
                    except (msgspec.DecodeError, RecursionError):
                        code, fault = judge(line, number)
                    if not clean and not code:
                        code, fault = judge(line, number)
                    run.append(Slice(source, offset, number, length, line, code, fault))
                if len(run) == RUN_RECORDS:
                    yield run
                    run = []
            at += len(raw) + 1
            number += 1
        self._ordinal = number
        if run:
            yield run

    def _long(self, at: int) -> tuple[list[Run], int]:
        """A line that is longer than what is kept of one, and the offset behind it."""
        window, number = self._window, self._ordinal
        kept, first, last = b"", -1, 0  # the beginning of the record, its offset, and the offset behind it
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
            return [[too_large(self._source, first, number, length, self._limit)]], at + 1
        line = kept[:length]  # the rest of the line is white space
        return [[Slice(self._source, first, number, length, line, *judge(line, number))]], at + 1


def too_large(source: int, offset: int, ordinal: int, length: int, limit: int) -> Slice:
    fault = f"the record has {length} bytes, the limit is {limit}"
    return Slice(source, offset, ordinal, length, b"", TOO_LARGE, fault)
