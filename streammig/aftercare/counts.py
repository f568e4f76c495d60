"""What retries have made of dead letters, in numbers: taken before and after a retry, they tell what it did."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from streammig.checkpoint import Checkpoint


class Counts(NamedTuple):
    """How many letters retries have sent so far, records by what became of them, and the letters that are left;
    `waiting` are those of them that wait for their customer, `codes` those of each stage."""

    sent: int = 0
    accepted: int = 0
    filtered: int = 0
    undecided: int = 0
    left: int = 0
    waiting: int = 0
    codes: Mapping[str, Collection[str]] = {}


def counts(checkpoint: Path) -> Counts:
    """As the checkpoint stands now. Raises `Unusable` if it can't be read."""
    file = Checkpoint.open(checkpoint, read_only=True)
    try:
        names = [row.name for row in file.stages()]
        books = [file.books(name) for name in names]
        codes = {name: file.dead_codes(name) for name in names}
        letters = [it for found in codes.values() for it in found.items()]
        return Counts(
            file.letters_sent(),
            sum(it.accepted.records for it in books),
            sum(it.filtered.records for it in books),
            sum(it.unknown.records + it.pending.records for it in books),
            sum(count for _, count in letters),
            sum(count for code, count in letters if code.startswith("owner-")),
            codes,
        )
    finally:
        file.close()
