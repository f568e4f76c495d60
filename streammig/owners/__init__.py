"""Finds the customers that stand twice and the owners that will be absent, once, before anything is sent.

What it is to the rest of the house: `open_table` gives the finished table of an earlier call; where there is none,
`check_space`, then a `Census`, then `take` makes one; `forget` deletes it, with everything that it left.
"""

from streammig.owners.asking import RESEALED, absent, repeated
from streammig.owners.census import MEMORY_BYTES, Census
from streammig.owners.layout import Policy
from streammig.owners.passing import take
from streammig.owners.space import check_space, most_customers
from streammig.owners.table import UNKNOWN, Duplicate, OwnerTable, forget, open_table

__all__ = [
    "MEMORY_BYTES",
    "RESEALED",
    "UNKNOWN",
    "Census",
    "Duplicate",
    "OwnerTable",
    "Policy",
    "absent",
    "check_space",
    "forget",
    "most_customers",
    "open_table",
    "repeated",
    "take",
]
