"""The finished index: which customers are duplicates, which owners will not be there, and where a key is kept."""

from __future__ import annotations

import hashlib
import os
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from streammig.dedup.roster import NOWHERE, OWNERS, UNIQUES, Entry, Roster
from streammig.dedup.scan import FIXED, OWNER, PLACE, ROW, SPOT, UNIQUE, hasher, hashes, place_of, spot
from streammig.dedup.sums import NO_SUM, UNKNOWN_SUM
from streammig.disk import own, own_folder, read_own, remove_own
from streammig.errors import MachineFault
from streammig.model import START, Place, spoken_place

Policy = Literal["first", "none", "all"]
"""Which of several records with the same id or e-mail is a duplicate: all but the first, none (not looked for), or all
of them, by id alone."""

FORMAT = 4
UNKNOWN = "unknown-customer"
OWNER_TWICE = "owner-twice"
REFUSED = "refused"  # what became of a customer after the index was built
KEYS = {"duplicate-customer": "id", "duplicate-email": "e-mail"}

DUPLICATE = 2 * PLACE.size + 1  # its own place, the place of the record it repeats, the number of its code
FILES = frozenset({"rows", "roster", "duplicates", "about", "about.part"})  # of a build
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
        self._key = bytes.fromhex(about.key)
        self._hashers = hasher(self._key, "owner"), hasher(self._key, "unique")
        with ExitStack() as stack:
            files = []
            for name in ("roster", "duplicates", "rows"):
                files.append(own(folder / name, os.O_RDONLY))
                stack.callback(os.close, files[-1])
            roster, self._repeated, self._rows = files
            if not checked and tuple(map(self._digest, files)) != about.digests:
                raise ValueError
            self._roster = Roster(roster, (about.owners, about.uniques))
            stack.callback(self._roster.close)
            self._open = stack.pop_all()

    def __reduce__(self) -> tuple[type[KeyIndex], tuple[Path, About, bool]]:
        return KeyIndex, (self.folder.absolute(), self.about, True)  # another process opens it for itself

    def missing(self, owners: Iterable[str]) -> dict[str, str]:
        """Those of these owners that will not be in the target, each with the code of the reason.

        An owner with a record that is kept is not among them. Else the first reason in the export counts, also
        "duplicate-email"; "unknown-customer" if there is none.
        """
        asked = list(owners)
        try:
            found = self._roster.reasons(hashes(self._key, "owner", asked))
        except ValueError:
            raise damaged(self.folder) from None
        if not any(found):
            return {}
        words = {NOWHERE: UNKNOWN, **dict(enumerate(self.about.reasons))}
        return {owner: words[why] for owner, why in zip(asked, found, strict=True) if why}

    def places(self, owner: str, unique: str = "") -> tuple[Place, ...]:
        """The places of the records that are kept with this id or, folded, this e-mail; in that order, each once."""
        entries = [self._entry(OWNERS, owner), self._entry(UNIQUES, unique) if unique else None]
        numbers = dict.fromkeys(it.number for it in entries if it is not None and not it.reason)
        return tuple(map(self._place, numbers))

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
        entry = self._find(OWNERS, owner)
        return entry is None or bool(entry.reason)

    def differs(self, owner: str, own: bytes) -> bool:
        """Whether what an owner's record of another stage adds up to is not what this one's does."""
        entry = self._entry(OWNERS, owner) if own != UNKNOWN_SUM else None
        return entry is not None and not entry.reason and entry.total not in (own, UNKNOWN_SUM)

    def differing(self, other: KeyIndex, stopped: Callable[[], bool]) -> Iterator[Place]:
        """The places of the records, of owners with one alone, that do not add up to what `other` has of their owner;
        both have the same key. Ends early once `stopped`."""

        def found() -> Iterator[bytes]:
            for mine, theirs in zip(self._roster.owners(), other._roster.owners(), strict=True):
                sums = {owner: total for owner, total, _, reason in theirs if not reason}
                for owner, total, number, reason in mine:
                    if not reason and total != UNKNOWN_SUM and sums.get(owner, total) not in (total, UNKNOWN_SUM):
                        yield number

        return self._in_order(found(), stopped)

    def without(self, other: KeyIndex, stopped: Callable[[], bool]) -> Iterator[Place]:
        """The places of records that are kept and add up to something, whose owner `other` does not know at all; both
        have the same key. Ends early once `stopped`."""

        def found() -> Iterator[bytes]:
            for mine, theirs in zip(self._roster.owners(), other._roster.owners(), strict=True):
                known = {owner for owner, _, _, _ in theirs}
                for owner, total, number, reason in mine:
                    if not reason and owner not in known and total not in (UNKNOWN_SUM, NO_SUM):
                        yield number

        return self._in_order(found(), stopped)

    def _in_order(self, numbers: Iterable[bytes], stopped: Callable[[], bool]) -> Iterator[Place]:
        """The places of rows with these numbers, in reading order. A bit for each row takes little memory."""
        bits = bytearray(os.fstat(self._rows).st_size // ROW // 8 + 1)
        for it in numbers:
            byte, bit = divmod(int.from_bytes(it, "big"), 8)
            bits[byte] |= 1 << bit
            if stopped():
                return
        for found in re.finditer(rb"[^\0]", bits):
            for bit in range(8):
                if found[0][0] >> bit & 1:
                    yield self._place(found.start() * 8 + bit)
            if stopped():
                return

    def rows_before(self, place: Place) -> Iterator[bytes]:
        """The rows before a place, in pieces, for an index that keeps them."""
        size, piece = self._before(self._rows, ROW, place) * ROW, READ // ROW * ROW
        for begin in range(0, size, piece):
            yield self._read(self._rows, min(piece, size - begin), begin)

    def _before(self, file: int, width: int, place: Place) -> int:
        """How many entries of a file in reading order stand before a place."""
        count = range(os.fstat(file).st_size // width)
        return bisect_left(count, spot(place), key=lambda it: self._read(file, SPOT, it * width))

    def _entry(self, kind: int, text: str) -> Entry | None:
        return self._find(kind, self._hashers[kind](text))

    def _find(self, kind: int, key: bytes) -> Entry | None:
        try:
            return self._roster.find(kind, key)
        except ValueError:
            raise damaged(self.folder) from None

    def _place(self, number: int) -> Place:
        return place_of(self._read(self._rows, ROW, number * ROW))

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
        self._open.close()

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
    remove_own(build, lambda name: name in FILES)


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


def repeated(
    index: KeyIndex, marks: Sequence[Mapping[str, Any]], begin: Place, end: Place
) -> Mapping[tuple[int, int, int], tuple[str, str]]:
    """The duplicates between two places of files with these fingerprints: (source, offset, unit) to code and message.
    Fit for another process."""
    return {
        it.place[:3]: (it.code, f"the same {KEYS[it.code]} is in {spoken_place(it.first, marks)}, which comes first")
        for it in index.duplicates(begin, end)
    }


def owners_twice(
    index: KeyIndex, marks: Sequence[Mapping[str, Any]], begin: Place, end: Place
) -> Mapping[tuple[int, int, int], tuple[str, str]]:
    """As `repeated`, of an index of the policy "all"."""
    return {
        it.place[:3]: (
            OWNER_TWICE,
            f"its customer has more than one record; the first is {spoken_place(it.first, marks)}",
        )
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
