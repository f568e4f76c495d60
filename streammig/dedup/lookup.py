"""Look up in the finished index: duplicates, owners that will not be at the target, and places of keys."""

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
from streammig.dedup.scan import FIXED, OWNER, PLACE, ROW, SORT_KEY, UNIQUE, hasher, hashes, place_of, sort_key
from streammig.dedup.sums import NO_SUM, UNKNOWN_SUM
from streammig.disk import own, own_folder, read_own, remove_own
from streammig.errors import MachineFault
from streammig.model import START, Place, spoken_place

Policy = Literal["first", "none", "all"]
"""Which of several records with one id or e-mail are duplicates: "first": all but the first; "none": not looked for;
"all": all of them, by id alone."""

FORMAT = 4
UNKNOWN = "unknown-customer"
OWNER_TWICE = "owner-twice"
REFUSED = "refused"  # the reason in a run's notes of a customer that the target refused
KEYS = {"duplicate-customer": "id", "duplicate-email": "e-mail"}

DUPLICATE = 2 * PLACE.size + 1  # bytes: its place, the place of the record that it repeats, the number of its code
FILES = frozenset({"rows", "roster", "duplicates", "about", "about.part"})  # of a build
READ = 1 << 20  # bytes
AHEAD = 512  # duplicates read at once: 25 KB


class About(msgspec.Struct, frozen=True):
    """The header of an index. It is written last: an index without it is not finished."""

    binding: str  # to an export and its settings
    key: str  # of the hashes, in hex
    reasons: tuple[str, ...]
    owners: int
    uniques: int
    duplicates: int
    digests: tuple[str, str, str]  # of roster, duplicates and rows
    made_by: str = ""  # version and mapping of its newest rows; "" if unknown

    def encode(self) -> bytes:
        body = msgspec.json.encode(self)
        return body + b"\n" + _digest(body)

    @classmethod
    def decode(cls, data: bytes) -> About:
        """Decode the header. Raises ValueError if it is damaged."""
        body, _, digest = data.partition(b"\n")
        if _digest(body) != digest:
            raise ValueError
        return msgspec.json.decode(body, type=cls)


class Duplicate(NamedTuple):
    """A customer that is not sent because the one at `first` is.

    `code` is "duplicate-customer" (the same id) or "duplicate-email".
    """

    place: Place
    code: str
    first: Place


class KeyIndex:
    """The keys of an export's customers, on disk. It never changes, so any thread or process may use it.

    A foreign id is taken for a known one in one of 2**96 / owners look-ups. A known owner is never taken for absent.
    """

    def __init__(self, folder: Path, about: About, checked: bool = False) -> None:
        """Call `open_index` instead. Raises ValueError if the digests of the files differ; `checked` skips that."""
        self.about, self.folder = about, folder
        self._key = bytes.fromhex(about.key)
        self._hashers = hasher(self._key, "owner"), hasher(self._key, "unique")
        with ExitStack() as stack:
            files = []
            for name in ("roster", "duplicates", "rows"):
                files.append(own(folder / name, os.O_RDONLY))
                stack.callback(os.close, files[-1])
            roster, self._duplicates, self._rows = files
            if not checked and tuple(map(self._digest, files)) != about.digests:
                raise ValueError
            self._roster = Roster(roster, (about.owners, about.uniques))
            stack.callback(self._roster.close)
            self._open = stack.pop_all()

    def __reduce__(self) -> tuple[type[KeyIndex], tuple[Path, About, bool]]:
        return KeyIndex, (self.folder.absolute(), self.about, True)  # another process opens the files itself

    def missing(self, owners: Iterable[str]) -> dict[str, str]:
        """Return the owners that will not be at the target, each with the code of its reason.

        An owner with a kept record is there. For others the first reason in the export counts, "duplicate-email"
        included; "unknown-customer" if the export has no record of the owner.
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
        """Return the places of the kept records with this id, then with this (folded) e-mail, each once."""
        entries = [self._entry(OWNERS, owner), self._entry(UNIQUES, unique) if unique else None]
        numbers = dict.fromkeys(it.number for it in entries if it is not None and not it.reason)
        return tuple(map(self._place, numbers))

    def duplicates(self, start: Place = START, end: Place | None = None) -> Iterator[Duplicate]:
        """Give the duplicates from `start` up to, not including, `end`, in reading order."""
        at = self._before(self._duplicates, DUPLICATE, start)
        last = sort_key(end) if end is not None else b"\xff" * SORT_KEY
        while data := self._read(self._duplicates, AHEAD * DUPLICATE, at * DUPLICATE):
            for begin in range(0, len(data), DUPLICATE):
                one = data[begin : begin + DUPLICATE]
                if one[:SORT_KEY] >= last:
                    return
                yield Duplicate(place_of(one), FIXED[one[-1]], place_of(one[PLACE.size :]))
            at += AHEAD

    def owners_of_duplicates(self) -> Iterator[tuple[Duplicate, bytes]]:
        """Give each duplicate with the hash of its owner, for `lacks` of an index with the same key."""
        for it in self.duplicates():
            yield it, self._read(self._rows, ROW, self._before(self._rows, ROW, it.place) * ROW)[OWNER:UNIQUE]

    def lacks(self, owner: bytes) -> bool:
        """Whether the owner with this hash will not be at the target."""
        entry = self._find(OWNERS, owner)
        return entry is None or bool(entry.reason)

    def differs(self, owner: str, total: bytes) -> bool:
        """Whether a sum of another stage differs from the owner's sum here. Unknown sums never differ."""
        entry = self._entry(OWNERS, owner) if total != UNKNOWN_SUM else None
        return entry is not None and not entry.reason and entry.total not in (total, UNKNOWN_SUM)

    def differing(self, other: KeyIndex, stopped: Callable[[], bool]) -> Iterator[Place]:
        """Give the places of records whose sum differs from their owner's in `other`, an index with the same key.

        Owners with several records here have unknown sums and are passed over. Ends early once `stopped`.
        """

        def found() -> Iterator[bytes]:
            for mine, theirs in zip(self._roster.owners(), other._roster.owners(), strict=True):
                sums = {owner: total for owner, total, _, reason in theirs if not reason}
                for owner, total, number, reason in mine:
                    if not reason and total != UNKNOWN_SUM and sums.get(owner, total) not in (total, UNKNOWN_SUM):
                        yield number

        return self._places_in_order(found(), stopped)

    def owners_unknown_to(self, other: KeyIndex, stopped: Callable[[], bool]) -> Iterator[Place]:
        """Give the places of kept records with a sum other than 0 whose owner has no record in `other`.

        Both indexes have the same key. Ends early once `stopped`.
        """

        def found() -> Iterator[bytes]:
            for mine, theirs in zip(self._roster.owners(), other._roster.owners(), strict=True):
                known = {owner for owner, _, _, _ in theirs}
                for owner, total, number, reason in mine:
                    if not reason and owner not in known and total not in (UNKNOWN_SUM, NO_SUM):
                        yield number

        return self._places_in_order(found(), stopped)

    def _places_in_order(self, numbers: Iterable[bytes], stopped: Callable[[], bool]) -> Iterator[Place]:
        """Give the places of rows with these numbers, in reading order: sorted by a bit for each row."""
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
        """Give the rows before a place, in pieces."""
        size, piece = self._before(self._rows, ROW, place) * ROW, READ // ROW * ROW
        for begin in range(0, size, piece):
            yield self._read(self._rows, min(piece, size - begin), begin)

    def _before(self, file: int, width: int, place: Place) -> int:
        """Count the entries before a place, in a file in reading order."""
        count = range(os.fstat(file).st_size // width)
        return bisect_left(count, sort_key(place), key=lambda it: self._read(file, SORT_KEY, it * width))

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
    """Open the newest finished build in this folder; None if it is damaged or not for `token` and `policy`.

    The files are read through once, for a changed byte could send a customer twice: 0.1 s for a million customers.
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
    """List the folders of an index's builds, finished or not, oldest first. Raises `Unusable` for a link."""
    found = sorted((it for it in folder.glob("*") if it.name.isdecimal()), key=lambda it: int(it.name))
    for build in found:
        own_folder(build)
    return found


def forget(folder: Path) -> None:
    """Delete the index, finished or not. Other files in the folder stay."""
    for build in folder.glob("*"):
        if build.name.isdecimal():
            remove(build)
    with suppress(OSError):
        folder.rmdir()


def remove(build: Path) -> None:
    """Delete the files of a build, finished or not, and its folder once it is empty."""
    remove_own(build, lambda name: name in FILES)


def binding(token: str, policy: Policy) -> str:
    """Return the binding of an index. It is a digest, for the token may name files."""
    return _digest("\0".join((str(FORMAT), policy, token)).encode()).decode()


def damaged(folder: Path, error: OSError | None = None) -> MachineFault:
    why = f"can't be read: {error.strerror}" if error is not None else "is damaged"
    return MachineFault(
        "dedup-damaged", f"{folder}: the dedup index {why}", "Check the disk, then run the same command."
    )


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).hexdigest().encode()


class Notes(Protocol):
    """A run's notes of owners, made while it read and sent."""

    def seen_again(self, owners: Iterable[str]) -> set[str]:
        """Return the owners that a replay has brought to the target."""
        ...

    def absent_reasons(self, owners: Iterable[str]) -> dict[str, str]:
        """Return the owners that will not be at the target, each with the reason."""
        ...


def repeated(
    index: KeyIndex, marks: Sequence[Mapping[str, Any]], begin: Place, end: Place
) -> Mapping[tuple[int, int, int], tuple[str, str]]:
    """Map (source, offset, unit) of each duplicate between two places to the code and message of its dead letter.

    `marks` are the fingerprints of the files.
    """
    return {
        it.place[:3]: (it.code, f"the same {KEYS[it.code]} is in {spoken_place(it.first, marks)}, which comes first")
        for it in index.duplicates(begin, end)
    }


def owners_twice(
    index: KeyIndex, marks: Sequence[Mapping[str, Any]], begin: Place, end: Place
) -> Mapping[tuple[int, int, int], tuple[str, str]]:
    """As `repeated`, for an index of the policy "all"."""
    return {
        it.place[:3]: (
            OWNER_TWICE,
            f"its customer has more than one record; the first is {spoken_place(it.first, marks)}",
        )
        for it in index.duplicates(begin, end)
    }


def absent(index: KeyIndex | None, notes: Notes, owners: Iterable[str]) -> Mapping[str, str]:
    """Return the owners that will not be at the target, by the index or by the run's notes, each with the reason.

    A customer that a replay has brought to the target is there.
    """
    asked = list(owners)
    there = notes.seen_again(asked)
    asked = [owner for owner in asked if owner not in there]
    noted = notes.absent_reasons(asked)
    if index is None:
        return noted
    # A note made while reading may be wrong for an id that occurs twice, so the index overrules all but refusals.
    return {owner: why for owner, why in noted.items() if why == REFUSED} | index.missing(asked)
