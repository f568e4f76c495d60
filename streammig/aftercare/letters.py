"""Dead letters with their records, read from the export again."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from streammig.checkpoint import Checkpoint
from streammig.errors import Unusable
from streammig.records import DeadLetter, Place, Slice
from streammig.sources import comparable, open_source, parse_input, touched
from streammig.sources.source import Source

FAR = 4_000_000  # bytes between two letters from which on seeking beats reading through


class Line(msgspec.Struct):
    """One line of the output. `record` is the record as it stands in the export, or its text if it is no JSON; `unit`
    tells apart what one record was made into."""

    stage: str
    file: str
    line: int
    offset: int
    unit: int
    code: str
    message: str
    record: msgspec.Raw | str


def export_letters(checkpoint: Path, out: BinaryIO) -> int:
    """Write all dead letters of a checkpoint as NDJSON, in the order of the export; returns how many.

    Raises `Unusable` if the export is not what the checkpoint is bound to.
    """
    file = Checkpoint.open(checkpoint, read_only=True)
    count = 0
    try:
        context = file.run["context"]
        for row in file.stages():
            texts = context["inputs"][row.name]
            source = open_source([parse_input(text) for text in texts], max_record_bytes=context["max_record_bytes"])
            letters = (letter for _, letter in file.dead_letters(row.name))
            first = next(letters, None)
            if first is None:
                continue
            check_unchanged(source, file.fingerprints(row.name))
            for letter, piece in with_slices(source, _chain(first, letters)):
                line = Line(
                    row.name, texts[letter.position.source], letter.position.ordinal, letter.position.offset,
                    letter.unit, letter.code, letter.message, _as_json(piece),
                )  # fmt: skip
                out.write(msgspec.json.encode(line) + b"\n")
                count += 1
    finally:
        file.close()
    return count


def _chain(first: DeadLetter, rest: Iterator[DeadLetter]) -> Iterator[DeadLetter]:
    yield first
    yield from rest


def check_unchanged(source: Source, marks: list[dict[str, Any]]) -> None:
    """Raise `Unusable` if these are not the files that the checkpoint is bound to."""
    now = source.fingerprints()
    if comparable(now) != comparable(marks) or touched(now, marks):
        raise Unusable(
            "export-changed",
            "the export has changed since the run: its dead letters can't be read from it any more",
            "Put the export that was migrated back in its place.",
        )


def with_slices(source: Source, letters: Iterator[DeadLetter]) -> Iterator[tuple[DeadLetter, Slice]]:
    """Each letter with its slice; reads forward, and seeks only where the next letter is far ahead."""
    pieces: Iterator[Slice] = iter(())
    at = (-1, 0)
    for (number, offset, _, ordinal), group in groupby(letters, _key):
        if number != at[0] or offset - at[1] > FAR:
            pieces = _flat(source, Place(number, offset, 0, ordinal))
        for piece in pieces:
            at = (piece.source, piece.offset + piece.length)
            if (piece.source, piece.offset) == (number, offset):
                yield from ((letter, piece) for letter in group)
                break
        else:
            raise Unusable(
                "export-changed", f"there is no record at byte {offset} of the export any more", "Has it been changed?"
            )


def _key(letter: DeadLetter) -> tuple[int, int, int, int]:
    position = letter.position
    return position.source, position.offset, position.length, position.ordinal


def _flat(source: Source, start: Place) -> Iterator[Slice]:
    for run in source.runs(start):
        yield from run


def _as_json(piece: Slice) -> msgspec.Raw | str:
    try:
        msgspec.json.decode(piece.data)
        piece.data.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return piece.data.decode(errors="replace")
    return msgspec.Raw(piece.data)
