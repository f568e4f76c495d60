"""Batching: records into batches, and how far a stage has been read.

`batcher` makes batches of what the rules say of records; `halves`, `ranges_of` and `assemble` make the parts of a batch
that is split.
"""

from collections.abc import Sequence

from streammig.batching.base import Batcher, BatchLimits, Buried, Sealing, nothing
from streammig.batching.best_fit import BestFit
from streammig.batching.body import Bounds, assemble, halves, part_of, tally_of
from streammig.batching.ranges import cut, is_within, ranges_of, select, touches
from streammig.batching.sequential import Sequential
from streammig.model import Progress, Range

__all__ = [
    "BatchLimits", "Batcher", "Bounds", "Buried", "Sealing", "assemble", "batcher", "cut", "halves", "is_within",
    "nothing", "part_of", "ranges_of", "select", "tally_of", "touches",
]  # fmt: skip


def batcher(
    head: bytes,
    tail: bytes,
    once: bool,
    limits: BatchLimits | None = None,
    progress: Progress | None = None,
    ahead: Sequence[Range] = (),
    buried: Buried = nothing,
) -> Batcher:
    """The batcher of a stage; `head`, `tail` and `once` are its rules'.

    Resumed with the stored progress and the ranges of the batches sealed beyond its frontier, and fed again from the
    frontier on, it goes on as if it had never stopped: nothing is counted or sent twice. `buried` tells what was a dead
    letter before.
    """
    kind = BestFit if once else Sequential
    return kind(head, tail, limits or BatchLimits(), progress or Progress(), ahead, buried)
