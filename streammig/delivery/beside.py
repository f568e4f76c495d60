"""The preview of a mapping in a dry run: the first source records, each with its result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from streammig.columns import Chunk
from streammig.disk import new_file
from streammig.model import Span
from streammig.sources.source import Source
from streammig.target import Rules

RECORDS = 10


def write_beside(folder: Path, stages: Mapping[str, tuple[Source, Rules]]) -> None:
    """Write the first records of these stages and their results as text, each stage to a new owner-only file."""
    for name, (source, rules) in stages.items():
        with new_file(folder / f"{name}.beside.txt") as out:
            span = next(source.spans(), None)
            for part in [] if span is None else _shown(span.part(0, RECORDS), rules):
                out.write(part.encode())


def _shown(span: Span, rules: Rules) -> Iterator[str]:
    columns = rules.columns(span)
    chunk = Chunk(span, columns)
    left_out = {at: [it for it in columns.left_out if it.at == at] for at in range(len(span))}
    for at, data in enumerate(span.cut(0, len(span))):
        yield f"record {span.ordinals[at]}\n"
        yield _indented("from", data)
        for record in chunk.records(*chunk.rows(at)):
            yield _indented("to", record.body)
        for it in left_out[at]:
            yield from (f"  not sent: {letter.code}: {letter.message}\n" for letter in it.dead)
            yield from (f"  filtered: {reason}\n" for reason, _ in it.filtered)
        yield "\n"


def _indented(label: str, data: bytes) -> str:
    try:
        text = msgspec.json.format(data, indent=2).decode()
    except msgspec.DecodeError:
        text = data.decode(errors="replace")
    return f"  {label}: " + text.replace("\n", "\n  ") + "\n"
