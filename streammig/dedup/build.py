"""Builds the index before anything is sent: spools the rows of a scan and has a child process sort them."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

import msgspec

from streammig.children import begin, ending
from streammig.dedup.lookup import WORK, About, KeyIndex, Policy, binding, builds, damaged, is_spill, open_index, remove
from streammig.dedup.scan import FIXED, ROW, SPOT, Scanned, renumbered, spot
from streammig.disk import NO_ROOM, create, own_folder, remove_own, sync_names, whole_file
from streammig.errors import MachineFault, counted
from streammig.model import START, Place

MEMORY_BYTES = 512 << 20
SPECIAL = frozenset("?*[\\")  # letters that DuckDB takes for more than letters of a path
_PROGRAM = "from streammig.dedup.sort import main; main()"
PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR", "LANG", "LC_ALL")

BYTES_A_CUSTOMER = 190
LEAST = 16 << 20
# No customer that the target takes (id, name, e-mail, date, balance) is shorter in an export; and text like that
# shrinks to a tenth at best, so an estimate from a file's size is rather too high.
SHORTEST_CUSTOMER, SHRUNK = 150, 10
SHORTEST_ROW = 40  # of a table, which names no fields in it


class Request(msgspec.Struct, frozen=True):
    """What the child process is asked for: to sort the rows in a folder, which have this digest. DuckDB has its files
    in another folder where it can't take the path of that one."""

    folder: str
    rows: str
    policy: str
    memory_bytes: int
    elsewhere: str = ""


class Sorted(msgspec.Struct, frozen=True):
    """What it answers: counts and digests of its two files, or a fault."""

    owners: int = 0
    uniques: int = 0
    duplicates: int = 0
    roster: str = ""
    repeated: str = ""
    fault: tuple[str, str, str] | None = None  # code, what, hint


class Build:
    """An index that is being built: give it the scan of every span in order, then `finish`.

    For one thread; `close` may come from another, and makes a call that is under way fail. An index that is there
    stays whole until this one is finished. With `earlier`, its rows before `frontier` stay as they are: call `keep`
    first, then give it the scan from there on. A `key` of 32 bytes is that of an index whose hashes are to be the same.
    """

    def __init__(
        self, folder: Path, token: str, *, policy: Policy = "first", earlier: KeyIndex | None = None,
        frontier: Place = START, memory_bytes: int = MEMORY_BYTES, made_by: str = "", key: bytes = b"",
    ) -> None:  # fmt: skip
        self._folder, self._token, self._policy, self._memory = folder, token, policy, memory_bytes
        self._earlier, self.frontier, self._made_by = earlier, frontier, made_by
        self.key = bytes.fromhex(earlier.about.key) if earlier is not None else key or os.urandom(32)
        self._reasons = list(earlier.about.reasons if earlier is not None else FIXED)
        self._digest = hashlib.sha256()
        self._child: subprocess.Popen[bytes] | None = None
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

    def finish(self) -> KeyIndex:
        """The finished index; earlier ones are deleted. Raises `MachineFault`."""
        try:
            self._rows.flush()
            os.fsync(self._rows.fileno())
            self._rows.close()
            found = self._sorted()
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

    def _sorted(self) -> Sorted:
        """What the child process makes of the rows."""
        if not SPECIAL & set(os.path.realpath(self._place)):
            return self._sorted_in("")
        with TemporaryDirectory(prefix="streammig-") as elsewhere:
            return self._sorted_in(elsewhere)

    def _sorted_in(self, elsewhere: str) -> Sorted:
        # Neither the API key goes to it, nor anything else that was put there for us.
        environ = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        self._child = child = begin(_PROGRAM, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, environ=environ)
        if self._closed:
            self.close()
        assert child.stdin is not None
        assert child.stdout is not None
        with child.stdout, child.stdin:
            with suppress(BrokenPipeError):  # it is gone: its end says why
                child.stdin.write(msgspec.json.encode(self._request(elsewhere)) + b"\n")
                child.stdin.flush()
            answer = child.stdout.read()
            code = child.wait()
        found = msgspec.json.decode(answer, type=Sorted) if answer.endswith(b"}") else Sorted()
        if found.fault:
            raise MachineFault(*found.fault)
        if code or not answer:
            raise MachineFault(
                "dedup-process-ended",
                f"the process that sorts the dedup index in {self._folder} ended {ending(code)}",
                "If the machine was short of memory, make room; then run the same command.",
            )
        return found

    def _request(self, elsewhere: str = "") -> Request:
        return Request(
            folder=str(self._place.absolute()), rows=self._digest.hexdigest(), policy=self._policy,
            memory_bytes=self._memory, elsewhere=elsewhere,
        )  # fmt: skip

    def _keep(self, about: About) -> None:
        """Make the index finished: its files are whole on the disk before the one that says so."""
        for name in WORK:
            (self._place / name).unlink(missing_ok=True)
        remove_own(self._place / "spill", is_spill)
        with whole_file(self._place / "about") as file:
            file.write_bytes(about.encode())
        sync_names(self._folder)

    def close(self) -> None:
        """End the child; may be called twice, and from another thread."""
        self._closed = True
        with suppress(OSError):  # a full disk takes no buffered rows
            self._rows.close()
        if self._child is not None:
            self._child.kill()

    def __enter__(self) -> Build:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
        if not self._finished:
            remove(self._place)


def fault(folder: Path, error: Exception) -> tuple[str, str, str]:
    """Code, what and hint of what the machine or DuckDB said; never a value, never a query."""
    where, text = f"{folder}: the dedup index can't be kept there: ", str(error)
    # DuckDB gives the system's words, and its own where its temp directory may not grow.
    words = [*map(os.strerror, NO_ROOM), "max_temp_directory_size"]
    if getattr(error, "errno", None) in NO_ROOM or any(it in text for it in words):
        return "disk-full", where + "the disk is full", "Make room on the disk, then run the same command."
    why = os.strerror(error.errno or errno.EIO) if isinstance(error, OSError) else type(error).__name__
    return "dedup-io", where + why, "Check the disk, then run the same command."


def most_customers(mark: Mapping[str, Any]) -> int:
    """How many customers a file with this fingerprint holds at most."""
    shortest = SHORTEST_ROW if mark.get("form") else SHORTEST_CUSTOMER
    return int(mark["size"]) * (SHRUNK if mark.get("compression") else 1) // shortest


def room_of_index(customers: int) -> dict[str, int]:
    """What the index of up to so many customers takes on the disk, in bytes."""
    return {f"the dedup index of up to {counted(customers, 'customer')}": LEAST + customers * BYTES_A_CUSTOMER}
