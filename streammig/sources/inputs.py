"""What a user types to name an export: a file, and the way to the array in it."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

import msgspec

from streammig.errors import Unusable

Path = tuple[str | int, ...]
"""The way to a value in a document: keys of objects and indexes of arrays; () is the document itself."""

# A JSON string (for keys with dots, quotes, spaces at an end, or nothing in them), or anything without a dot.
_SEGMENT = re.compile(r'"(?:[^"\\]|\\.)*"|[^."][^.]*')


class Input(NamedTuple):
    """One file of a stage. `path` holds the segments towards the array, None: it is to be found."""

    file: str
    path: tuple[str, ...] | None = None


def parse_input(text: str) -> Input:
    """`FILE` or `FILE#path.to.array`; `FILE#` is the array that the whole document is.

    Segments are separated by dots; a segment in double quotes is a JSON string and may hold anything
    (`export.json#data."odd.key"`); one of digits is a key or else an index. If the whole text names something that
    exists, it is that file's name; otherwise the last `#` before which a file's name stands divides it.
    Raises Unusable for a path that can't be read.
    """
    if "#" not in text or os.path.lexists(text):
        return Input(text)
    cuts = [index for index, sign in enumerate(text) if sign == "#"]
    cut = next((index for index in reversed(cuts) if os.path.lexists(text[:index])), cuts[0])
    return Input(text[:cut], _segments(text, text[cut + 1 :]))


def _segments(text: str, path: str) -> tuple[str, ...]:
    segments: list[str] = []
    at = 0
    while path and at <= len(path):
        match = _SEGMENT.match(path, at)
        if match is None or (match.end() < len(path) and path[match.end()] != "."):
            raise Unusable(
                "path-invalid",
                f"{text}: the path behind # can't be read at its character {at + 1}",
                'Write it like data.customers; put a key with a dot or a quote in double quotes: data."odd.key".',
            )
        segments.append(_segment(text, match.group()))
        at = match.end() + 1
    return tuple(segments)


def _segment(text: str, segment: str) -> str:
    if not segment.startswith('"'):
        return segment
    try:
        return msgspec.json.decode(segment.encode(), type=str)
    except (msgspec.DecodeError, UnicodeEncodeError):
        raise Unusable(
            "path-invalid", f"{text}: {segment} is no JSON string", 'Escape as JSON does: \\" and \\\\.'
        ) from None


def path_text(path: Path) -> str:
    """The path as it is typed behind `#`."""
    return ".".join(_typed(str(segment)) for segment in path)


def _typed(segment: str) -> str:
    plain = segment and segment.isprintable() and segment.strip() == segment and not re.search(r'[."#\\]', segment)
    return segment if plain else msgspec.json.encode(segment).decode()


def leads_to(wanted: tuple[str, ...], path: Path) -> bool:
    """Whether the typed segments mean this path."""
    return len(wanted) == len(path) and all(segment == str(step) for segment, step in zip(wanted, path, strict=True))
