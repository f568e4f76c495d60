"""Find purchases that an export holds twice: units of one owner with the same natural key. Exact, no sampling."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from streammig.dedup import Build, Duplicate, KeyIndex, forget, room_of_index, shift_ordinals
from streammig.dedup.scan import FIXED, Scanned
from streammig.scan import Tasks

CODE = "purchase-twice"
SHORTEST = 250  # bytes; no valid purchase is shorter


class Purchases:
    """An index of purchases. Add the rows of every span in reading order, then call `repeated`."""

    def __init__(self, folder: Path, key: bytes) -> None:
        """Raises `MachineFault` if the folder can't be written."""
        self._folder = folder
        self._build = Build(folder, "", policy="all", key=key, roster=False)
        self._index: KeyIndex | None = None

    def add(self, rows: bytes, counted: int) -> None:
        """Add rows whose ordinals count from `counted`."""
        self._build.add(Scanned(0, shift_ordinals(rows, counted), FIXED))

    def repeated(self, tasks: Tasks) -> Iterator[Duplicate]:
        """Give each unit that repeats an earlier one of its owner, in reading order. Raises `MachineFault`."""
        self._index = self._build.finish(tasks.each)
        return (it for it in self._index.duplicates() if it.place[:3] != it.first[:3])

    def close(self) -> None:
        """Delete the index."""
        self._build.close()
        if self._index is not None:
            self._index.close()
        forget(self._folder)


def room_of_purchases(length: int) -> dict[str, int]:
    """Return the most bytes that the index takes on the disk, for an export of `length` bytes."""
    (size,) = room_of_index(length // SHORTEST).values()
    return {"the keys of the purchases": size}
