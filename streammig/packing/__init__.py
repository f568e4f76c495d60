"""Packing: records into batches, and how far a stage has been read.

`packer` makes batches out of what the rules examined; `select` and `assemble` make a sealed batch's body again from
its ranges, byte for byte; `halves` and `ranges_of` serve the isolation of a refused batch.
"""

from streammig.packing.bodies import assemble, distinct, halves, ranges_of, select, split_record
from streammig.packing.packers import BatchLimits, Packer, Sealing, packer

__all__ = [
    "BatchLimits",
    "Packer",
    "Sealing",
    "assemble",
    "distinct",
    "halves",
    "packer",
    "ranges_of",
    "select",
    "split_record",
]
