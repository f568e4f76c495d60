"""Make batches of dead letters, from the export or corrected, so that no customer is sent twice."""

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
from streammig.dead_letters.outcome import Outcome, outcome
from streammig.dedup import KeyIndex
from streammig.errors import BrokenExport
from streammig.model import FILTERED, Batch, DeadLetter, Draft, Record, Span
from streammig.selection import BALANCE_DIFFERS, OF_FILTERED, Absent
from streammig.sources.source import Source
from streammig.sources.valid import check_record
from streammig.target import Rules

WAVE_BYTES = 32_000_000  # source records held in memory at once


Sealed = tuple[Draft, list[tuple[Spot, str]]]
"""A batch, and (place, key) of its records; no later replay may send these keys."""


class Choice(NamedTuple):
    """Which letters to replay; empty means all. With `corrected`, only letters in that file."""

    stages: frozenset[str] = frozenset()
    codes: frozenset[str] = frozenset()
    corrected: Corrected | None = None

    @property
    def leaves_differing(self) -> bool:
        """Whether transactions that do not add up to the balance stay dead letters: as they are, the target drops them.
        They are taken where their code is chosen, or where they are corrected."""
        return self.corrected is None and BALANCE_DIFFERS not in self.codes


class Sent(NamedTuple):
    """A letter that is sent again."""

    letter: DeadLetter
    units: int
    part: bool  # whether other parts of its source record were sent
    corrected: bool


class Group(NamedTuple):
    """Letters with their records, which must be in one request."""

    letters: list[Sent]
    records: list[Record]


@dataclass(slots=True)
class Wave:
    """The letters of one commit: groups to send in `drafts`, and letters that are still dead, or filtered now.

    `last` is the place of the last letter examined.
    """

    last: Spot
    groups: list[Group] = field(default_factory=list)
    group_of: dict[str, Group] = field(default_factory=dict)  # by key; only one group may have a key
    dead: list[DeadLetter] = field(default_factory=list)
    filtered: list[DeadLetter] = field(default_factory=list)
    drafts: list[Sealed] = field(default_factory=list)
    progress: None = None  # a replay does not move the frontier

    def commit(self, file: Checkpoint, stage: str, at: float, mapping: str) -> list[Batch]:
        """As `Step.commit`. The mapping is not kept, for the letters may have been corrected."""
        file.refuse(stage, self.dead, self.filtered)
        letters = [(spot_of(it.letter), it.units, it.part) for each in self.groups for it in each.letters]
        return file.seal_replayed(stage, self.drafts, letters, at)

    def refuse(self, letter: DeadLetter, why: Outcome, corrected: bool) -> None:
        """Keep a letter back; note it only if its reason is new."""
        message = f"as corrected: {why.message}" if corrected else why.message
        if why.filtered or corrected or why.code != letter.code:
            where = self.filtered if why.filtered else self.dead
            where.append(msgspec.structs.replace(letter, code=why.code, message=message))


@dataclass(frozen=True, slots=True)
class Replay:
    """A replay of the dead letters of one stage. Synchronous, for the reader's thread.

    `index` has the places of the run's keys; without it, each wave reads the whole export for them. The checkpoint is
    not changed here: a letter is dead until the transaction that seals its wave.
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
        """Give the chosen letters in waves, with bodies in the outbox.

        Commit each wave before you ask for the next one, which reads from the checkpoint what was sent.
        """
        after = FIRST
        while (wave := self._wave(after)) is not None and not self.stopped():
            after = wave.last
            for draft, records in pack_batches((it.records for it in wave.groups), self.rules, self.limits, outbox):
                wave.drafts.append((draft, [(it.begin[:3], key) for it in records for key in self._keys(it)]))
            yield wave

    def any(self) -> bool:
        """Whether any letter is chosen."""
        return next(self._chosen(FIRST), None) is not None

    def _wave(self, after: Spot) -> Wave | None:
        """Collect the next letters after a spot; None if there are no more."""
        wave, size = Wave(after), 0
        for letter, span in with_records(self.source, self._chosen(after)):
            self._add(wave, letter, span)
            wave.last, size = spot_of(letter), size + span.ends[0] - span.starts[0]
            if size >= WAVE_BYTES or self.stopped():
                break
        self._drop_sent(wave)
        return wave if wave.last != after else None

    # -- choosing and judging ----------------------------------------------------------------------------------------

    def _chosen(self, after: Spot) -> Iterator[DeadLetter]:
        stages, codes, corrected = self.choice
        followers = self.file.any_seen_again()
        for _, it in self.file.dead_letters(self.stage, after):
            chosen = (not stages or self.stage in stages) and (not codes or it.code in codes)
            chosen = chosen and (corrected is None or corrected.has(self.stage, spot_of(it)))
            chosen = chosen and not (it.code == BALANCE_DIFFERS and self.choice.leaves_differing)
            if chosen or (followers and it.code.startswith("owner-")):  # a replay may have sent its customer
                yield it

    def _add(self, wave: Wave, letter: DeadLetter, span: Span) -> None:
        """Assign a letter to a group, or keep it back."""
        again = self._corrected(letter, span)
        before, now = (Chunk(it, self.rules.columns(it)).examined(0) for it in (span, again))
        splits = not self.rules.once and any(record.inner for record in now.records)
        part = self.file.part(self.stage, spot_of(letter), splits)
        found = self._without_absent(outcome(letter, part, before, now))
        if found.records:
            units = max(record.unit + record.units for record in found.records) - letter.unit
            found = self._assign(wave, Sent(letter, units, found.part, again is not span), found.records)
        if found.code:
            wave.refuse(letter, found, again is not span)

    def _corrected(self, letter: DeadLetter, span: Span) -> Span:
        corrected, at = self.choice.corrected, span.position(0)
        data = corrected.record(self.stage, spot_of(letter)) if corrected else None
        if data is None or [data] == span.cut(0, 1):
            return span
        code, fault = check_record(data)
        faults = {0: (len(data), code, fault)} if code else {}
        origins = [(at.offset, at.length)]
        return Span(at.source, at.offset, data, [0], [len(data)], [at.ordinal], faults=faults, origins=origins)

    def _without_absent(self, found: Outcome) -> Outcome:
        """Keep back records of a customer that will not be at the target."""
        absent = self.absent({record.owner for record in found.records}) if self.absent and found.records else {}
        owner = next((record.owner for record in found.records if record.owner in absent), None)
        if owner is None:
            return found
        if absent[owner] == FILTERED:
            return Outcome([], OF_FILTERED, filtered=True)
        return Outcome([], "owner-" + absent[owner], "its customer is not in the target")

    def _fits(self, records: Sequence[Record]) -> bool:
        return fits(records, self.rules, self.limits)

    def _split_to_fit(self, record: Record) -> list[Record]:
        """Split a record into parts that each fit into a request. A part that can't be split stays too large."""
        if record.inner is None or record.units == 1 or self._fits([record]):
            return [record]
        parts = (part_of(record, *edges) for edges in ((0, record.units // 2), (record.units // 2, record.units)))
        return [it for part in parts for it in self._split_to_fit(part)]

    # -- nobody twice ------------------------------------------------------------------------------------------------

    def _keys(self, record: Record) -> list[str]:
        """Return the keys that only one record may have: owner and e-mail; none for events."""
        if record.inner is not None:
            return [record.owner] if self.rules.once else []
        return [record.owner, *([unique_key(record.unique)] if record.unique else [])]

    def _assign(self, wave: Wave, sent: Sent, records: list[Record]) -> Outcome:
        """Put a letter's records into groups, or return why it can't be sent.

        In a stage that the target takes once, all records of an owner are in one group.
        """
        keys = [key for record in records for key in self._keys(record)]
        groups = [wave.group_of[key] for key in keys if key in wave.group_of]
        parts = [records]
        if self.rules.once:
            if groups and not (all(it is groups[0] for it in groups) and self._fits(groups[0].records + records)):
                return self._sent_before(next(key for key in keys if key in wave.group_of))
        elif groups or len(set(keys)) < len(keys):
            return self._sent_before(next((key for key in keys if key in wave.group_of), keys[0]))
        elif not self._fits(records):
            parts = [[part] for record in records for part in self._split_to_fit(record)]
        if not all(map(self._fits, parts)):
            return Outcome([], "too-large", "it is more than one request may hold, and can't be split")
        if groups:
            groups[0].letters.append(sent)
            groups[0].records.extend(records)
        else:
            wave.groups += [Group([] if at else [sent], part) for at, part in enumerate(parts)]
            groups = wave.groups[-1:]
        wave.group_of.update(dict.fromkeys(keys, groups[0]))
        return Outcome([])

    def _sent_before(self, key: str) -> Outcome:
        if self.rules.once:
            return Outcome([], "sent-already", "this customer's records were sent before, and can be sent only once")
        if key.startswith(unique_key("")):
            return Outcome([], "duplicate-email", "another customer with the same e-mail is sent already")
        return Outcome([], "duplicate-customer", "another customer with the same id is sent already")

    def _drop_sent(self, wave: Wave) -> None:
        """Drop groups with a key of another record that the run or an earlier replay sends."""
        taken = self.file.replayed_keys(self.stage, wave.group_of)
        if wanted := wave.group_of.keys() - taken:
            taken |= self._in_export(wanted) if self.index is None else self._in_index(self.index, wanted)
        clashes = {id(wave.group_of[key]): self._sent_before(key) for key in taken}
        for group in wave.groups:
            for letter, _, _, corrected in group.letters if id(group) in clashes else ():
                wave.refuse(letter, clashes[id(group)], corrected)
        wave.groups = [group for group in wave.groups if id(group) not in clashes]

    def _in_index(self, index: KeyIndex, wanted: set[str]) -> set[str]:
        """Return the keys that customers of the run have, other than dead letters of now or before."""
        mark = unique_key("")
        places = ((key, index.places("", key[1:]) if key.startswith(mark) else index.places(key)) for key in wanted)
        return {key for key, found in places if not all(self.file.was_dead(self.stage, it[:3]) for it in found)}

    def _in_export(self, wanted: set[str]) -> set[str]:
        """As `_in_index`, by reading the whole export."""
        found: set[str] = set()
        with suppress(BrokenExport):  # nothing after the break is ever sent
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


def pack_batches(
    groups: Iterable[Sequence[Record]], rules: Rules, limits: BatchLimits, outbox: Path
) -> list[tuple[Draft, list[Record]]]:
    """Pack groups of records into batches, write the bodies to the outbox, and return each batch with its records.

    A group is never split.
    """
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
    """Whether all of these fit into one request."""
    size = len(rules.head) + len(rules.tail) + sum(len(it.body) + 1 for it in records) - 1
    return size <= limits.bytes and sum(it.units for it in records) <= limits.units


def spot_of(letter: DeadLetter) -> Spot:
    return letter.position.source, letter.position.offset, letter.unit
