"""Builds the index before anything is sent: spools the rows of a scan and has them sorted."""

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
from streammig.dedup.scan import FIXED, ROW, SPOT, Scanned, renumbered, spot
from streammig.dedup.sort import Counts, Each, Sorting, here
from streammig.disk import NO_ROOM, create, own_folder, sync_names, whole_file
from streammig.errors import MachineFault, counted
from streammig.model import START, Place

BYTES_A_CUSTOMER = 190
LEAST = 16 << 20
# A customer that the target takes (id, name, e-mail, date, balance) is seldom shorter in an export; and text like that
# seldom shrinks to less than a tenth, so an estimate from a file's size is rather too high.
SHORTEST_CUSTOMER, SHRUNK = 150, 10
SHORTEST_ROW = 40  # of a table, which names no fields in it


class Build:
    """An index that is being built: give it the scan of every span in order, then `finish`.

    For one thread; `close` may come from another, and makes a call that is under way fail. An index that is there
    stays whole until this one is finished. With `earlier`, its rows before `frontier` stay as they are: call `keep`
    first, then give it the scan from there on. A `key` of 32 bytes is that of an index whose hashes are to be the same.
    Without `roster` it tells of duplicates, and of no key else.
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
            self._place.mkdir(mode=0o700)  # all that is in it from now on is ours
            self._rows = create(self._place / "rows")
        except OSError as error:
            raise MachineFault(*fault(self._folder, error)) from None

    def keep(self) -> None:
        """Take over the rows of the earlier index, if there is one."""
        for rows in self._earlier.rows_before(self.frontier) if self._earlier is not None else ():
            self._write(rows)

    def add(self, scanned: Scanned) -> None:
        """The next span's rows, in reading order. Raises `MachineFault`."""
        rows = renumbered(scanned, self._reasons)
        while rows and rows[:SPOT] < spot(self.frontier):  # units of the record that the frontier lies in
            rows = rows[ROW:]
        self._write(rows)

    def _write(self, rows: bytes) -> None:
        self._digest.update(rows)
        try:
            self._rows.write(rows)
        except (OSError, ValueError) as error:  # ValueError: it was closed
            self.close()
            raise MachineFault(*fault(self._folder, error)) from None

    def finish(self, each: Each = here) -> KeyIndex:
        """The finished index; earlier ones are deleted. `each` does the work. Raises `MachineFault`."""
        try:
            self._rows.flush()
            os.fsync(self._rows.fileno())
            self._rows.close()
            found = self._sorted(each)
            digests = found.roster, found.repeated, self._digest.hexdigest()
            self._keep(About(
                binding=binding(self._token, self._policy), key=self.key.hex(), reasons=tuple(self._reasons),
                owners=found.owners, uniques=found.uniques, duplicates=found.duplicates, digests=digests,
                made_by=self._made_by,
            ))  # fmt: skip
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

    def _keep(self, about: About) -> None:
        """Make the index finished: its files are whole on the disk before the one that says so."""
        with whole_file(self._place / "about") as file:
            file.write_bytes(about.encode())
        sync_names(self._folder)

    def close(self) -> None:
        """End a sort that is under way; may be called twice, and from another thread."""
        self._closed = True
        with suppress(OSError):  # a full disk takes no buffered rows
            self._rows.close()

    def __enter__(self) -> Build:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
        if not self._finished:
            remove(self._place)


def fault(folder: Path, error: OSError | ValueError) -> tuple[str, str, str]:
    """Code, what and hint of what the machine said; never a value."""
    where = f"{folder}: the dedup index can't be kept there: "
    number = getattr(error, "errno", None)
    if number in NO_ROOM:
        return "disk-full", where + "the disk is full", "Make room on the disk, then run the same command."
    return "dedup-io", where + os.strerror(number or errno.EIO), "Check the disk, then run the same command."


def most_customers(mark: Mapping[str, Any]) -> int:
    """About how many customers a file with this fingerprint holds."""
    shortest = SHORTEST_ROW if mark.get("form") else SHORTEST_CUSTOMER
    return int(mark["size"]) * (SHRUNK if mark.get("compression") else 1) // shortest


def room_of_index(customers: int) -> dict[str, int]:
    """What the index of so many customers takes on the disk, in bytes."""
    return {f"the dedup index of about {counted(customers, 'customer')}": LEAST + customers * BYTES_A_CUSTOMER}
