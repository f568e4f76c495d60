"""Says before a census starts whether the disk has room for it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from streammig.errors import MachineFault

BYTES_A_CUSTOMER = 100
LEAST = 16 << 20
# Fewer than any customer that the target takes (id, name, e-mail, date, balance) has in an export; and how much text
# like that shrinks, at best of what was seen, so that an estimate from a file's size is rather too high.
SHORTEST_CUSTOMER = 150
SHRUNK = 10


def most_customers(size: int, compressed: bool) -> int:
    """How many customers a file of so many bytes holds at most."""
    return size * (SHRUNK if compressed else 1) // SHORTEST_CUSTOMER


def space_needed(customers: int) -> int:
    """Bytes of disk that a census of so many customers takes at its peak."""
    return LEAST + customers * BYTES_A_CUSTOMER


def check_space(folder: Path, customers: int, free: Callable[[Path], int] | None = None) -> None:
    """Raise MachineFault if there is too little disk for the owner table of so many customers.

    `folder` is where the table will be; it need not exist yet. `free` tells the bytes that are free at a path.
    """
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    need, have = space_needed(customers), (free or (lambda path: shutil.disk_usage(path).free))(there)
    if have < need:
        raise MachineFault(
            f"{folder}: the owner table of up to {customers:,} customers needs {_megabytes(need)} there, "
            f"but {_megabytes(have)} are free",
            "Make room, or name a checkpoint on a larger disk; a new one with --unchecked does without the table.",
        )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
