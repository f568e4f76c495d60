"""Packing: records into batches, and how far a stage has been read.

`packer` makes batches out of what the rules examined; `halves`, `ranges_of` and `assemble` make the parts of a batch
that is split.
"""

from collections.abc import Sequence

from streammig.packing.base import BatchLimits, Packer, Sealing
from streammig.packing.bins import Bins
from streammig.packing.bodies import assemble, cut, distinct, halves, is_within, ranges_of, select, split_record
from streammig.packing.inorder import InOrder
from streammig.records import Progress, Range

__all__ = [
    "BatchLimits",
    "Packer",
    "Sealing",
    "assemble",
    "cut",
    "distinct",
    "halves",
    "is_within",
    "packer",
    "ranges_of",
    "select",
    "split_record",
]


def packer(
    head: bytes,
    tail: bytes,
    once: bool,
    limits: BatchLimits | None = None,
    progress: Progress | None = None,
    ahead: Sequence[Range] = (),
) -> Packer:
    """The packer of a stage; `head`, `tail` and `once` are its rules'.

    Resumed with the stored progress and the ranges of the batches sealed beyond its frontier, and fed again from the
    frontier on, it goes on as if it had never stopped: nothing is counted or packed twice.
    """
    kind = Bins if once else InOrder
    return kind(head, tail, limits or BatchLimits(), progress or Progress(), ahead)
