"""Makes batches of dead letters again: judges each, as it is or repaired, and keeps who was sent from going twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from streammig.aftercare.letters import with_slices
from streammig.aftercare.share import Share, share
from streammig.batching import BatchLimits, assemble, ranges_of, select, split_record
from streammig.checkpoint import Becomes, Checkpoint, Spot, WorkFile
from streammig.checkpoint.codec import twin_key
from streammig.errors import BrokenExport
from streammig.reader import Absent, Judge
from streammig.records import DeadLetter, Draft, Record, Slice
from streammig.sources.source import Source
from streammig.sources.valid import judge
from streammig.target import Rules

# Letters that are taken at a time: some 40 MB, and for each wave the export is passed over once.
WAVE = 50_000
SCAN = 1_000  # letters read from the checkpoint at once


class Choice(NamedTuple):
    """Which letters a retry takes; empty means all. `repaired`: only those that were repaired."""

    stages: frozenset[str] = frozenset()
    codes: frozenset[str] = frozenset()
    repaired: bool = False


@dataclass(slots=True)
class Group:
    """Letters whose records must travel in one request, for their owner is sent once only."""

    spots: list[Spot]
    keys: list[str]
    units: int
    size: int
    letters: list[DeadLetter]


@dataclass(slots=True)
class Wave:
    """What becomes of some letters: groups to send, and outcomes of those that are not sent. `last` is how far the
    letters were gone through."""

    last: Spot
    groups: list[Group] = field(default_factory=list)
    outcomes: list[Becomes] = field(default_factory=list)
    repaired: set[Spot] = field(default_factory=set)


class Parcel(NamedTuple):
    """What one transaction seals: drafts with the records whose owners must not go twice, and the letters in them."""

    drafts: list[tuple[Draft, list[Record]]]
    letters: list[tuple[Spot, bool]]


@dataclass(slots=True)
class Retrial:
    """The dead letters of one stage, tried again. Synchronous, for the thread that reads.

    `judge` is that of the run, which says what was sent; `absent` who is not in the target now. Nothing is changed in
    the checkpoint here: the records are put into the work file, durably, and what to seal is handed out.
    """

    stage: str
    source: Source
    rules: Rules
    judge: Judge
    absent: Absent
    file: Checkpoint
    work: WorkFile
    limits: BatchLimits
    choice: Choice
    stopped: Callable[[], bool]

    def wave(self, after: Spot) -> Wave | None:
        """The next letters behind a spot, or None if there are no more."""
        letters, last = self._chosen(after)
        if last == after:
            return None
        wave = Wave(last)
        homes: dict[str, Group] = {}
        with self.work.transaction():
            for letter, piece in with_slices(self.source, iter(letters)):
                self._place(wave, homes, letter, piece)
        self._without_rivals(wave, homes)
        return wave

    def parcels(self, wave: Wave) -> Iterator[Parcel]:
        """The wave's groups as drafts within the limits."""
        open_: list[Group] = []
        for group in wave.groups:
            if open_ and not self._fits([*open_, group]):
                yield self._parcel(wave, open_)
                open_ = []
            open_.append(group)
        if open_:
            yield self._parcel(wave, open_)

    # -- choosing and judging ----------------------------------------------------------------------------------------

    def _chosen(self, after: Spot) -> tuple[list[DeadLetter], Spot]:
        chosen: list[DeadLetter] = []
        released = self.file.has_released()
        while len(chosen) < WAVE and not self.stopped():
            letters = self.file.letters_after(self.stage, after, SCAN)
            if not letters:
                break
            chosen += [it for it in letters if self._is_chosen(it, released)]
            after = spot_of(letters[-1])
        return chosen, after

    def _is_chosen(self, letter: DeadLetter, released: bool) -> bool:
        if released and letter.code.startswith("owner-"):
            return True  # its customer may be there by now
        choice = self.choice
        if (choice.stages and self.stage not in choice.stages) or (choice.codes and letter.code not in choice.codes):
            return False
        return not choice.repaired or self.work.repaired(self.stage, spot_of(letter)) is not None

    def _place(self, wave: Wave, homes: dict[str, Group], letter: DeadLetter, piece: Slice) -> None:
        """Judge a letter, and put it into a group or among the outcomes."""
        spot = spot_of(letter)
        repaired = self.work.repaired(self.stage, spot)
        if repaired is not None and repaired != piece.data:
            code, fault = judge(repaired)
            again = msgspec.structs.replace(piece, data=repaired, code=code, fault=fault)
            wave.repaired.add(spot)
        else:
            again = piece
        before, now = (self.rules.examine([it])[0] for it in (piece, again))
        found = self._present(share(letter, before, now))
        if not found.records:
            self._remain(wave, letter, found)
            return
        keys = [key for record in found.records for key in self._keys(record)]
        units = sum(record.units for record in found.records)
        group = Group([spot], keys, units, sum(len(record.body) + 1 for record in found.records), [letter])
        if clash := self._join(homes, group):
            self._remain(wave, letter, clash)
        elif not self._fits([group]) and not all(self._within(record) for record in found.records):
            self._remain(
                wave, letter, Share([], "too-large", "it is more than one request may hold, and can't be split")
            )
        else:
            self.work.put(self.stage, letter.unit, again, spot in wave.repaired, found.units)
            home = next((homes[key] for key in keys if key in homes), group)
            homes.update(dict.fromkeys(keys, home))
            if home is group:
                wave.groups.append(group)
            else:
                home.spots.append(spot)
                home.letters.append(letter)
                home.keys += keys
                home.units += group.units
                home.size += group.size

    def _present(self, found: Share) -> Share:
        gone = self.absent({record.owner for record in found.records}) if found.records else {}
        for record in found.records:
            if record.owner in gone:
                return Share([], "owner-" + gone[record.owner], "its customer is not in the target")
        return found

    def _keys(self, record: Record) -> list[str]:
        """By what this record must be the only one: nothing for events, of which any number may come."""
        if record.inner is not None:
            return [record.owner] if self.rules.once else []
        return [record.owner, *([twin_key(record.twin)] if record.twin else [])]

    def _join(self, homes: dict[str, Group], group: Group) -> Share | None:
        """Why a group can't be sent beside those that are there; None if it can, or can be part of one of them."""
        there = [key for key in group.keys if key in homes]
        if self.rules.once:
            others = {id(homes[key]): homes[key] for key in there}
            if len(others) <= 1 and self._fits([*others.values(), group]):
                return None
            return self._taken(there[0]) if there else None
        if len(set(group.keys)) < len(group.keys):
            there = there or group.keys
        return self._taken(there[0]) if there else None

    def _taken(self, key: str) -> Share:
        if self.rules.once:
            return Share([], "sent-already", "this customer's records were sent before, and can be sent only once")
        mail = key.startswith(twin_key(""))
        what, code = ("e-mail", "duplicate-email") if mail else ("id", "duplicate-customer")
        return Share([], code, f"another customer with the same {what} is sent already")

    def _remain(self, wave: Wave, letter: DeadLetter, found: Share) -> None:
        """The letter is not sent. Where that is nothing new, nothing is to be noted."""
        spot = spot_of(letter)
        repaired = spot in wave.repaired
        message = f"as repaired: {found.message}" if repaired and found.message else found.message
        if (
            found.filtered
            or (repaired and (found.code, message) != (letter.code, letter.message))
            or (not repaired and found.code != letter.code)
        ):
            wave.outcomes.append(Becomes(spot, found.code, message, repaired, found.filtered))

    # -- nobody twice ------------------------------------------------------------------------------------------------

    def _without_rivals(self, wave: Wave, homes: dict[str, Group]) -> None:
        """Take out the groups of whom another record was sent, or is yet to be: by the run, or by an earlier retry."""
        taken = self.file.sent_again(self.stage, homes) | self._in_export(set(homes))
        if not taken:
            return
        kept = []
        for group in wave.groups:
            clash = next((key for key in group.keys if key in taken), None)
            if clash is None:
                kept.append(group)
            else:
                for letter in group.letters:
                    self._remain(wave, letter, self._taken(clash))
        wave.groups = kept

    def _in_export(self, wanted: set[str]) -> set[str]:
        """Which of these stand in a record of the export that is no dead letter. Passes over all of it."""
        found: set[str] = set()
        if not wanted:
            return found
        try:
            for run in self.source.runs():
                if self.stopped():
                    break
                for examined in self.judge.examine(run):
                    for record in examined.records:
                        hits = wanted.intersection(self._keys(record))
                        if hits and not self.file.is_letter(self.stage, spot_of(record)):
                            found |= hits
        except BrokenExport:
            pass  # what lies behind the break is never sent
        return found

    # -- packing -----------------------------------------------------------------------------------------------------

    @property
    def _envelope(self) -> int:
        return len(self.rules.head) + len(self.rules.tail)

    def _fits(self, groups: Sequence[Group]) -> bool:
        units, size = sum(it.units for it in groups), sum(it.size for it in groups)
        return units <= self.limits.units and self._envelope + size <= self.limits.bytes

    def _within(self, record: Record) -> list[Record]:
        """The record in parts that each fit into a request; none if it can't be split so."""
        if record.units <= self.limits.units and self._envelope + len(record.body) <= self.limits.bytes:
            return [record]
        if record.inner is None or record.units == 1 or self.rules.once:
            return []
        parts = [self._within(part) for part in split_record(record, record.units // 2)]
        return parts[0] + parts[1] if all(parts) else []

    def _parcel(self, wave: Wave, groups: Sequence[Group]) -> Parcel:
        spots = [spot for group in groups for spot in group.spots]
        records = sorted(
            (record for spot in spots for record in _read(self.work, self.rules, self.stage, *spot)), key=spot_of
        )
        # A letter too large for one request travels in several, which are sealed together.
        loads = [records] if self._fits(groups) else [[part] for record in records for part in self._within(record)]
        drafts = [(assemble(it, self.rules.head, self.rules.tail, ranges_of(it)), self._unique(it)) for it in loads]
        return Parcel(drafts, [(spot, spot in wave.repaired) for spot in spots])

    def _unique(self, records: Iterable[Record]) -> list[Record]:
        return [record for record in records if self._keys(record)]


def _read(work: WorkFile, rules: Rules, stage: str, source: int, offset: int, unit: int) -> list[Record]:
    ((piece, units),) = work.slices(stage, source, offset, unit)
    return select(rules.examine([piece])[0], [units])


def spot_of(it: DeadLetter | Record) -> Spot:
    return it.position.source, it.position.offset, it.unit
