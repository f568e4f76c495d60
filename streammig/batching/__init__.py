"""Batching: packs judged records into batches, and keeps track of how far a stage is read.

`batcher` makes the batches of a stage. `halves`, `ranges_of` and `assemble` split a batch.
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
    """The batcher of a stage. `head`, `tail` and `once` come from its rules.

    To resume, pass the stored `progress` and, as `ahead`, the ranges of batches sealed beyond its frontier. Then give
    it all source records from the frontier on. Nothing is counted or sent twice. `buried` tells which units were dead
    letters before.
    """
    kind = BestFit if once else Sequential
    return kind(head, tail, limits or BatchLimits(), progress or Progress(), ahead, buried)
