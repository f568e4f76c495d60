"""Reads the file in which the operator has repaired dead letters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec

from streammig.checkpoint import Checkpoint, WorkFile
from streammig.errors import Unusable
from streammig.records import Slice
from streammig.sources.valid import judge

HINT = "Its lines must be those that `dead-letters` writes, with `record` repaired and the rest as it was."


Number = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]


class Line(msgspec.Struct):
    """One line as `dead-letters` writes it; what else it holds is for people."""

    stage: str
    file: str
    offset: Number
    record: msgspec.Raw
    unit: Number = 0


class TakenIn(NamedTuple):
    """How many repaired records were taken in, and how many lines name no dead letter (any more)."""

    records: int
    strangers: int


def check(path: Path, checkpoint: Path) -> None:
    """Raise `Unusable`, naming the line, unless this is a file of repaired dead letters of a checkpoint's migration."""
    file = Checkpoint.open(checkpoint, read_only=True)
    try:
        context = file.run["context"]
    finally:
        file.close()
    for number, line in _lines(path, context["max_record_bytes"]):
        _check_names(path, number, line, context["inputs"])


def _check_names(path: Path, number: int, line: Line, files: Mapping[str, Sequence[str]]) -> None:
    if line.file not in files.get(line.stage, ()):
        raise Unusable(
            "letter-of-another-export",
            f"{path}: line {number} names a stage or a file that is none of this migration's",
            HINT,
        )


def take_in(path: Path, file: Checkpoint, work: WorkFile, files: Mapping[str, Sequence[str]], longest: int) -> TakenIn:
    """Copy the repaired records into the work file, which a resume reads them from.

    `files` are the files of each stage as they were named in the run, `longest` the bytes of a record at most. Raises
    `Unusable`, naming the line, for what is no such file, and where two lines are of one dead letter; then nothing is
    taken in. In the work file the record's ordinal is its line.
    """
    taken = strangers = 0
    with work.transaction():
        for number, line in _lines(path, longest):
            _check_names(path, number, line, files)
            spot = files[line.stage].index(line.file), line.offset, line.unit
            if not file.is_dead(line.stage, spot):
                strangers += 1
            elif first := work.ordinal(line.stage, spot):
                raise Unusable(
                    "letter-twice",
                    f"{path}: lines {first} and {number} are of the same dead letter: only one of them can be sent",
                    "Leave out the one that is not to be.",
                )
            elif data := _data(line.record):
                work.put(line.stage, line.unit, Slice(spot[0], line.offset, number, len(data), data), repaired=True)
                taken += 1
    return TakenIn(taken, strangers)


def _lines(path: Path, longest: int) -> Iterator[tuple[int, Line]]:
    most = 2 * longest + 100_000  # the record, which as text is up to twice as long, and what stands beside it
    try:
        with open(path, "rb") as lines:
            number = 0
            while text := lines.readline(most):
                number += 1
                if len(text) == most:
                    raise Unusable("line-too-long", f"{path}: line {number} is longer than a record may be", HINT)
                if not text.strip():
                    continue
                if fault := judge(text.strip(), number)[1]:
                    raise Unusable("line-not-json", f"{path}: {fault}", HINT)
                try:
                    yield number, msgspec.json.decode(text, type=Line)
                except msgspec.ValidationError as error:
                    raise Unusable(
                        "line-not-a-letter", f"{path}: line {number} is no dead letter: {error}", HINT
                    ) from None
    except OSError as error:
        raise Unusable(
            "file-unreadable", f"{path}: {error.strerror}", "Name the file of repaired dead letters with --input."
        ) from None


def _data(record: msgspec.Raw) -> bytes:
    """The record's bytes; of one that was no JSON and stands there as a text, those of the text."""
    data = bytes(record)
    return msgspec.json.decode(data, type=str).encode() if data.startswith(b'"') else data
