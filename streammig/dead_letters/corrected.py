"""Read the file in which the operator has corrected dead letters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec

from streammig.checkpoint import Checkpoint, Spot
from streammig.errors import Unusable
from streammig.sources.valid import check_record

HINT = "Its lines must be those that `dead-letters` writes, with `record` corrected and the rest as it was."
Number = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]


class Line(msgspec.Struct):
    """The fields of a line of `dead-letters` that are read back; the others are for people."""

    stage: str
    file: str
    offset: Number
    record: msgspec.Raw
    unit: Number = 0


@dataclass(slots=True)
class Corrected:
    """The corrected records, by the places of their letters. Memory holds only where each line is.

    `unmatched` counts the lines that name no dead letter (any more).
    """

    path: Path
    longest: int  # bytes of a line
    unmatched: int = 0
    _lines: dict[tuple[str, Spot], tuple[int, int]] = field(default_factory=dict)  # offset and number of the line

    @classmethod
    def read(cls, path: Path, checkpoint: Path) -> Corrected:
        """Read a file of corrected dead letters of the checkpoint's migration.

        Raises `Unusable`, naming the line, for any other file, and for a letter that occurs twice.
        """
        with closing(Checkpoint.open(checkpoint, read_only=True)) as file:
            context = file.run["context"]
            # Invalid JSON is escaped as a text, up to twice as long; the line also holds place and reason.
            found = cls(path, 2 * context["max_record_bytes"] + 100_000)
            for at, number, line in found._read():
                found._add(file, context["inputs"], at, number, line)
        return found

    def has(self, stage: str, spot: Spot) -> bool:
        return (stage, spot) in self._lines

    def record(self, stage: str, spot: Spot) -> bytes | None:
        """Return the corrected record of a letter; None if the file has none."""
        if (found := self._lines.get((stage, spot))) is None:
            return None
        try:
            with open(self.path, "rb") as file:
                file.seek(found[0])
                line = msgspec.json.decode(file.readline(self.longest), type=Line)
        except (OSError, msgspec.DecodeError):
            line = None
        if line is None or (line.stage, line.offset, line.unit) != (stage, *spot[1:]):
            raise Unusable("input-changed", f"{self.path}: line {found[1]} was changed meanwhile", "Call it again.")
        return _data(line.record)

    def _add(self, file: Checkpoint, inputs: Mapping[str, Sequence[str]], at: int, number: int, line: Line) -> None:
        if line.file not in inputs.get(line.stage, ()):
            raise Unusable(
                "letter-of-another-export",
                f"{self.path}: line {number} names a stage or a file of another migration",
                HINT,
            )
        spot = inputs[line.stage].index(line.file), line.offset, line.unit
        if (first := self._lines.get((line.stage, spot))) is not None:
            raise Unusable(
                "letter-twice",
                f"{self.path}: lines {first[1]} and {number} are of the same dead letter: only one of them can be sent",
                "Delete one of them.",
            )
        if file.is_dead(line.stage, spot):
            self._lines[line.stage, spot] = at, number
        else:
            self.unmatched += 1

    def _read(self) -> Iterator[tuple[int, int, Line]]:
        """Give each line, with its offset and number."""
        try:
            with open(self.path, "rb") as file:
                at = number = 0
                while text := file.readline(self.longest):
                    number += 1
                    if text.strip():
                        yield at, number, self._decoded(text, number)
                    at += len(text)
        except OSError as error:
            raise Unusable(
                "file-unreadable",
                f"{self.path}: {error.strerror}",
                "Name the file of corrected dead letters with --input.",
            ) from None

    def _decoded(self, text: bytes, number: int) -> Line:
        if len(text) == self.longest:
            raise Unusable("line-too-long", f"{self.path}: line {number} is longer than a record may be", HINT)
        if fault := check_record(text.strip())[1]:
            raise Unusable("line-not-json", f"{self.path}: line {number}: {fault}", HINT)
        try:
            return msgspec.json.decode(text, type=Line)
        except msgspec.ValidationError as error:
            raise Unusable(
                "line-not-a-letter", f"{self.path}: line {number} is no dead letter: {error}", HINT
            ) from None


def _data(record: msgspec.Raw) -> bytes:
    """Return the bytes of a record. A record that was invalid JSON is a text in the line; return that text."""
    data = bytes(record)
    return msgspec.json.decode(data, type=str).encode() if data.startswith(b'"') else data
