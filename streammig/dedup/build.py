"""Build the index before anything is sent: spool the rows of a scan, then sort them."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from streammig.dedup.lookup import About, KeyIndex, Policy, binding, builds, damaged, open_index, remove
from streammig.dedup.scan import FIXED, ROW, SORT_KEY, Scanned, remap_reasons, sort_key
from streammig.dedup.sort import Counts, Each, Sorting, here
from streammig.disk import NO_ROOM, create, own_folder, sync_names, whole_file
from streammig.errors import MachineFault, counted
from streammig.model import START, Place

BYTES_A_CUSTOMER = 190  # of disk
LEAST = 16 << 20  # bytes of disk
# Few valid customers (id, name, e-mail, date, balance) have less than 150 bytes in JSON, or 40 in a table, which names
# no fields. Such text is seldom compressed to less than a tenth. So an estimate from a file's size is rather too high.
SHORTEST_CUSTOMER, SHORTEST_ROW, SHRUNK = 150, 40, 10


class Build:
    """An index under construction: `add` the scan of every span in order, then `finish`.

    For one thread; only `close` may come from another, and makes a running call fail. An older index in the folder
    stays whole until this one is finished.

    The rows of an index `earlier` are kept up to `frontier`: call `keep` first, then add the scan from there on. `key`
    is the key of the hashes, 32 bytes: give that of another index to compare hashes with it. Without `roster` the index
    only knows duplicates.
    """

    def __init__(
        self, folder: Path, token: str, *, policy: Policy = "first", earlier: KeyIndex | None = None,
        frontier: Place = START, made_by: str = "", key: bytes = b"", roster: bool = True,
    ) -> None:  # fmt: skip
        self._folder, self._token, self._policy, self._roster = folder, token, policy, roster
        self._earlier, self.frontier, self._made_by = earlier, frontier, made_by
        self.key = bytes.fromhex(earlier.about.key) if earlier is not None else key or os.urandom(32)
        self._reasons = list(earlier.about.reasons if earlier is not None else FIXED)
        self._digest = hashlib.sha256()
        self._closed = self._finished = False
        newest = builds(folder)[-1:]
        self._place = folder / str(int(newest[0].name) + 1 if newest else 1)
        try:
            own_folder(folder)
            folder.chmod(0o700)
            self._place.mkdir(mode=0o700)  # new, so every file in it is ours
            self._rows = create(self._place / "rows")
        except OSError as error:
            raise MachineFault(*fault(self._folder, error)) from None

    def keep(self) -> None:
        """Copy the rows of the earlier index, if there is one."""
        for rows in self._earlier.rows_before(self.frontier) if self._earlier is not None else ():
            self._write(rows)

    def add(self, scanned: Scanned) -> None:
        """Add the rows of the next span in reading order. Raises `MachineFault`."""
        rows = remap_reasons(scanned, self._reasons)
        while rows and rows[:SORT_KEY] < sort_key(self.frontier):  # units of the record that the frontier lies in
            rows = rows[ROW:]
        self._write(rows)

    def _write(self, rows: bytes) -> None:
        self._digest.update(rows)
        try:
            self._rows.write(rows)
        except (OSError, ValueError) as error:  # ValueError: `close` was called
            self.close()
            raise MachineFault(*fault(self._folder, error)) from None

    def finish(self, each: Each = here) -> KeyIndex:
        """Sort the rows, using `each`, and return the finished index; delete older ones. Raises `MachineFault`."""
        try:
            self._rows.flush()
            os.fsync(self._rows.fileno())
            self._rows.close()
            found = self._sorted(each)
            about = About(
                binding=binding(self._token, self._policy), key=self.key.hex(), reasons=tuple(self._reasons),
                owners=found.owners, uniques=found.uniques, duplicates=found.duplicates,
                digests=(found.roster_digest, found.duplicates_digest, self._digest.hexdigest()),
                made_by=self._made_by,
            )  # fmt: skip
            with whole_file(self._place / "about") as file:  # the last file, which makes the index finished
                file.write_bytes(about.encode())
            sync_names(self._folder)
        except (OSError, ValueError) as error:
            raise MachineFault(*fault(self._folder, error)) from None
        index = open_index(self._folder, self._token, self._policy)
        if index is None or index.folder != self._place:
            raise damaged(self._place)
        self._finished = True
        for other in builds(self._folder)[:-1]:
            remove(other)
        return index

    def _sorted(self, each: Each) -> Counts:
        sorting = Sorting(self._place, self._policy, self._digest.hexdigest(), each, lambda: self._closed)
        return sorting.result(roster=self._roster)

    def close(self) -> None:
        """Stop a running sort. May be called twice, and from another thread."""
        self._closed = True
        with suppress(OSError):  # a full disk can't take the buffer
            self._rows.close()

    def __enter__(self) -> Build:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
        if not self._finished:
            remove(self._place)


def fault(folder: Path, error: OSError | ValueError) -> tuple[str, str, str]:
    """Return code, message and hint for an error of the machine."""
    where = f"{folder}: the dedup index can't be kept there: "
    number = getattr(error, "errno", None)
    if number in NO_ROOM:
        return "disk-full", where + "the disk is full", "Make room on the disk, then run the same command."
    return "dedup-io", where + os.strerror(number or errno.EIO), "Check the disk, then run the same command."


def most_customers(mark: Mapping[str, Any]) -> int:
    """Estimate how many customers a file with this fingerprint holds."""
    shortest = SHORTEST_ROW if mark.get("form") else SHORTEST_CUSTOMER
    return int(mark["size"]) * (SHRUNK if mark.get("compression") else 1) // shortest


def room_of_index(customers: int) -> dict[str, int]:
    """Return the bytes of disk that the index of so many customers needs, by purpose."""
    return {f"the dedup index of about {counted(customers, 'customer')}": LEAST + customers * BYTES_A_CUSTOMER}
