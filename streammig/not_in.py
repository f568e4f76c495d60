"""Leaves out of a second export what an older run sent and the target still has."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from streammig.batching import cut
from streammig.batching.body import part_of
from streammig.checkpoint import MISSED, UNDECIDED, Checkpoint, Role, SharedFile, hash_owner
from streammig.columns import Chunk, Columns
from streammig.disk import new_file
from streammig.errors import BrokenExport, Unusable
from streammig.inputs import StageInput
from streammig.model import BatchState, Examined, Record, Span
from streammig.selection import Absent, WithOwners, leave_out
from streammig.sources import comparable
from streammig.target import Rules
from streammig.telemetry import Notify, Warned
from streammig.verify.accepted import Passage
from streammig.verify.work import Work

SENT_BEFORE, BEFORE_SINCE = "sent-before", "before-since"  # the filters

CHANGED = ".changed.ndjson"  # the end of the name of the file with the customers that changed

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
            for item in _until(stopped, older.passage(stage, places).items()):
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


class WithoutLeft:
    """The rules of a stage, without the records of owners that have some at the target already. It pickles."""

    def __init__(self, rules: Rules, stage: str, left: Left) -> None:
        self.head, self.tail, self.once = rules.head, rules.tail, rules.once
        self._rules, self._stage, self._left = rules, stage, left

    def columns(self, span: Span) -> Columns:
        columns = self._rules.columns(span)
        there = self._left.present(self._stage, {*columns.owners})
        ats = {at for at, owner in zip(columns.index, columns.owners, strict=True) if owner in there}

        def change(it: Examined) -> Examined:
            gone = (SENT_BEFORE, "")
            return leave_out(it, [(record, gone if record.owner in there else None) for record in it.records])

        return Chunk(span, columns).changed(ats, change) if ats else columns


class WithoutSent:
    """The rules of a stage, without the units at places that an older run sent: for an export that is unchanged.

    Between those places lies what belongs to customers that the older run left out: `filtered` names them.
    """

    def __init__(self, rules: Rules, stage: str, work: Work, filtered: Absent) -> None:
        self.head, self.tail, self.once = rules.head, rules.tail, rules.once
        self._rules, self._stage, self._work, self._filtered = rules, stage, work, filtered

    def columns(self, span: Span) -> Columns:
        columns = self._rules.columns(span)
        ranges, _ = self._work.ranges(self._stage, span.source, span.offset, span.end.offset)
        if not ranges or not len(columns):
            return columns

        never = self._filtered({*columns.owners})

        def change(it: Examined) -> Examined:
            gone, parts = (SENT_BEFORE, ""), cut(it.records, ranges)
            return leave_out(it, [(at, gone if inside and at.owner not in never else None) for at, inside in parts])

        return Chunk(span, columns).changed({*columns.index}, change)


class Since:
    """The rules of a counted stage, without units issued before a moment, in seconds since the epoch."""

    def __init__(self, rules: Rules, moment: float, issued: Issued) -> None:
        self.head, self.tail, self.once = rules.head, rules.tail, rules.once
        self._rules, self._moment, self._issued = rules, moment, issued

    def columns(self, span: Span) -> Columns:
        columns = self._rules.columns(span)
        chunk = Chunk(span, columns)
        old = {
            at
            for at, record in zip(columns.index, chunk.records(0, len(columns)), strict=True)
            if min(self._issued(record.body)) < self._moment
        }

        def change(it: Examined) -> Examined:
            return leave_out(it, [part for record in it.records for part in self._parts(record)])

        return chunk.changed(old, change) if old else columns

    def _parts(self, record: Record) -> Iterator[tuple[Record, tuple[str, str] | None]]:
        for unit, at in enumerate(self._issued(record.body)):
            yield part_of(record, unit, unit + 1), (BEFORE_SINCE, "") if at < self._moment else None


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
                f"Nothing was sent. To send what is gone: a new --checkpoint, with --not-in {newer.path}. Customers"
                " that the revert has listed as kept must not be in its export.",
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
                f"Run its command again, which looks for them. Then decide about the others: streammig resolve {path}",
            )
        for name, it in self.inputs.items():
            if comparable(self.file.fingerprints(name)) != comparable(it.source.fingerprints()):
                raise Unusable(
                    "not-in-export-changed",
                    f"{path}: the export of {name} has changed since, so what was sent can't be told from it",
                    "Put the old export back where it was.",
                )


class Sent(NamedTuple):
    """What an older run left at the target: by owner (`left`), and by place (`places`) in the files of its `inputs`.
    `filtered` tells the customers that it left out."""

    left: Left
    places: Work
    inputs: Mapping[str, StageInput]
    filtered: Absent


def make(
    path: Path,
    older: Older,
    newer: Mapping[str, StageInput],
    second: Second,
    notify: Notify,
    stopped: Callable[[], bool],
) -> Sent:
    """What an older run left at the target, in the file at `path` and one beside it; `CancelledError` where stopped.

    Files that were made for the same run and exports are used as they are. Customers that changed since are written to
    a file beside them, and a warning gives their number.
    """
    left, places, binding = Left(path), Work(path.with_name(path.name + ".places")), older.binding(newer)
    places.begin(binding, {name: list(older.file.accepted(name)) for name in older.inputs})
    if left.made_of() != binding:
        where = path.with_suffix(CHANGED)
        with left.transaction():  # it is made when both files are
            left.make(binding, older, places, second, stopped)
            changed = _changed(where, left, newer[second.owners], second, stopped) if second.owners in newer else 0
        if changed:
            said = f"customers that changed since the older run: {changed:,}; they can't be migrated again"
            notify(Warned("customers-changed", f"{said}. For the target's own update call they are in {where}"))
    return Sent(left, places, older.inputs, older.file.filtered_owners)


def _alike(older: StageInput, newer: StageInput) -> bool:
    return comparable(older.source.fingerprints()) == comparable(newer.source.fingerprints())


def _changed(path: Path, left: Left, it: StageInput, second: Second, stopped: Callable[[], bool]) -> int:
    """Write the profiles of customers that are at the target with another profile; returns how many. Without any there
    is no file."""
    lines = _until(stopped, _profiles(left, it, second))
    first = next(lines, None)
    if first is None:
        if path.exists() and _is_ours(path):
            path.unlink()
        return 0
    found = 0
    with new_file(path, may_replace=_is_ours) as out:
        for line in chain([first], lines):
            out.write(line + b"\n")
            found += 1
    return found


def _until(stopped: Callable[[], bool], items: Iterable[T]) -> Iterator[T]:
    for it in items:
        if stopped():
            raise asyncio.CancelledError
        yield it


def _profiles(left: Left, it: StageInput, second: Second) -> Iterator[bytes]:
    with suppress(BrokenExport):  # what lies behind the break is not sent either
        for span in it.source.spans():
            columns = it.rules.columns(span)
            there = left.present(second.owners, {*columns.owners})
            for row in [row for row, owner in enumerate(columns.owners) if owner in there]:
                (record,) = Chunk(span, columns).records(row, row + 1)
                if second.profile_hash(record.body) != there[record.owner]:
                    yield json.dumps({"id": record.owner, "customer": second.profile(record.body)}).encode()


def _is_ours(path: Path) -> bool:
    """Whether a file is such a list: only that may be written again, and nothing behind a link."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        try:
            line = json.loads(file.readline())
        except ValueError:
            return False
    return isinstance(line, dict) and list(line) == ["id", "customer"]


def narrowed(
    inputs: Mapping[str, StageInput], sent: Sequence[Sent], since: str, second: Second, notify: Notify
) -> dict[str, StageInput]:
    """The inputs, without what older runs left at the target, and without what was issued before `since`."""
    found = dict(inputs)
    moment = parse_since(since) if since else 0.0
    for name, it in inputs.items():
        rules = Since(it.rules, moment, second.issued) if since and name == second.counted else it.rules
        for each in sent:
            if name != second.counted:
                rules = WithoutLeft(rules, name, each.left)
            elif name in each.inputs and _alike(each.inputs[name], it):
                rules = WithoutSent(rules, name, each.places, each.filtered)
            elif each.left.latest and moment <= each.left.latest:
                latest = datetime.fromtimestamp(each.left.latest, UTC).isoformat(timespec="seconds")
                said = f"{name} up to {latest} were sent by the older run: those in both exports will be there twice"
                notify(Warned("events-overlap", f"{said}. Name a later moment with --since"))
        found[name] = it._replace(rules=rules)
    return found


def parse_since(text: str) -> float:
    """The moment that `--since` names, in seconds since the epoch. Raises `Unusable`."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise Unusable(
            "since-invalid", f"since: {text!r} is no moment with a time zone", "Write it like 2026-01-31T00:00:00Z"
        )
    return moment.timestamp()
