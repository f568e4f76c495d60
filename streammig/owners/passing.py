"""Reads the customers for a census: once from end to end, and again at the places it asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

from streammig.errors import BrokenExport
from streammig.owners.census import Census
from streammig.owners.table import OwnerTable
from streammig.ports import Rules, Source
from streammig.records import START, Place, Run

# From so many bytes on it is quicker to open a plain file anew than to read on to the next place.
JUMP = 4 << 20


def take(
    census: Census, source: Source, rules: Rules, tell: Callable[[int], None] = lambda records: None
) -> OwnerTable:
    """Pass over all customers and finish the census. `tell` is called with how many source records were read so far;
    what it raises ends the pass.

    An export that breaks off is taken up to there: its stage says so once it has delivered everything before it.
    Raises like `Source.runs` before the first record, and like `Census.finish`.
    """
    passed = 0
    try:
        with _reading(source) as runs:
            for run in runs:
                census.add(rules.examine(run))
                passed += len(run)
                tell(passed)
    except BrokenExport:
        pass
    plain = not any(mark.get("compression") for mark in source.fingerprints())
    return census.finish(partial(keys_at, source, rules, JUMP if plain else None))


def keys_at(source: Source, rules: Rules, jump: int | None, places: Iterator[Place]) -> Iterator[tuple[str, str]]:
    """The owner and twin of the records at these places, which come in reading order.

    Where the next place is more than `jump` bytes ahead, the file is opened anew there; None: never, since a compressed
    file would be inflated from its start each time. Ends early where no record is at a place any more.
    """
    wanted = next(places, None)
    while wanted is not None:
        with _reading(source, Place(wanted.source, wanted.offset, 0, wanted.ordinal)) as runs:
            for run in runs:
                here = []
                while wanted is not None and wanted[:2] <= (run[-1].source, run[-1].offset):
                    here.append(wanted)
                    wanted = next(places, None)
                keys = _keys(rules, run, here)
                for place in here:
                    if place[:3] not in keys:
                        return
                    yield keys[place[:3]]
                if wanted is None or (jump is not None and _ahead(run, wanted) > jump):
                    break
            else:
                return


def _keys(rules: Rules, run: Run, places: Iterable[Place]) -> dict[tuple[int, int, int], tuple[str, str]]:
    offsets = {place[:2] for place in places}
    examined = rules.examine([it for it in run if (it.source, it.offset) in offsets]) if offsets else []
    return {
        (it.position.source, it.position.offset, record.unit): (record.owner, record.twin)
        for it in examined
        for record in it.records
    }


def _ahead(run: Run, place: Place) -> float:
    """How many bytes lie between a run and a place; without bound where it is in another file."""
    return place.offset - run[-1].offset if place.source == run[-1].source else float("inf")


@contextmanager
def _reading(source: Source, start: Place = START) -> Iterator[Iterator[Run]]:
    runs = source.runs(start)
    try:
        yield runs
    finally:
        close = getattr(runs, "close", None)
        if close is not None:
            close()
