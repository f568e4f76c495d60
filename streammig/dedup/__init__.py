"""The dedup index: customers whose id or e-mail occurs more than once, and owners that will not be at the target.

`scan` makes rows from a span, `Build` sorts them, `open_index` opens the finished index, `forget` deletes it.
"""

from streammig.dedup.build import Build, most_customers, room_of_index
from streammig.dedup.lookup import (
    OWNER_TWICE,
    UNKNOWN,
    Duplicate,
    KeyIndex,
    Policy,
    absent,
    binding,
    forget,
    open_index,
    owners_twice,
    repeated,
)
from streammig.dedup.scan import Scanned, rows_of, rows_of_units, scan, shift_ordinals
from streammig.dedup.sums import sums_of

__all__ = [
    "OWNER_TWICE",
    "UNKNOWN",
    "Build",
    "Duplicate",
    "KeyIndex",
    "Policy",
    "Scanned",
    "absent",
    "binding",
    "forget",
    "most_customers",
    "open_index",
    "owners_twice",
    "repeated",
    "room_of_index",
    "rows_of",
    "rows_of_units",
    "scan",
    "shift_ordinals",
    "sums_of",
]
