"""The file of what an older run left at the target: by stage its owners, and when its latest event was issued."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from streammig.checkpoint import MISSED, Role, SharedFile, hash_owner
from streammig.verify.work import Work

if TYPE_CHECKING:
    from streammig.not_in.older import Older

T = TypeVar("T")
Issued = Callable[[bytes], Sequence[float]]
"""When each unit of a record was issued, in seconds since the epoch."""


class Second(NamedTuple):
    """How to read the target's records for a second export.

    `owners` is the stage of the customers, `counted` the one whose units the target only counts. `issued` gives when
    they were issued. `profile` gives the fields of a customer that the target can update, `profile_hash` their hash.
    """

    owners: str
    counted: str
    issued: Issued
    profile: Callable[[bytes], dict[str, Any]]
    profile_hash: Callable[[bytes], bytes]


class Left(SharedFile):
    """A file of what an older run left at the target: by stage the hashed owners, each with a hash of its profile.

    It lies beside the checkpoint of the newer run, and is made again where it is lost. Any thread may ask it, and any
    process may open it.
    """

    role = Role("the list of what was sent before", "not-in", "Delete it: it is made again.")
    application = 0x734D4E69  # "sMNi"
    format = 2
    schema = """
-- What it was made of, and when the last event was issued that the older run has sent, in seconds since the epoch.
CREATE TABLE made (binding TEXT NOT NULL, salt BLOB NOT NULL, latest REAL NOT NULL);
CREATE TABLE present (stage TEXT NOT NULL, owner BLOB NOT NULL, profile BLOB NOT NULL, PRIMARY KEY (stage, owner))
 WITHOUT ROWID;
-- Customers among them that a verify of the older run did not find: the older run sends them again.
CREATE TABLE missing (owner BLOB PRIMARY KEY) WITHOUT ROWID"""

    def __reduce__(self) -> tuple[type[Left], tuple[Path, bool]]:
        return Left, (self.path, True)

    def made_of(self) -> str:
        """What it was made of; "" where it is not finished."""
        rows = self.rows("SELECT binding FROM made")
        return str(rows[0][0]) if rows else ""

    def make(self, binding: str, older: Older, places: Work, second: Second, stopped: Callable[[], bool]) -> None:
        """Fill it from the older run's export: the owners of each stage, but of the counted stage the latest moment.
        Raises `Unusable` where the export does not tell what was sent."""
        latest, salt = 0.0, older.file.run["salt"]
        self.change("DELETE FROM made")
        self.change("DELETE FROM present")
        self.change("DELETE FROM missing")
        for stage in older.inputs:
            units: Counter[int] = Counter()
            letters = {batch.seq for batch in older.file.accepted(stage) if batch.letters}
            missed = older.file.beside(stage, MISSED) if stage == second.owners else ()
            lost = {it.seq: it.ranges for it in missed}
            for item in until(stopped, older.passage(stage, places).items()):
                units[item.seq] += item.record.tally.units
                if stage == second.counted:
                    latest = max(latest, *second.issued(item.record.body))
                elif item.seq not in letters or older.file.replayed_keys(stage, [item.record.owner]):
                    self._add(stage, hash_owner(salt, item.record.owner), second.profile_hash(item.record.body))
                if any(begin[:3] <= item.place[:3] < end[:3] for begin, end in lost.get(item.seq, ())):
                    self.change("INSERT OR IGNORE INTO missing VALUES (?)", hash_owner(salt, item.record.owner))
            older.check_units(stage, units)
            # Of a dead letter that was corrected only the owner is kept, so its profile is unknown.
            for key in older.corrected(stage, places) if stage != second.counted else ():
                self._add(stage, key, b"")
        self.change("INSERT INTO made VALUES (?, ?, ?)", binding, salt, latest)

    def _add(self, stage: str, owner: bytes, profile: bytes) -> None:
        self.change("INSERT OR IGNORE INTO present VALUES (?, ?, ?)", stage, owner, profile)

    @property
    def latest(self) -> float:
        """When the latest event of the older run was issued, in seconds since the epoch; 0 where it sent none."""
        return float(self.rows("SELECT latest FROM made")[0][0])

    def present(self, stage: str, owners: Iterable[str]) -> dict[str, bytes]:
        """Those of these owners that have records of the stage at the target, each with the hash of its profile."""
        salt, found = self.rows("SELECT salt FROM made")[0][0], {}
        for owner in owners:
            for row in self.rows(
                "SELECT profile FROM present WHERE stage = ? AND owner = ?", stage, hash_owner(salt, owner)
            ):
                found[owner] = row[0]
        return found

    def missing(self, owners: Iterable[str]) -> set[str]:
        """Those of these customers that the older run sent, and a verify of it did not find."""
        salt = self.rows("SELECT salt FROM made WHERE EXISTS (SELECT 1 FROM missing)")
        if not salt:
            return set()
        asked = "SELECT 1 FROM missing WHERE owner = ?"
        return {owner for owner in owners if self.rows(asked, hash_owner(salt[0][0], owner))}


def until(stopped: Callable[[], bool], items: Iterable[T]) -> Iterator[T]:
    """The items, until it is stopped: then `CancelledError`."""
    for it in items:
        if stopped():
            raise asyncio.CancelledError
        yield it
