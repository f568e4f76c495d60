"""Through a document outside the array of records: to that array, and from behind it to the document's end."""

from __future__ import annotations

import math
from collections.abc import Sequence

from streammig.errors import Unusable
from streammig.sources.cuts import Cuts
from streammig.sources.extent import next_array
from streammig.sources.inputs import Path, leads_to, path_text
from streammig.sources.judging import WHITE
from streammig.sources.opening import Meter
from streammig.sources.survey import Survey
from streammig.sources.walking import Events, NotJson, Walker, opening, whole
from streammig.sources.window import Window

PIECE_BYTES = 64 * 1024
RECALLED_BYTES = 64 * 1024
# Of elements that are only passed over; what is longer than 16 of it breaks off.
ELEMENT_BYTES = 16 * 1024 * 1024


class Tour:
    """A walk by ijson from array to array; arrays of objects can be passed over at the speed of the fast framer.

    `at` is the offset that it has come to, `survey` what it met. Text is judged by its grammar alone: bad UTF-8 and
    lone surrogates out here may be those of another stage's records. A break is named to the byte, unless more than
    64 KiB of what no array of objects holds stood before it: then the piece of 64 KiB is.
    """

    def __init__(self, window: Window, at: int, meter: Meter, before: bytes = b"") -> None:
        """`before` is what the document is taken to begin with, in front of the offset `at`."""
        self.at = at
        self.survey = Survey()
        self._window, self._meter = window, meter
        self._walker = Walker(meter)
        self._before = before  # all that the walker was fed, as long as it is short
        self._inside = False  # a string
        self.survey.note(self._walker.feed(before))
        self._complete = bool(before) and not self._walker.depth

    def to_array(self, until: float = math.inf) -> bool:
        """Go on until an array was opened; False at the stream's end, or behind the offset `until`."""
        window = self._window
        while self.at < until:
            piece = whole(window.data[self.at - window.base :][:PIECE_BYTES])
            if not piece and window.fill(self.at):
                continue
            piece = piece or window.data[self.at - window.base :]
            if not piece:
                return False
            end, self._inside = next_array(piece, 0, self._inside)
            events = self._feed(piece[:end] or piece)
            if events and events[-1][0] == "start_array":
                return True
        return False

    def pass_over(self, until: float = math.inf) -> None:
        """Go to the closing bracket of the array just opened if it begins with an object, or behind `until`."""
        elements = Cuts(self._window, 0, 1, ELEMENT_BYTES, self._meter)
        elements.at = self.at
        sign = elements.sign()
        self.at = elements.at  # the window may have been moved behind the white space
        if sign != b"{":
            return
        count = 0
        self.survey.skimmed(1)  # a candidate even if it breaks off at once
        for run in elements.runs(self.at, resumed=False):
            count += len(run)
            self.survey.skimmed(count)
            if elements.at >= until:
                self.at = elements.at
                return
        self.at = elements.at - 1

    def end(self) -> None:
        """Raise BrokenExport unless the document was complete where the stream ended."""
        self._window.finish()
        try:
            self._walker.end()
        except NotJson:
            self._complete = False
        if not self._complete:
            raise self._window.broken(self._window.end, "the file ends inside the document")

    def _feed(self, piece: bytes) -> Events:
        text = piece.rstrip(WHITE)
        events: Events = []
        try:
            if text:
                # ijson lets a string pass that begins behind the document and has no end. So it is told by its last
                # byte that a document is complete: that must end something.
                events += self._walker.feed(text[:-1])
                last = self._walker.feed(text[-1:])
                events += last
                self._complete = bool(last) and not self._walker.depth
            self._walker.feed(piece[len(text) :])
        except NotJson:
            at = self.at + self._good(piece)
            raise self._window.broken(at, "no valid JSON there, outside the array of records") from None
        self.survey.note(events)
        self._before = self._before + piece if len(self._before) < RECALLED_BYTES else self._before
        self.at += len(piece)
        return events

    def _good(self, piece: bytes) -> int:
        """How much of a piece that was refused is good, 0 if it can't be told any more."""
        low, high = 0, len(piece) if len(self._before) < RECALLED_BYTES else 0
        while low < high:
            middle = (low + high) // 2
            try:
                Walker(self._meter).check(self._before + piece[: middle + 1])
                low = middle + 1
            except NotJson:
                high = middle
        return low


def walk_to(window: Window, at: int, wanted: Sequence[str], meter: Meter) -> tuple[Path, int]:
    """The path of the array that the segments name and the offset behind its bracket, in the document that begins at
    an offset of the window. Raises Unusable if the document has no such array, BrokenExport if it breaks off."""
    tour, segments = Tour(window, at, meter), tuple(wanted)
    while tour.to_array():
        path = tour.survey.path
        if leads_to(segments, path):
            return path, tour.at
        if not leads_to(segments[: len(path)], path):
            tour.pass_over()
    tour.end()
    where = path_text(segments) or "its top"
    raise Unusable(
        "array-not-found",
        f"{window.file}: there is no array at {where}; arrays seen:\n{tour.survey.listing()}",
        "Name the one to be read: FILE#path.to.array.",
    )


def check_rest(window: Window, at: int, path: Path, meter: Meter) -> None:
    """Raise BrokenExport unless what stands behind the array at `path` makes the document complete and valid."""
    tour = Tour(window, at, meter, opening(path) + b"]")
    while tour.to_array():
        tour.pass_over()
    tour.end()
