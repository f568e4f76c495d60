"""Export dead letters with their records, read from the export again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from streammig.checkpoint import Checkpoint
from streammig.errors import Unusable
from streammig.fields import AtFault
from streammig.model import DeadLetter, Span
from streammig.sources import Form, comparable, open_source, parse_input, touched
from streammig.sources.source import Source
from streammig.sources.valid import check_record

_ON_ONE_LINE = bytes.maketrans(b"\r\n", b"  ")
FAR = 4_000_000  # bytes; beyond such a gap between two letters a seek beats reading on


class Line(msgspec.Struct):
    """One line of the output.

    `record` is the record as in the export, with blanks for the line breaks between its values; the text of invalid
    JSON. `unit` tells apart the parts that a mapping made of one record. `column` is as in `AtFault`.
    """

    stage: str
    file: str
    line: int
    column: str | None
    offset: int
    unit: int
    code: str
    message: str
    record: msgspec.Raw | str


def export_letters(
    checkpoint: Path, out: BinaryIO, stages: Collection[str] = (), codes: Collection[str] = (),
    grouped: Callable[[Checkpoint, str], Source | None] = lambda file, stage: None,
) -> int:  # fmt: skip
    """Write the dead letters of a checkpoint as NDJSON, in the order of the export; return their number.

    `stages` and `codes` narrow the choice; empty means all. `grouped` returns the source of a stage whose rows were
    grouped. Raises `Unusable` if the export is not the one that the checkpoint is bound to.
    """
    count = 0
    with closing(Checkpoint.open(checkpoint, read_only=True)) as file:
        context = file.run["context"]
        for name in [row.name for row in file.stages() if not stages or row.name in stages]:
            if not any(not codes or code in codes for code in file.dead_codes(name)):
                continue
            files = context["inputs"][name]
            form, most = Form(*context["forms"][name]), context["max_record_bytes"]
            source = grouped(file, name) or open_source(
                [parse_input(text) for text in files], max_record_bytes=most, form=form
            )
            check_unchanged(source, file.fingerprints(name))
            stage = context["settings"][name]
            fault = AtFault(name, source.header, None if stage.get("map") else stage.get("fields", {}))
            for letter, span in with_records(
                source, (it for _, it in file.dead_letters(name) if not codes or it.code in codes)
            ):
                at, code, message = letter.position, letter.code, letter.message
                record = _as_json(*span.cut(0, 1))
                line = Line(
                    stage=name, file=files[at.source], line=at.ordinal, column=fault.column(code, message),
                    offset=at.offset, unit=letter.unit, code=code, message=message, record=record,
                )  # fmt: skip
                out.write(msgspec.json.encode(line) + b"\n")
                count += 1
    return count


def check_unchanged(source: Source, marks: list[dict[str, Any]]) -> None:
    """Raise `Unusable` if these are not the files that the checkpoint is bound to."""
    now = source.fingerprints()
    if comparable(now) != comparable(marks) or touched(now, marks):
        raise Unusable(
            "export-changed",
            "the export has changed since the run: its dead letters can't be read from it any more",
            "Put the export that was migrated back in its place.",
        )


def with_records(source: Source, letters: Iterable[DeadLetter]) -> Iterator[tuple[DeadLetter, Span]]:
    """Give each letter with its source record. Reads forward, and seeks only if the next letter is far ahead."""
    spans: Iterator[Span] = iter(())
    span, at = None, 0
    for place, group in groupby(letters, lambda it: it.position.begin):
        if span is None or span.source != place.source or place.offset - span.end.offset > FAR:
            spans = source.spans(place)
            span, at = next(spans, None), 0
        while span is not None and (at := span.before(place)) == len(span):
            span = next(spans, None)
        if span is None or span.position(at).begin[:2] != place[:2]:
            raise Unusable(
                "export-changed",
                f"there is no record at byte {place.offset} of the export any more",
                "Put the export that was migrated back in its place.",
            )
        yield from ((letter, span.part(at, at + 1)) for letter in group)


def _as_json(data: bytes) -> msgspec.Raw | str:
    invalid, _ = check_record(data)
    return data.decode(errors="replace") if invalid else msgspec.Raw(data.translate(_ON_ONE_LINE))
