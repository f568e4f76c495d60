"""Makes batches of dead letters: each as it is in the export or corrected, and nobody a second time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec

from streammig.batching import BatchLimits, assemble, part_of, ranges_of
from streammig.checkpoint import FIRST, Checkpoint, Spot, write_body
from streammig.checkpoint.codec import unique_key
from streammig.columns import Chunk
from streammig.dead_letters.corrected import Corrected
from streammig.dead_letters.export import with_records
from streammig.dead_letters.share import Share, share
from streammig.dedup import KeyIndex
from streammig.errors import BrokenExport
from streammig.model import FILTERED, Batch, DeadLetter, Draft, Record, Span
from streammig.selection import BALANCE_DIFFERS, OF_FILTERED, Absent
from streammig.sources.source import Source
from streammig.sources.valid import judge
from streammig.target import Rules

WAVE_BYTES = 32_000_000  # of source records that are held at a time


Sealed = tuple[Draft, list[tuple[Spot, str]]]
"""A batch, with the keys of its records that no later replay may send, each with its place."""


class Choice(NamedTuple):
    """Which letters a replay takes; empty means all. With `corrected`, only those that are in that file."""

    stages: frozenset[str] = frozenset()
    codes: frozenset[str] = frozenset()
    corrected: Corrected | None = None

    @property
    def leaves_differing(self) -> bool:
        """Whether transactions that do not add up to the balance stay dead letters: as they are, the target drops them.
        They are taken where their code is chosen, or where they are corrected."""
        return self.corrected is None and BALANCE_DIFFERS not in self.codes


class Sent(NamedTuple):
    """A letter of which something is sent, how many units that takes, whether others of its source record were sent,
    and whether it was corrected."""

    letter: DeadLetter
    units: int
    part: bool
    corrected: bool


class Group(NamedTuple):
    """Letters with their records, which travel in one request."""

    letters: list[Sent]
    records: list[Record]


@dataclass(slots=True)
class Wave:
    """What becomes of some letters, in one commit: groups that are sent in `drafts`, and those that are still dead or
    filtered, with the reason as their code. `last` is how far the letters were gone through."""

    last: Spot
    groups: list[Group] = field(default_factory=list)
    homes: dict[str, Group] = field(default_factory=dict)  # by the keys that only one group may have
    dead: list[DeadLetter] = field(default_factory=list)
    filtered: list[DeadLetter] = field(default_factory=list)
    drafts: list[Sealed] = field(default_factory=list)
    progress: None = None  # the export is not read on

    def commit(self, file: Checkpoint, stage: str, at: float, mapping: str) -> list[Batch]:
        """As `Step`; the mapping of a letter is not kept, for it may have been corrected."""
        file.refuse(stage, self.dead, self.filtered)
        letters = [(spot_of(it.letter), it.units, it.part) for each in self.groups for it in each.letters]
        return file.seal_replayed(stage, self.drafts, letters, at)

    def refuse(self, letter: DeadLetter, why: Share, corrected: bool) -> None:
        """The letter is not sent. Where that is nothing new, nothing is to be noted."""
        message = f"as corrected: {why.message}" if corrected else why.message
        if why.filtered or corrected or why.code != letter.code:
            where = self.filtered if why.filtered else self.dead
            where.append(msgspec.structs.replace(letter, code=why.code, message=message))


@dataclass(frozen=True, slots=True)
class Replay:
    """The dead letters of one stage, to be sent again. Synchronous, for the thread that reads.

    `index` knows the places of the run's keys; without one the export is passed over for them once a wave. Nothing is
    changed in the checkpoint here: a letter is dead until the transaction that seals its wave.
    """

    stage: str
    source: Source
    rules: Rules
    absent: Absent | None
    index: KeyIndex | None
    file: Checkpoint
    limits: BatchLimits
    choice: Choice
    stopped: Callable[[], bool]

    def waves(self, outbox: Path) -> Iterator[Wave]:
        """All that is chosen, their bodies in the outbox. A wave is committed before the next one is asked for: what it
        sends is told by the checkpoint then."""
        after = FIRST
        while (wave := self._wave(after)) is not None and not self.stopped():
            after = wave.last
            for draft, records in packed((it.records for it in wave.groups), self.rules, self.limits, outbox):
                wave.drafts.append((draft, [(it.begin[:3], key) for it in records for key in self._keys(it)]))
            yield wave

    def any(self) -> bool:
        """Whether a letter is chosen."""
        return next(self._chosen(FIRST), None) is not None

    def _wave(self, after: Spot) -> Wave | None:
        """The next letters behind a spot, or None if there are no more."""
        wave, size = Wave(after), 0
        for letter, span in with_records(self.source, self._chosen(after)):
            self._add(wave, letter, span)
            wave.last, size = spot_of(letter), size + span.ends[0] - span.starts[0]
            if size >= WAVE_BYTES or self.stopped():
                break
        self._without_rivals(wave)
        return wave if wave.last != after else None

    # -- choosing and judging ----------------------------------------------------------------------------------------

    def _chosen(self, after: Spot) -> Iterator[DeadLetter]:
        stages, codes, corrected = self.choice
        followers = self.file.any_seen_again()
        for _, it in self.file.dead_letters(self.stage, after):
            chosen = (not stages or self.stage in stages) and (not codes or it.code in codes)
            chosen = chosen and (corrected is None or corrected.has(self.stage, spot_of(it)))
            chosen = chosen and not (it.code == BALANCE_DIFFERS and self.choice.leaves_differing)
            if chosen or (followers and it.code.startswith("owner-")):  # its customer may be there by now
                yield it

    def _add(self, wave: Wave, letter: DeadLetter, span: Span) -> None:
        """Put a letter into a group, or among what is not sent."""
        again = self._corrected(letter, span)
        before, now = (Chunk(it, self.rules.columns(it)).examined(0) for it in (span, again))
        splits = not self.rules.once and any(record.inner for record in now.records)
        part = self.file.part(self.stage, spot_of(letter), splits)
        found = self._present(share(letter, part, before, now))
        if found.records:
            units = max(record.unit + record.units for record in found.records) - letter.unit
            found = self._join(wave, Sent(letter, units, found.part, again is not span), found.records)
        if found.code:
            wave.refuse(letter, found, again is not span)

    def _corrected(self, letter: DeadLetter, span: Span) -> Span:
        corrected, at = self.choice.corrected, span.position(0)
        data = corrected.record(self.stage, spot_of(letter)) if corrected else None
        if data is None or [data] == span.cut(0, 1):
            return span
        code, fault = judge(data)
        faults = {0: (len(data), code, fault)} if code else {}
        origins = [(at.offset, at.length)]
        return Span(at.source, at.offset, data, [0], [len(data)], [at.ordinal], faults=faults, origins=origins)

    def _present(self, found: Share) -> Share:
        gone = self.absent({record.owner for record in found.records}) if self.absent and found.records else {}
        owner = next((record.owner for record in found.records if record.owner in gone), None)
        if owner is None:
            return found
        if gone[owner] == FILTERED:
            return Share([], OF_FILTERED, filtered=True)
        return Share([], "owner-" + gone[owner], "its customer is not in the target")

    def _fits(self, records: Sequence[Record]) -> bool:
        return fits(records, self.rules, self.limits)

    def _within(self, record: Record) -> list[Record]:
        """The record in parts that each fit into a request, as far as it can be split."""
        if record.inner is None or record.units == 1 or self._fits([record]):
            return [record]
        middle = record.units // 2
        return self._within(part_of(record, 0, middle)) + self._within(part_of(record, middle, record.units))

    # -- nobody twice ------------------------------------------------------------------------------------------------

    def _keys(self, record: Record) -> list[str]:
        """By what this record must be the only one: nothing for events, of which any number may come."""
        if record.inner is not None:
            return [record.owner] if self.rules.once else []
        return [record.owner, *([unique_key(record.unique)] if record.unique else [])]

    def _join(self, wave: Wave, sent: Sent, records: list[Record]) -> Share:
        """Put a letter's records into groups; else why it can't be sent. All of one owner that is sent once only is in
        one group."""
        keys = [key for record in records for key in self._keys(record)]
        homes = [wave.homes[key] for key in keys if key in wave.homes]
        parts = [records]
        if self.rules.once:
            if homes and not (all(it is homes[0] for it in homes) and self._fits(homes[0].records + records)):
                return self._taken(next(key for key in keys if key in wave.homes))
        elif homes or len(set(keys)) < len(keys):
            return self._taken(next((key for key in keys if key in wave.homes), keys[0]))
        elif not self._fits(records):
            parts = [[part] for record in records for part in self._within(record)]
        if not all(map(self._fits, parts)):
            return Share([], "too-large", "it is more than one request may hold, and can't be split")
        if homes:
            homes[0].letters.append(sent)
            homes[0].records.extend(records)
        else:
            wave.groups += [Group([] if at else [sent], part) for at, part in enumerate(parts)]
            homes = wave.groups[-1:]
        wave.homes.update(dict.fromkeys(keys, homes[0]))
        return Share([])

    def _taken(self, key: str) -> Share:
        if self.rules.once:
            return Share([], "sent-already", "this customer's records were sent before, and can be sent only once")
        if key.startswith(unique_key("")):
            return Share([], "duplicate-email", "another customer with the same e-mail is sent already")
        return Share([], "duplicate-customer", "another customer with the same id is sent already")

    def _without_rivals(self, wave: Wave) -> None:
        """Take out groups whose owner has another record that the run or an earlier replay sends."""
        taken = self.file.replayed_keys(self.stage, wave.homes)
        if wanted := wave.homes.keys() - taken:
            taken |= self._in_export(wanted) if self.index is None else self._in_index(self.index, wanted)
        clashes = {id(wave.homes[key]): self._taken(key) for key in taken}
        for group in wave.groups:
            for letter, _, _, corrected in group.letters if id(group) in clashes else ():
                wave.refuse(letter, clashes[id(group)], corrected)
        wave.groups = [group for group in wave.groups if id(group) not in clashes]

    def _in_index(self, index: KeyIndex, wanted: set[str]) -> set[str]:
        """Which of these keys the run's customers have, but for those that are or were dead letters."""
        mark = unique_key("")
        places = ((key, index.places("", key[1:]) if key.startswith(mark) else index.places(key)) for key in wanted)
        return {key for key, found in places if not all(self.file.was_dead(self.stage, it[:3]) for it in found)}

    def _in_export(self, wanted: set[str]) -> set[str]:
        """As `_in_index`, by a pass over the export."""
        found: set[str] = set()
        with suppress(BrokenExport):  # what lies behind the break is never sent
            for span in self.source.spans():
                if self.stopped():
                    break
                columns = self.rules.columns(span)
                for keys in (columns.owners, [unique_key(it) for it in columns.uniques]):
                    rows = [] if wanted.isdisjoint(keys) else [row for row, key in enumerate(keys) if key in wanted]
                    for row in rows:
                        source, offset, *_ = span.position(columns.index[row]).begin
                        if not self.file.was_dead(self.stage, (source, offset, columns.unit[row])):
                            found.add(keys[row])
        return found


def packed(
    groups: Iterable[Sequence[Record]], rules: Rules, limits: BatchLimits, outbox: Path
) -> list[tuple[Draft, list[Record]]]:
    """Batches of these records with what each holds, all of a group in one of them, their bodies in the outbox."""
    loads: list[list[Record]] = []
    for group in groups:
        if loads and fits([*loads[-1], *group], rules, limits):
            loads[-1] += group
        else:
            loads.append([*group])
    found = []
    for records in loads:
        records.sort(key=lambda it: it.begin)
        draft = assemble(records, rules.head, rules.tail, ranges_of(records))
        found.append((write_body(outbox, draft), records))
    return found


def fits(records: Sequence[Record], rules: Rules, limits: BatchLimits) -> bool:
    """Whether a request has room for all of these."""
    size = len(rules.head) + len(rules.tail) + sum(len(it.body) + 1 for it in records) - 1
    return size <= limits.bytes and sum(it.units for it in records) <= limits.units


def spot_of(letter: DeadLetter) -> Spot:
    return letter.position.source, letter.position.offset, letter.unit
