"""The requests of a stage, planned from its outlines alone: pure, so that any process may do it."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import NamedTuple

from streammig.batching import BatchLimits, batcher
from streammig.check.outline import Outline, Outlined, Requests, Spot, requests
from streammig.dedup import KeyIndex, owners_twice, repeated
from streammig.disk import own
from streammig.model import Place
from streammig.scan import Halted
from streammig.selection import BALANCE_DIFFERS, NOT_EXPLAINED, Why


class Planning(NamedTuple):
    """What the plan of a stage is made of: the file with its outlines, how they are batched, and the index of its keys,
    with that of the customers if these are another stage."""

    outlines: Path
    head: bytes
    tail: bytes
    once: bool
    limits: BatchLimits
    keys: KeyIndex | None
    customers: KeyIndex | None

    def stored(self, halt: Event) -> Iterator[Outline]:
        """The outlines, in reading order. Raises `Halted`, and `OSError`."""
        with open(self.outlines, "rb", opener=own) as file, suppress(EOFError):
            while True:
                if halt.is_set():
                    raise Halted
                yield pickle.load(file)


class Planned(NamedTuple):
    """The requests, and whether any rows can't be sent for what stands elsewhere."""

    requests: Requests
    any_gone: bool


def planned(planning: Planning, halt: Event | None = None) -> Planned:
    """Plan the requests. Raises as `Planning.stored`."""
    halt = halt or Event()
    gone, it = Gone(planning, halt), planning
    any_gone = not gone.nothing
    outlined = (Outlined(each, gone.of(each).keys()) for each in it.stored(halt))
    return Planned(requests(batcher(it.head, it.tail, it.once, it.limits), outlined), any_gone)


class Gone:
    """Which rows of a stage can't be sent for what stands elsewhere in the stage, or in that of the customers."""

    def __init__(self, planning: Planning, halt: Event) -> None:
        self._index, self._of = planning.keys, owners_twice if planning.once else repeated
        self._differing: Iterator[Place] = iter(())
        if self._index is not None and planning.customers is not None:
            self._differing = self._index.differing(planning.customers, halt.is_set)
        self._next = next(self._differing, None)

    @property
    def nothing(self) -> bool:
        """Whether all rows can be sent."""
        return self._index is None or (self._next is None and not self._index.about.duplicates)

    def of(self, outline: Outline) -> dict[Spot, Why]:
        """Why rows of an outline can't be sent. Ask in reading order."""
        if self._index is None or self.nothing:
            return {}
        end = Place(outline.source, outline.offsets[-1] + 1)
        found = {}
        while self._next is not None and self._next < end:
            found[self._next.offset, self._next.unit] = BALANCE_DIFFERS, NOT_EXPLAINED
            self._next = next(self._differing, None)
        repeats = self._of(self._index, Place(outline.source, outline.offsets[0]), end)
        found |= {(offset, unit): why for (_, offset, unit), why in repeats.items()}
        return {spot: found[spot] for spot in outline.spots() if spot in found} if found else {}
