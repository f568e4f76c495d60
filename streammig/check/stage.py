"""Reads a stage as a run would, and keeps its problems and the sizes of its requests."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import Event
from typing import Any

import msgspec

from streammig.batching import BatchLimits
from streammig.check.kinds import Kinds, named_field
from streammig.columns import Columns
from streammig.dedup import KeyIndex, absent, owners_twice, repeated
from streammig.inputs import StageInput
from streammig.model import START, ZERO, DeadLetter, Place, Progress, Span, Tally, add_up
from streammig.reader import Reader
from streammig.scan import Halted
from streammig.selection import WithBalance, WithoutRepeated, WithOwners
from streammig.sources.source import Source, Told
from streammig.target import Mentions, Rules


class Line(msgspec.Struct):
    """A problem of a record, as a line of the file that lists all problems. `id` is the customer's, as the record has
    it. `unit` tells apart the parts that a mapping made of one record."""

    stage: str
    file: str
    line: int
    offset: int
    unit: int
    code: str
    field: str
    message: str
    id: str


MOST_MENTIONED = 5_000  # of a kind: more than any account holds


@dataclass(slots=True)
class Checked:
    """A stage that was read: its source records, what would be sent in how many requests and bytes, what is left out,
    and its problems."""

    name: str
    files: Sequence[str]
    source_records: int = 0
    sent: Tally = field(default_factory=Tally)
    refused: Tally = field(default_factory=Tally)
    requests: int = 0
    bytes: int = 0
    filtered: Mapping[str, Tally] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    kinds: Kinds = field(default_factory=Kinds)
    dead: int = 0
    mentioned: dict[str, Counter[str]] = field(default_factory=dict)  # by kind of thing

    def document(self, full: int, ids: bool) -> dict[str, Any]:
        """As JSON; `full` is how many units a full request holds. The examples of problems have `ids` if asked for."""
        parts = {"sent": self.sent, "filtered": add_up(self.filtered.values()), "dead": self.refused}
        keys = sorted({key for it in parts.values() for key in it.sums})
        return {
            "source_records": self.source_records, "records": self.sent.records, "units": self.sent.units,
            "requests": self.requests, "bytes": self.bytes,
            "fill": round(self.sent.units / (self.requests * full), 4) if self.requests else None,
            "sums": {key: str(value) for key, value in sorted(self.sent.sums.items())},
            "in_units": {part: it.units for part, it in parts.items()},
            "amounts": {
                key: {part: f"{it.sums.get(key, ZERO):f}" for part, it in parts.items()} for key in keys
            },
            "dead": self.dead, "problems": self.kinds.document(self.files, ids),
            "filtered": {reason: it.records for reason, it in self.filtered.items()},
            "dropped": dict(self.dropped), "mentioned": {kind: len(it) for kind, it in sorted(self.mentioned.items())},
        }  # fmt: skip


def rules_of_run(name: str, it: StageInput, owners: str, indexes: Mapping[str, KeyIndex]) -> Rules:
    """The rules by which a run of this export would send a stage. `owners` is the stage of the customers."""
    rules, index = it.rules, indexes.get(name)
    if name == owners:
        return rules if index is None else WithoutRepeated(rules, partial(repeated, index))
    if owners in indexes:
        rules = WithOwners(rules, partial(absent, indexes[owners], _NoNotes()))
    if index is not None:
        rules = WithoutRepeated(rules, partial(owners_twice, index))
    return rules if index is None or owners not in indexes else WithBalance(rules, it.rules, indexes[owners])


def read_stage(
    name: str,
    source: Source,
    rules: Rules,
    own: Rules,
    limits: BatchLimits,
    tell: Callable[[Span], None],
    write: Callable[[Line], None],
    halt: Event,
) -> Checked:
    """Read a whole stage, in a thread of its own. Raises `Halted` once `halt` is set.

    `rules` are those of a run, `own` the stage's alone, without what the run knows. `write` gets every problem.
    """
    names = [mark["file"] for mark in source.fingerprints()]
    found = Checked(name, names)
    looking = _Looking(rules, own, found.mentioned)
    reader = Reader(_Watched(source, tell, halt), looking, limits, Progress())
    try:
        while (sealing := reader.next()) is not None:
            draft, progress = sealing.draft, sealing.progress
            if draft is not None:
                found.requests += 1
                found.bytes += len(draft.body)
                found.sent += draft.tally
            for letter in progress.dead:
                found.dead += 1
                found.refused += letter.tally
                owner = looking.owner_of(letter)
                found.kinds.add(letter, owner)
                write(_line(name, names, letter, owner))
            found.source_records, found.filtered = progress.source_records, progress.filtered
            found.dropped = progress.dropped
    finally:
        reader.close()
    return found


def _line(stage: str, names: Sequence[str], letter: DeadLetter, owner: str) -> Line:
    at = letter.position
    return Line(
        stage=stage, file=names[at.source], line=at.ordinal, offset=at.offset, unit=letter.unit, code=letter.code,
        field=named_field(letter.message), message=letter.message, id=owner,
    )  # fmt: skip


class _NoNotes:
    """The empty notes of a run that has not begun."""

    def seen_again(self, owners: Iterable[str]) -> set[str]:
        return set()

    def absent_reasons(self, owners: Iterable[str]) -> dict[str, str]:
        return {}


class _Watched:
    """A source that passes each span on to `tell`, and raises `Halted` once `halt` is set."""

    def __init__(self, source: Source, tell: Callable[[Span], None], halt: Event) -> None:
        self._source, self._tell, self._halt = source, tell, halt

    def spans(self, start: Place = START, told: Told | None = None) -> Iterator[Span]:
        for span in self._source.spans(start, told):
            if self._halt.is_set():
                raise Halted
            yield span
            self._tell(span)

    def fingerprints(self) -> Sequence[dict[str, Any]]:
        return self._source.fingerprints()

    def before(self, place: Place) -> str:
        return ""  # no checkpoint is bound to it

    def unchanged(self) -> None:
        self._source.unchanged()


class _WithId(msgspec.Struct):
    id: str | int = ""


_with_id = msgspec.json.Decoder(_WithId).decode


class _Looking:
    """Rules that also note two things: what the records to be sent mention, and the owners of dead letters."""

    def __init__(self, rules: Rules, own: Rules, mentioned: dict[str, Counter[str]]) -> None:
        self.head, self.tail, self.once = rules.head, rules.tail, rules.once
        self._rules, self._own, self._mentioned = rules, own, mentioned
        self._ids: deque[tuple[tuple[int, int], str]] = deque()  # by place, in reading order

    def columns(self, span: Span) -> Columns:
        columns = self._rules.columns(span)
        for left in columns.left_out:
            if left.dead:
                at = left.dead[0].position
                owner = left.absent[0][0] if left.absent else _id_of(span, left.at)
                self._ids.append(((at.source, at.offset), owner))
        if isinstance(self._own, Mentions):
            for row, index in enumerate(columns.index):
                self._note(columns.edited.get(row) or span.cut(index, index + 1)[0], self._own)
        return columns

    def _note(self, body: bytes, own: Mentions) -> None:
        for kind, which in {*own.mentions(body)}:
            found = self._mentioned.setdefault(kind, Counter())
            if which in found or len(found) < MOST_MENTIONED:
                found[which] += 1

    def owner_of(self, letter: DeadLetter) -> str:
        """The owner of this letter. Ask in reading order: earlier owners are forgotten."""
        place = letter.position.source, letter.position.offset
        while self._ids and self._ids[0][0] < place:
            self._ids.popleft()
        return self._ids[0][1] if self._ids and self._ids[0][0] == place else ""


def _id_of(span: Span, at: int) -> str:
    try:
        return str(_with_id(span.cut(at, at + 1)[0]).id)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""
