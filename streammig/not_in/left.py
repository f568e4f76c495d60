"""An older run, and the file of what it left at the target: owners by stage, and when its latest event was issued."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from streammig.checkpoint import MISSED, UNDECIDED, Checkpoint, Role, SharedFile, hash_owner
from streammig.errors import Unusable
from streammig.inputs import StageInput
from streammig.model import BatchState
from streammig.selection import WithOwners
from streammig.sources import comparable
from streammig.verify.accepted import Passage
from streammig.verify.work import Work

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


class Older(NamedTuple):
    """An older run: its checkpoint, opened to read, and its inputs with their rules."""

    file: Checkpoint
    inputs: Mapping[str, StageInput]

    def binding(self, newer: Mapping[str, StageInput]) -> str:
        """What a `Left` depends on: the run, what was accepted, and the files of the newer export."""
        found = {it: (self.file.accepted(it), self.file.beside(it, MISSED)) for it in self.inputs}
        held = {name: [[[it.seq, it.tally.units] for it in each] for each in both] for name, both in found.items()}
        return json.dumps(
            [self.file.run["id"], held, {name: comparable(it.source.fingerprints()) for name, it in newer.items()}]
        )

    def passage(self, stage: str, places: Work) -> Passage:
        """Its accepted records of a stage. What belongs to customers that were left out lies between them."""
        it = self.inputs[stage]
        rules = it.rules if self.file.owns(stage) else WithOwners(it.rules, self.file.filtered_owners)
        return Passage(stage, it.source, rules, places.ranges)

    def corrected(self, stage: str, places: Work) -> Iterator[bytes]:
        """The hashes of owners whose records its retries sent, and that are still at the target."""
        for row in self.file.rows("SELECT source, offset, unit, owner FROM replayed_key WHERE stage = ?", stage):
            place = row["source"], row["offset"], row["unit"]
            ranges, _ = places.ranges(stage, place[0], place[1], place[1] + 1)
            if any(begin[:3] <= place < end[:3] for begin, end in ranges):
                yield row["owner"]

    def check_units(self, stage: str, units: Mapping[int, int]) -> None:
        """Raise `Unusable` unless today's mapping makes as many units as each batch holds. `units` is by batch."""
        differs, made_by = False, set()
        for it in self.file.accepted(stage):
            if not it.letters:
                made_by.add(it.mapping)
                differs = differs or it.tally.units != units.get(it.seq, 0)
        if differs or (made_by and self.inputs[stage].mapping not in made_by):
            raise Unusable(
                "not-in-mapping-changed",
                f"{self.file.path}: the {stage} were sent by another mapping, so their owners can't be told",
                "Put back the mapping that the older run ended with.",
            )

    def check(self, binding: Mapping[str, Any], newer: Checkpoint | None) -> None:
        """Raise `Unusable` unless this run's records at the account of this binding can be told. `newer` is the
        checkpoint that is to go on, None where it is new or sends nothing."""
        path = self.file.path
        self.file.refuse_reverting()
        if newer is not None and self.file.reverted_at() > newer.run["started"]:
            raise Unusable(
                "not-in-reverted-since",
                f"{path} was reverted after {newer.path} had begun: what was left out until then is gone",
                "Nothing was sent. To send what is gone: a new --checkpoint, with --not-in"
                f" {shlex.quote(str(newer.path))}. Customers that the revert has listed as kept must not be in its"
                " export.",
            )
        if self.file.run["binding"] != dict(binding):
            raise Unusable(
                "not-in-of-another-account",
                f"{path} is the checkpoint of a run to another account",
                "Name the checkpoint of the run that sent to this account.",
            )
        states = (BatchState.SENDING, *UNDECIDED)  # sending: its process was killed
        undecided = [it for row in self.file.stages() for it in self.file.batches(row.name, *states)]
        if undecided:
            raise Unusable(
                "not-in-undecided",
                f"{path}: batches whose outcome is unknown: {len(undecided):,}",
                "Run its command again, which looks for them. Then decide about the others:"
                f" streammig resolve {shlex.quote(str(path))}",
            )
        for name, it in self.inputs.items():
            if comparable(self.file.fingerprints(name)) != comparable(it.source.fingerprints()):
                raise Unusable(
                    "not-in-export-changed",
                    f"{path}: the export of {name} has changed since, so what was sent can't be told from it",
                    "Put the old export back where it was.",
                )


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
