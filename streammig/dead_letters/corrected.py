"""The file in which the operator has corrected dead letters."""

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
    """One line as `dead-letters` writes it; what else it holds is for people."""

    stage: str
    file: str
    offset: Number
    record: msgspec.Raw
    unit: Number = 0


@dataclass(slots=True)
class Corrected:
    """The corrected records, by the places of their letters. Only where each line stands is kept in memory.

    `strangers` counts the lines that name no dead letter (any more).
    """

    path: Path
    longest: int  # bytes of a line
    strangers: int = 0
    _lines: dict[tuple[str, Spot], tuple[int, int]] = field(default_factory=dict)  # to offset and number

    @classmethod
    def read(cls, path: Path, checkpoint: Path) -> Corrected:
        """Raises `Unusable`, naming the line, unless this is a file of corrected dead letters of the checkpoint's
        migration, each there once."""
        with closing(Checkpoint.open(checkpoint, read_only=True)) as file:
            context = file.run["context"]
            # A record that is no JSON is a text there, up to twice as long; beside it stand its place and reason.
            found = cls(path, 2 * context["max_record_bytes"] + 100_000)
            for at, number, line in found._read():
                found._add(file, context["inputs"], at, number, line)
        return found

    def has(self, stage: str, spot: Spot) -> bool:
        return (stage, spot) in self._lines

    def record(self, stage: str, spot: Spot) -> bytes | None:
        """The record that stands in place of the letter's; None where there is none."""
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
                f"{self.path}: line {number} names a stage or a file that is none of this migration's",
                HINT,
            )
        spot = inputs[line.stage].index(line.file), line.offset, line.unit
        if (first := self._lines.get((line.stage, spot))) is not None:
            raise Unusable(
                "letter-twice",
                f"{self.path}: lines {first[1]} and {number} are of the same dead letter: only one of them can be sent",
                "Leave out the one that is not to be.",
            )
        if file.is_dead(line.stage, spot):
            self._lines[line.stage, spot] = at, number
        else:
            self.strangers += 1

    def _read(self) -> Iterator[tuple[int, int, Line]]:
        """Each line with its offset and its number."""
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
    """The record's bytes; of one that was no JSON and stands there as a text, those of the text."""
    data = bytes(record)
    return msgspec.json.decode(data, type=str).encode() if data.startswith(b'"') else data
