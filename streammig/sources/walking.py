"""ijson, fed by hand: through a document to an array, to the end of one element, over what follows the array."""

from __future__ import annotations

import re
from typing import Any

import ijson

from streammig.errors import Problem
from streammig.sources.inputs import Path
from streammig.sources.judging import without_surrogates
from streammig.sources.opening import Meter

Events = list[tuple[str, Any]]


class NotJson(Exception):
    """The bytes fed so far begin no valid JSON document. Never leaves this package."""


# Grammar and keys are all that ijson is asked for, so it sees bytes of the same grammar without what it stumbles
# over: it looks at UTF-8 its own way, takes form feeds for white space, turns lone surrogates into "?" or an error,
# and integers of more than 4,300 digits and exponents of more than 18 end in a SystemError. The digits of a key are
# left alone (no number stands before a quote); the lookbehind keeps the search linear.
_FEEDS = bytes.maketrans(b"\x0b\x0c", b"\x01\x01")
_DIGITS = re.compile(rb'(?<![0-9])([0-9]{16})[0-9]++(?!")')


class Walker:
    """Parses a document piece by piece. `depth` is the number of objects and arrays open behind the last piece."""

    def __init__(self, meter: Meter) -> None:
        self.depth = 0
        self._meter = meter
        self._events: Events = ijson.sendable_list()
        self._parser = backend().basic_parse_coro(self._events)

    def feed(self, piece: bytes) -> Events:
        """What the piece began and ended, as ijson's (event, value) pairs, overwritten by the next call.

        The values of strings and numbers are not always the document's. A piece must not end inside a UTF-8 sequence
        or an escape unless it is the last. Raises NotJson.
        """
        events = self.check(piece)
        depth = self.depth
        for event, _ in events:
            if event == "start_map" or event == "start_array":
                depth += 1
            elif event == "end_map" or event == "end_array":
                depth -= 1
        self.depth = depth
        return events

    def check(self, piece: bytes) -> Events:
        """As `feed`, without looking after `depth`."""
        self._events.clear()
        if not piece:  # for ijson it would be the end
            return self._events
        self._meter.parsed += len(piece)
        plainer = piece.translate(_FEEDS)
        if not plainer.isascii():
            plainer = plainer.decode(errors="replace").encode()
        if b"\\u" in plainer:
            plainer = without_surrogates(plainer)
        try:
            self._parser.send(_DIGITS.sub(rb"\1", plainer))
        except (ijson.JSONError, ValueError, ArithmeticError, SystemError):
            raise NotJson from None
        return self._events

    @property
    def seen(self) -> Events:
        """What the last piece began and ended, up to where it was no JSON any more."""
        return self._events

    def end(self) -> None:
        """Raises NotJson unless the document is complete."""
        self._events.clear()
        try:
            self._parser.close()
        except (ijson.JSONError, ValueError, ArithmeticError, SystemError):
            raise NotJson from None


def backend() -> Any:
    """ijson's C backend. Raises Problem without it: the pure Python ones are 20 times slower."""
    if ijson.backend != "yajl2_c":
        raise Problem(
            "reader-backend",
            f"ijson runs with its backend {ijson.backend}, yajl2_c is needed to read an export at speed",
            "Unset IJSON_BACKEND, or install an ijson wheel for this platform: pip install --force-reinstall ijson.",
        )
    return ijson.get_backend("yajl2_c")


def opening(path: Path) -> bytes:
    """The least document that leads to an array at this path, up to and with its bracket."""
    return b"".join(b"[" if isinstance(step, int) else b'{"":' for step in path) + b"["


def whole(piece: bytes) -> bytes:
    """The piece without a UTF-8 sequence or an escape at its end that may go on behind it."""
    end = len(piece)
    while end and len(piece) - end < 4 and piece[end - 1] >= 0x80:
        end -= 1
    last = piece.rfind(b"\\", max(end - 6, 0), end)
    if last >= 0 and end - last < (6 if piece[last + 1 : last + 2] == b"u" else 2):
        # It is the beginning of an escape unless it is escaped itself.
        before = piece[:last]
        if (last - len(before.rstrip(b"\\"))) % 2 == 0:
            end = last
    return piece[:end]
