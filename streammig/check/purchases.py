"""Units that have a natural key and come twice for one owner, found exactly: purchases that were exported twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from streammig.dedup import Build, Duplicate, KeyIndex, counted_on, forget, room_of_index
from streammig.dedup.scan import FIXED, Scanned
from streammig.scan import Tasks

CODE = "purchase-twice"
SHORTEST = 250  # bytes of a purchase that the target takes


class Purchases:
    """Add the rows of every span in reading order; then `repeated` tells which of them come again."""

    def __init__(self, folder: Path, key: bytes) -> None:
        """Raises `MachineFault` where the folder can't be written."""
        self._folder = folder
        self._build = Build(folder, "", policy="all", key=key, roster=False)
        self._index: KeyIndex | None = None

    def add(self, rows: bytes, counted: int) -> None:
        """Rows whose records are counted from `counted` on."""
        self._build.add(Scanned(0, counted_on(rows, counted), FIXED))

    def repeated(self, tasks: Tasks) -> Iterator[Duplicate]:
        """Each unit whose key an earlier one of its owner has, in reading order. Raises `MachineFault`."""
        self._index = self._build.finish(tasks.each)
        return (it for it in self._index.duplicates() if it.place[:3] != it.first[:3])

    def close(self) -> None:
        """Delete what was kept."""
        self._build.close()
        if self._index is not None:
            self._index.close()
        forget(self._folder)


def room_of_purchases(length: int) -> dict[str, int]:
    """What the keys of the purchases in so many bytes of an export take on the disk, in bytes, at most."""
    (size,) = room_of_index(length // SHORTEST).values()
    return {"the keys of the purchases": size}
