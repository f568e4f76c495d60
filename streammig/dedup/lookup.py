"""The finished index: which customers are duplicates, which owners will not be there, and where a key is kept."""

from __future__ import annotations

import hashlib
import os
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Protocol

import msgspec

from streammig.dedup.scan import FIXED, HASH, OWNER, PLACE, ROW, SPOT, SUM, UNIQUE, hasher, place_of, spot
from streammig.dedup.sums import NO_SUM, UNKNOWN_SUM, WIDTH
from streammig.disk import own, own_folder, read_own, remove_own
from streammig.errors import MachineFault
from streammig.model import START, Place

Policy = Literal["first", "none", "all"]
"""Which of several records with the same id or e-mail is a duplicate: all but the first, none (not looked for), or all
of them, by id alone."""

FORMAT = 3
UNKNOWN = "unknown-customer"
OWNER_TWICE = "owner-twice"
REFUSED = "refused"  # what became of a customer after the index was built
KEYS = {"duplicate-customer": "id", "duplicate-email": "e-mail"}

# The roster has each key once, ascending by its hash: all ids, and behind them all e-mails. An entry is the hash, the
# number of the key's first row that is kept (or of the row with the reason why none is), and that reason's number.
NUMBER = 5
ENTRY = HASH + NUMBER + 1
BLOCK = 256 * ENTRY  # what one look reads; 8 bytes of its first hash stay in memory, so 3 MB for 100 M keys
DUPLICATE = 2 * PLACE.size + 1  # its own place, the place of the record it repeats, the number of its code
WORK = ("inbox", "sorting.duckdb", "sorting.duckdb.wal")  # what sorting needs, and a finished build does not
FILES = frozenset({"rows", "roster", "duplicates", "about", "about.part", *WORK})  # of a build, beside its spill
READ = 1 << 20
END = Place((1 << 32) - 1)  # behind every record
AHEAD = 512  # duplicates that are read at once: 25 KB


class About(msgspec.Struct, frozen=True):
    """What an index is bound to and holds. It is written last: an index without it is not finished."""

    binding: str
    key: str  # of the hashes, in hex
    reasons: tuple[str, ...]
    owners: int
    uniques: int
    duplicates: int
    digests: tuple[str, str, str]  # of roster, duplicates and rows
    made_by: str = ""  # the version and the mapping by which it was built, or went on; "" where that can't be told

    def encode(self) -> bytes:
        body = msgspec.json.encode(self)
        return body + b"\n" + _digest(body)

    @classmethod
    def decode(cls, data: bytes) -> About:
        """Raises ValueError if these bytes are not whole."""
        body, _, digest = data.partition(b"\n")
        if _digest(body) != digest:
            raise ValueError
        return msgspec.json.decode(body, type=cls)


class Duplicate(NamedTuple):
    """A customer that is not sent because an earlier one is: `code` is "duplicate-customer" (the same id) or
    "duplicate-email", `first` the place of the one that is sent."""

    place: Place
    code: str
    first: Place


class KeyIndex:
    """The keys of an export's customers, on disk. It never changes: any thread may ask it, any process open it.

    An id that occurs nowhere is taken for another's in one of 2**96 / owners questions. An owner that is there is
    never taken for absent.
    """

    def __init__(self, folder: Path, about: About, checked: bool = False) -> None:
        """For `open_index`. Raises ValueError if the files are not what `about` says, unless that is `checked`."""
        self.about, self.folder = about, folder
        key = bytes.fromhex(about.key)
        self._hashers = hasher(key, "owner"), hasher(key, "unique")
        self._begins = 0, about.owners * ENTRY, (about.owners + about.uniques) * ENTRY  # of ids, of e-mails; the end
        self._files: list[int] = []
        try:
            self._files += [own(folder / name, os.O_RDONLY) for name in ("roster", "duplicates", "rows")]
            self._roster, self._repeated, self._rows = self._files
            if not checked and tuple(map(self._digest, self._files)) != about.digests:
                raise ValueError
            self._heads = self._first_hashes(0), self._first_hashes(1)
        except BaseException:
            self.close()
            raise

    def __reduce__(self) -> tuple[type[KeyIndex], tuple[Path, About, bool]]:
        return KeyIndex, (self.folder.absolute(), self.about, True)  # another process opens it for itself

    def missing(self, owners: Iterable[str]) -> dict[str, str]:
        """Those of these owners that will not be in the target, each with the code of the reason.

        An owner with a record that is kept is not among them. Else the first reason in the export counts, also
        "duplicate-email"; "unknown-customer" if there is none.
        """
        found = {}
        for owner in owners:
            entry = self._entry(0, owner)
            if entry is None:
                found[owner] = UNKNOWN
            elif entry[1]:
                found[owner] = self.about.reasons[entry[1]]
        return found

    def places(self, owner: str, unique: str = "") -> tuple[Place, ...]:
        """The places of the records that are kept with this id or, folded, this e-mail; in that order, each once."""
        entries = [self._entry(0, owner), self._entry(1, unique) if unique else None]
        numbers = dict.fromkeys(entry[0] for entry in entries if entry is not None and not entry[1])
        return tuple(place_of(self._read(self._rows, ROW, number * ROW)) for number in numbers)

    def duplicates(self, start: Place = START, end: Place | None = None) -> Iterator[Duplicate]:
        """The duplicates from `start` up to, not including, `end`, in reading order; `start` is found by bisection."""
        at = self._before(self._repeated, DUPLICATE, start)
        last = spot(end) if end is not None else b"\xff" * SPOT
        while data := self._read(self._repeated, AHEAD * DUPLICATE, at * DUPLICATE):
            for begin in range(0, len(data), DUPLICATE):
                one = data[begin : begin + DUPLICATE]
                if one[:SPOT] >= last:
                    return
                yield Duplicate(place_of(one), FIXED[one[-1]], place_of(one[PLACE.size :]))
            at += AHEAD

    def owners_of_duplicates(self) -> Iterator[tuple[Duplicate, bytes]]:
        """Each duplicate with the hash of its owner, which an index with the same key knows by `lacks`."""
        for it in self.duplicates():
            yield it, self._read(self._rows, ROW, self._before(self._rows, ROW, it.place) * ROW)[OWNER:UNIQUE]

    def lacks(self, owner: bytes) -> bool:
        """Whether the owner with this hash will not be in the target."""
        entry = self._find(0, owner)
        return entry is None or bool(entry[1])

    def sum_of(self, owner: bytes) -> bytes:
        """The sum of the owner with this hash, unknown where no record of it is kept."""
        entry = self._find(0, owner)
        return UNKNOWN_SUM if entry is None or entry[1] else self._read(self._rows, WIDTH, entry[0] * ROW + SUM)

    def differs(self, owner: str, own: bytes) -> bool:
        """Whether what an owner's record of another stage adds up to is not what this one's does."""
        there = self.sum_of(self._hashers[0](owner)) if own != UNKNOWN_SUM else own
        return there not in (own, UNKNOWN_SUM)

    def differing(self, other: KeyIndex, stopped: Callable[[], bool]) -> Iterator[Place]:
        """The places of the records, of owners with one alone, that do not add up to what `other` has of their owner;
        both have the same key. Ends early once `stopped`."""
        for row in self._kept_rows(stopped):
            own = row[SUM:]
            if own != UNKNOWN_SUM and other.sum_of(row[OWNER:UNIQUE]) not in (own, UNKNOWN_SUM):
                yield place_of(row)

    def without(self, other: KeyIndex, stopped: Callable[[], bool]) -> Iterator[Place]:
        """The places of records that are kept and add up to something, whose owner `other` does not know at all; both
        have the same key. Ends early once `stopped`."""
        for row in self._kept_rows(stopped):
            if row[SUM:] not in (UNKNOWN_SUM, NO_SUM) and other._find(0, row[OWNER:UNIQUE]) is None:
                yield place_of(row)

    def _kept_rows(self, stopped: Callable[[], bool]) -> Iterator[bytes]:
        """The rows in reading order but for those of duplicates. Ends early once `stopped`."""
        twice = (it.place for it in self.duplicates())
        repeated = next(twice, None)
        for data in self.rows_before(END):
            if stopped():
                return
            for begin in range(0, len(data), ROW):
                row = data[begin : begin + ROW]
                if place_of(row) == repeated:
                    repeated = next(twice, None)
                else:
                    yield row

    def rows_before(self, place: Place) -> Iterator[bytes]:
        """The rows before a place, in pieces, for an index that keeps them."""
        size, piece = self._before(self._rows, ROW, place) * ROW, READ // ROW * ROW
        for begin in range(0, size, piece):
            yield self._read(self._rows, min(piece, size - begin), begin)

    def _before(self, file: int, width: int, place: Place) -> int:
        """How many entries of a file in reading order stand before a place."""
        count = range(os.fstat(file).st_size // width)
        return bisect_left(count, spot(place), key=lambda it: self._read(file, SPOT, it * width))

    def _entry(self, kind: int, text: str) -> tuple[int, int] | None:
        """The row number and the reason of an id (`kind` is 0) or an e-mail (1)."""
        return self._find(kind, self._hashers[kind](text))

    def _find(self, kind: int, key: bytes) -> tuple[int, int] | None:
        heads, begin = self._heads[kind], self._begins[kind]
        head = int.from_bytes(key[:8], "big")
        low, high = max(bisect_left(heads, head) - 1, 0), bisect_right(heads, head)
        stop = min(begin + high * BLOCK, self._begins[kind + 1])
        data = self._read(self._roster, stop - begin - low * BLOCK, begin + low * BLOCK)
        at = data.find(key)
        while at >= 0 and at % ENTRY:  # within other entries
            at = data.find(key, at + 1)
        if at < 0:
            return None
        return int.from_bytes(data[at + HASH : at + HASH + NUMBER], "big"), data[at + ENTRY - 1]

    def _first_hashes(self, kind: int) -> array[int]:
        blocks = range(self._begins[kind], self._begins[kind + 1], BLOCK)
        return array("Q", (int.from_bytes(self._read(self._roster, 8, at), "big") for at in blocks))

    def _digest(self, file: int) -> str:
        digest, offset = hashlib.sha256(), 0
        while data := self._read(file, READ, offset):
            digest.update(data)
            offset += len(data)
        return digest.hexdigest()

    def _read(self, file: int, length: int, offset: int) -> bytes:
        try:
            return os.pread(file, length, offset)
        except OSError as error:
            raise damaged(self.folder, error) from None

    def close(self) -> None:
        """Close the files; may be called twice."""
        while self._files:
            os.close(self._files.pop())

    def __enter__(self) -> KeyIndex:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def open_index(folder: Path, token: str, policy: Policy = "first") -> KeyIndex | None:
    """The index in this folder, if its newest finished build is whole and for `token` and `policy`, or None.

    It is read through once, since a changed byte could have a customer sent twice: 0.1 s for a million customers.
    """
    for build in reversed(builds(folder)):
        try:
            about = About.decode(read_own(build / "about"))
        except (OSError, ValueError, msgspec.MsgspecError):
            continue  # it was not finished
        with suppress(OSError, ValueError, MachineFault):
            return KeyIndex(build, about) if about.binding == binding(token, policy) else None
        break
    return None


def builds(folder: Path) -> list[Path]:
    """The folders of an index's builds, finished or not, oldest first. Raises `Unusable` for a link in their place."""
    found = sorted((it for it in folder.glob("*") if it.name.isdecimal()), key=lambda it: int(it.name))
    for build in found:
        own_folder(build)
    return found


def forget(folder: Path) -> None:
    """Delete the index, finished or not. A folder that holds anything else is left with that in it."""
    for build in folder.glob("*"):
        if build.name.isdecimal():
            remove(build)
    with suppress(OSError):
        folder.rmdir()


def remove(build: Path) -> None:
    """Delete the files of a build, finished or not, and its folder once it is empty."""
    remove_own(build / "spill", is_spill)
    remove_own(build, lambda name: name in FILES)


def is_spill(name: str) -> bool:
    """Whether DuckDB gives this name to a file of its temporary folder."""
    return name.startswith("duckdb_temp")


def binding(token: str, policy: Policy) -> str:
    """What an index is bound to, as a digest: the token may name files."""
    return _digest("\0".join((str(FORMAT), policy, token)).encode()).decode()


def damaged(folder: Path, error: OSError | None = None) -> MachineFault:
    why = f"can't be read: {error.strerror}" if error is not None else "is not what was written"
    return MachineFault(
        "dedup-damaged", f"{folder}: the dedup index {why}", "Check the disk, then run the same command."
    )


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).hexdigest().encode()


class Notes(Protocol):
    """What a run noted of owners while it read and sent."""

    def seen_again(self, owners: Iterable[str]) -> set[str]: ...
    def absent_reasons(self, owners: Iterable[str]) -> dict[str, str]: ...


def repeated(index: KeyIndex, begin: Place, end: Place) -> Mapping[tuple[int, int, int], tuple[str, str]]:
    """The duplicates between two places: (source, offset, unit) to code and message. Fit for another process."""
    return {
        it.place[:3]: (it.code, f"the same {KEYS[it.code]} is in record {it.first.ordinal}, which comes first")
        for it in index.duplicates(begin, end)
    }


def owners_twice(index: KeyIndex, begin: Place, end: Place) -> Mapping[tuple[int, int, int], tuple[str, str]]:
    """As `repeated`, of an index of the policy "all"."""
    return {
        it.place[:3]: (OWNER_TWICE, f"its customer has more than one record; the first is record {it.first.ordinal}")
        for it in index.duplicates(begin, end)
    }


def absent(index: KeyIndex | None, notes: Notes, owners: Iterable[str]) -> Mapping[str, str]:
    """Those of these owners that will not be in the target, by the export or by what became of them, with the reason.

    A customer that a replay brought to the target is there.
    """
    asked = list(owners)
    there = notes.seen_again(asked)
    asked = [owner for owner in asked if owner not in there]
    noted = notes.absent_reasons(asked)
    if index is None:
        return noted
    # A note made while reading can be wrong for an id that occurs twice: the index knows better.
    return {owner: why for owner, why in noted.items() if why == REFUSED} | index.missing(asked)
