"""Plan the requests of a stage from its outlines alone. Pure, so that any process may do it."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

from streammig.batching import Batcher, BatchLimits, batcher
from streammig.check.outline import Outline, OutlineChunk, RowKey
from streammig.dedup import KeyIndex, owners_twice, repeated
from streammig.disk import own
from streammig.model import DeadLetter, Place
from streammig.scan import Halted
from streammig.selection import BALANCE_DIFFERS, NOT_EXPLAINED, Why


class Planning(NamedTuple):
    """The input of a plan: the file of outlines, how they are batched, and the index of the stage's keys.

    `customers` is the index of the customers, if these are another stage.
    """

    outlines: Path
    head: bytes
    tail: bytes
    once: bool
    limits: BatchLimits
    keys: KeyIndex | None
    customers: KeyIndex | None
    marks: Sequence[Mapping[str, Any]]  # the fingerprints of its files

    def stored(self, halt: Event) -> Iterator[Outline]:
        """Read the outlines, in reading order. Raises `Halted` and `OSError`."""
        with open(self.outlines, "rb", opener=own) as file, suppress(EOFError):
            while True:
                if halt.is_set():
                    raise Halted
                yield pickle.load(file)


class Requests(NamedTuple):
    """The number of requests, their size in bytes, and dead letters for rows that fit into no request.

    `any_unsendable`: duplicates or balances keep some rows back.
    """

    number: int
    size: int
    letters: list[DeadLetter]
    any_unsendable: bool = False


def planned(planning: Planning, halt: Event | None = None) -> Requests:
    """Plan the requests. Raises `Halted` and `OSError`."""
    halt = halt or Event()
    unsendable, it = Unsendable(planning, halt), planning
    any_unsendable = not unsendable.nothing
    chunks = (OutlineChunk(each, unsendable.of(each).keys()) for each in it.stored(halt))
    found = requests(batcher(it.head, it.tail, it.once, it.limits), chunks)
    return found._replace(any_unsendable=any_unsendable)


def requests(batcher: Batcher, chunks: Iterator[OutlineChunk]) -> Requests:
    """Batch all rows of a stage, and count the requests."""
    batcher.only_sizes = True
    number = size = 0
    letters: list[DeadLetter] = []
    last = False
    while not last:
        chunk = next(chunks, None)
        last = chunk is None
        for sealing in batcher.take(chunk) if chunk is not None else batcher.finish():
            letters += sealing.progress.dead
            if sealing.draft is not None:
                number += 1
                size += sealing.draft.size
    return Requests(number, size, letters)


class Unsendable:
    """Find the rows that other records keep back: duplicates, and owners whose balance differs."""

    def __init__(self, planning: Planning, halt: Event) -> None:
        self._marks = planning.marks
        self._index, self._repeated = planning.keys, owners_twice if planning.once else repeated
        self._differing: Iterator[Place] = iter(())
        if self._index is not None and planning.customers is not None:
            self._differing = self._index.differing(planning.customers, halt.is_set)
        self._next = next(self._differing, None)

    @property
    def nothing(self) -> bool:
        """Whether all rows can be sent."""
        return self._index is None or (self._next is None and not self._index.about.duplicates)

    def of(self, outline: Outline) -> dict[RowKey, Why]:
        """Say why rows of an outline can't be sent. Ask in reading order."""
        if self._index is None or self.nothing:
            return {}
        end = Place(outline.source, outline.offsets[-1] + 1)
        found = {}
        while self._next is not None and self._next < end:
            found[self._next.offset, self._next.unit] = BALANCE_DIFFERS, NOT_EXPLAINED
            self._next = next(self._differing, None)
        repeats = self._repeated(self._index, self._marks, Place(outline.source, outline.offsets[0]), end)
        found |= {(offset, unit): why for (_, offset, unit), why in repeats.items()}
        return {key: found[key] for key in outline.row_keys() if key in found} if found else {}
