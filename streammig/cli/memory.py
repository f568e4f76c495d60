"""Keeps the memory of a long run flat, against a default of the C library."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's numbers of M_TRIM_THRESHOLD and M_MMAP_THRESHOLD
_KEPT = 4 << 20  # bytes that are free at the end of a heap and stay there for the next body
_APART = 8 << 20  # bytes from which on a block is mapped by itself; no request body has so many


def keep_room_for_bodies() -> None:
    """Make glibc keep the memory of a request body for the next one, but no more than that.

    A block that is mapped by itself is given back at once, and cleared again page by page by the kernel for the next
    body: for 1 MB that takes longer than its SHA-256. By default glibc raises both thresholds as it sees fit, and a run
    of 5,000 batches grew by 12 MB. Other C libraries have no such thresholds.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_TRIM_THRESHOLD, _KEPT)
        libc.mallopt(_MMAP_THRESHOLD, _APART)
