"""Makes batches of dead letters: each as it is in the export or corrected, and nobody a second time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from streammig.checkpoint import Checkpoint, Spot
from streammig.checkpoint.codec import twin_key
from streammig.dead_letters.corrected import Corrected
from streammig.dead_letters.export import with_records
from streammig.dead_letters.share import Share, share
from streammig.dedup import KeyIndex
from streammig.errors import BrokenExport
from streammig.feed import Absent
from streammig.packing import BatchLimits, assemble, ranges_of, split_record
from streammig.ports import Rules, Source
from streammig.records import DeadLetter, Draft, Record, Slice
from streammig.sources.valid import judge

# What is held at a time. Without an index of keys, the export is passed over once for each wave.
WAVE, WAVE_BYTES = 50_000, 32_000_000


class Choice(NamedTuple):
    """Which letters a replay takes; empty means all. With `corrected`, only those that are in that file."""

    stages: frozenset[str] = frozenset()
    codes: frozenset[str] = frozenset()
    corrected: Corrected | None = None


class Taken(NamedTuple):
    """A letter of which something is sent, with how many units that takes, and whether it was corrected."""

    letter: DeadLetter
    units: int
    corrected: bool


@dataclass(slots=True)
class Group:
    """Letters with their records, which travel in one request where their owner is sent once only."""

    letters: list[Taken] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    units: int = 0
    size: int = 0

    def take(self, other: Group) -> None:
        self.letters += other.letters
        self.records += other.records
        self.units += other.units
        self.size += other.size


@dataclass(slots=True)
class Wave:
    """What becomes of some letters: groups to send, and those that are still dead or filtered, with the reason as
    their code. `last` is how far the letters were gone through."""

    last: Spot
    size: int = 0
    groups: list[Group] = field(default_factory=list)
    homes: dict[str, Group] = field(default_factory=dict)  # by the keys that only one group may have
    dead: list[DeadLetter] = field(default_factory=list)
    filtered: list[DeadLetter] = field(default_factory=list)


class Parcel(NamedTuple):
    """What one transaction seals, as `Checkpoint.seal_replayed` takes it."""

    drafts: list[Draft]
    letters: list[tuple[Spot, int]]
    keys: list[tuple[Spot, str]]


@dataclass(frozen=True, slots=True)
class Replay:
    """The dead letters of one stage, to be sent again. Synchronous, for the thread that reads.

    `index` knows the places of the run's keys; without one the export is asked. Nothing is changed in the checkpoint
    here: a letter is dead until the transaction that seals it.
    """

    stage: str
    source: Source
    rules: Rules
    absent: Absent
    index: KeyIndex | None
    file: Checkpoint
    limits: BatchLimits
    choice: Choice
    stopped: Callable[[], bool]

    def wave(self, after: Spot) -> Wave | None:
        """The next letters behind a spot, or None if there are no more."""
        wave = Wave(after)
        for letter, piece in with_records(self.source, self._chosen(after)):
            self._add(wave, letter, piece)
            wave.last = spot_of(letter)
            wave.size += len(piece.data)
            if len(wave.groups) >= WAVE or wave.size >= WAVE_BYTES or self.stopped():
                break
        self._without_rivals(wave)
        return wave if wave.last != after else None

    def parcels(self, wave: Wave) -> Iterator[Parcel]:
        """The wave's groups as drafts within the limits."""
        load = Group()
        for group in wave.groups:
            if load.letters and not self._fits(load.units + group.units, load.size + group.size):
                yield self._parcel(load)
                load = Group()
            load.take(group)
        if load.letters:
            yield self._parcel(load)

    # -- choosing and judging ----------------------------------------------------------------------------------------

    def _chosen(self, after: Spot) -> Iterator[DeadLetter]:
        stages, codes, corrected = self.choice
        followers = self.file.any_seen_again()
        for _, it in self.file.dead_letters(self.stage, after):
            chosen = (not stages or self.stage in stages) and (not codes or it.code in codes)
            chosen = chosen and (corrected is None or corrected.has(self.stage, spot_of(it)))
            if chosen or (followers and it.code.startswith("owner-")):  # its customer may be there by now
                yield it

    def _add(self, wave: Wave, letter: DeadLetter, piece: Slice) -> None:
        """Put a letter into a group, or among what is not sent."""
        again = self._corrected(letter, piece)
        before, now = (self.rules.examine([it])[0] for it in (piece, again))
        found = self._present(share(letter, self.file.is_part(self.stage, spot_of(letter)), before, now))
        if found.records:
            sizes = [len(record.body) + 1 for record in found.records]
            units = max(record.unit + record.units for record in found.records) - letter.unit
            taken = Taken(letter, units, again is not piece)
            group = Group([taken], found.records, sum(record.units for record in found.records), sum(sizes))
            found = self._join(wave, group)
        if found.code:
            self._refuse(wave, letter, found, again is not piece)

    def _refuse(self, wave: Wave, letter: DeadLetter, found: Share, corrected: bool) -> None:
        """The letter is not sent. Where that is nothing new, nothing is to be noted."""
        message = f"as corrected: {found.message}" if corrected else found.message
        if found.filtered or corrected or found.code != letter.code:
            where = wave.filtered if found.filtered else wave.dead
            where.append(msgspec.structs.replace(letter, code=found.code, message=message))

    def _corrected(self, letter: DeadLetter, piece: Slice) -> Slice:
        corrected = self.choice.corrected
        data = corrected.record(self.stage, spot_of(letter)) if corrected else None
        if data is None or data == piece.data:
            return piece
        code, fault = judge(data)
        return msgspec.structs.replace(piece, data=data, code=code, fault=fault)

    def _present(self, found: Share) -> Share:
        gone = self.absent({record.owner for record in found.records}) if found.records else {}
        owner = next((record.owner for record in found.records if record.owner in gone), None)
        return found if owner is None else Share([], "owner-" + gone[owner], "its customer is not in the target")

    # -- nobody twice ------------------------------------------------------------------------------------------------

    def _keys(self, record: Record) -> list[str]:
        """By what this record must be the only one: nothing for events, of which any number may come."""
        if record.inner is not None:
            return [record.owner] if self.rules.once else []
        return [record.owner, *([twin_key(record.twin)] if record.twin else [])]

    def _join(self, wave: Wave, group: Group) -> Share:
        """Put a group beside those that are there, or into one of them; else why it can't be sent."""
        keys = [key for record in group.records for key in self._keys(record)]
        homes = {id(wave.homes[key]): wave.homes[key] for key in keys if key in wave.homes}
        home = next(iter(homes.values()), None)
        clash = next((key for key in keys if key in wave.homes), None)
        if self.rules.once:
            if len(homes) == 1 and home and self._fits(home.units + group.units, home.size + group.size):
                clash = None
        elif len(set(keys)) < len(keys):
            clash = clash or keys[0]
        if clash is not None:
            return self._taken(clash)
        if not all(self._within(record) for record in group.records):
            return Share([], "too-large", "it is more than one request may hold, and can't be split")
        if home is None:
            wave.groups.append(group)
        else:
            home.take(group)
        wave.homes.update(dict.fromkeys(keys, home or group))
        return Share([])

    def _taken(self, key: str) -> Share:
        if self.rules.once:
            return Share([], "sent-already", "this customer's records were sent before, and can be sent only once")
        what = "e-mail" if key.startswith(twin_key("")) else "id"
        code = "duplicate-email" if what == "e-mail" else "duplicate-customer"
        return Share([], code, f"another customer with the same {what} is sent already")

    def _without_rivals(self, wave: Wave) -> None:
        """Take out the groups of whom another record was sent, or is yet to be: by the run, or by an earlier replay."""
        taken = self.file.replayed_keys(self.stage, wave.homes)
        taken |= self._in_run(wave.homes.keys() - taken)
        clashes = {id(wave.homes[key]): key for key in taken}
        for group in wave.groups:
            for letter, _, corrected in group.letters if id(group) in clashes else ():
                self._refuse(wave, letter, self._taken(clashes[id(group)]), corrected)
        wave.groups = [group for group in wave.groups if id(group) not in clashes]

    def _in_run(self, wanted: set[str]) -> set[str]:
        """Which of these keys the run's records have, but for those that are or were dead letters."""
        index = self.index
        if index is None:
            return self._in_export(wanted) if wanted else set()
        mark = twin_key("")
        places = {
            key: index.places("", key.removeprefix(mark)) if key.startswith(mark) else index.places(key)
            for key in wanted
        }
        return {key for key, at in places.items() if any(not self.file.was_dead(self.stage, it[:3]) for it in at)}

    def _in_export(self, wanted: set[str]) -> set[str]:
        found: set[str] = set()
        try:
            for span in self.source.spans():
                if self.stopped():
                    break
                columns = self.rules.columns(span)
                for keys in (columns.owners, [twin_key(it) for it in columns.uniques]):
                    for row in [] if wanted.isdisjoint(keys) else [i for i, key in enumerate(keys) if key in wanted]:
                        spot = span.source, span.position(columns.index[row]).offset, columns.unit[row]
                        if not self.file.was_dead(self.stage, spot):
                            found.add(keys[row])
        except BrokenExport:
            pass  # what lies behind the break is never sent
        return found

    # -- packing -----------------------------------------------------------------------------------------------------

    def _fits(self, units: int, size: int) -> bool:
        """Whether elements of so many bytes, each with a comma, go into one request."""
        envelope = len(self.rules.head) + len(self.rules.tail)
        return units <= self.limits.units and envelope + size - 1 <= self.limits.bytes

    def _within(self, record: Record) -> list[Record]:
        """The record in parts that each fit into a request; none if it can't be split so."""
        if self._fits(record.units, len(record.body) + 1):
            return [record]
        if record.inner is None or record.units == 1 or self.rules.once:
            return []
        parts = [self._within(part) for part in split_record(record, record.units // 2)]
        return parts[0] + parts[1] if all(parts) else []

    def _parcel(self, load: Group) -> Parcel:
        records = sorted(load.records, key=spot_of)
        # A letter too large for one request travels in several, which are sealed together.
        fits = self._fits(load.units, load.size)
        loads: Sequence[list[Record]] = [records] if fits else [[part] for it in records for part in self._within(it)]
        return Parcel(
            [assemble(it, self.rules.head, self.rules.tail, ranges_of(it)) for it in loads],
            [(spot_of(it.letter), it.units) for it in load.letters],
            [(spot_of(record), key) for record in records for key in self._keys(record)],
        )


def spot_of(it: DeadLetter | Record) -> Spot:
    return it.position.source, it.position.offset, it.unit
