"""Cut fields from many records without a walk over each, and prove that the models missed nothing else."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import compress, repeat
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET, Raw, UnsetType

from streammig.masivo.edit import (
    NOT_JSON,
    Cutter,
    Duplicate,
    commas,
    fields_of,
    has_lone_null,
    hides,
    kept,
    lines,
    without,
)
from streammig.masivo.rules.filters import Filters
from streammig.masivo.rules.reasons import Refusal
from streammig.masivo.rules.shape import Shape, objects_in
from streammig.masivo.rules.values import holds_free, signs, spelt_oddly, text_in

_MEMO = 4096  # kinds of records that are remembered
_RUN = 16  # records proven together; if one is odd, each of them is counted alone
_EXTRAS = 16  # unknown fields that are decoded
_ODD_IN_NAME = frozenset('",\\')
_BETWEEN = b"\0"  # separates the records of a run; if a record holds it, they are cut one by one


class Block:
    """Records that are judged together. `rows` are the indices of records that can be sent.

    `bodies`, `models`, `owners`, `uniques` and `nulls` run parallel to `rows`. `odd` are indices into `rows` of records
    that need a closer look. `owners` and `uniques` are as in `Columns`; the stage's checks fill them. `nulls` counts
    each record's optional numbers that are null; it may be empty. `cut`: some bodies differ from their source.

    `dropped` and `reasons` are by index of the record among all. `reasons` says why a record is filtered. `free`:
    whether a model has an object with fields of any name; None if not known yet.
    """

    def __init__(self, data: Sequence[bytes], decode: Callable[[bytes], Any]) -> None:
        self.models: list[Any] = []
        self.rows: list[int] = []
        decoded, begin = map(decode, data), 0
        while begin < len(data):
            count = len(self.models)
            with suppress(*NOT_JSON):
                self.models.extend(decoded)  # stops at a record that can't be decoded; the loop goes on after it
            good = len(self.models) - count
            self.rows += range(begin, begin + good)
            begin += good + 1
        self.bodies = list(data) if len(self.rows) == len(data) else [data[at] for at in self.rows]
        self.owners: list[str] = []
        self.uniques: list[str] = []
        self.dropped: dict[int, tuple[str, ...]] = {}
        self.reasons: dict[int, str] = {}
        self.odd: set[int] = set()
        self.nulls: list[int] = []
        self.free: bool | None = None
        self.cut = False

    def sift(self) -> None:
        """Drop the odd records."""
        if self.odd:
            keep = [at not in self.odd for at in range(len(self.rows))]
            self.rows = list(compress(self.rows, keep))
            self.bodies = list(compress(self.bodies, keep))
            self.models = list(compress(self.models, keep))
            self.owners = list(compress(self.owners, keep))
            self.uniques = list(compress(self.uniques, keep))
            self.nulls = list(compress(self.nulls, keep))
            self.odd = set()


class _Unknown(NamedTuple):
    """The unknown fields of all records whose outermost fields have the same names.

    `names` are the unknown fields, which are cut; `mixed`: one of these names also occurs in an inner object. `dropped`
    are the paths that count as dropped. `marks` are the names of fields that may mark deleted customers. `reasons` has
    for each combination of their values the reason why the customer is filtered, or "".
    """

    names: tuple[str, ...]
    mixed: bool
    dropped: tuple[str, ...]
    marks: list[str]
    reasons: dict[tuple[bytes, ...], str]


class _Extras:
    """Unknown outermost fields that earlier records had, and a decoder whose model includes them."""

    def __init__(self, model: type[msgspec.Struct], names: tuple[str, ...]) -> None:
        if names:
            fields = [(f"extra{at}", Raw | UnsetType, msgspec.field(default=UNSET, name=name))
                      for at, name in enumerate(names)]  # fmt: skip
            model = msgspec.defstruct(f"{model.__name__}AndMore", fields, bases=(model,), frozen=True, gc=False)
            self._get: Callable[[Any], Any] = attrgetter(*[name for name, *_ in fields])
        self.names = names
        self.decode = msgspec.json.Decoder(model).decode
        self._none = (UNSET,) * len(names)

    def of(self, models: Sequence[Any]) -> Iterator[dict[str, Raw]]:
        """Give for each model its extra fields, with their JSON."""
        if not self.names:
            return repeat({}, len(models))
        values = map(self._get, models) if len(self.names) > 1 else zip(map(self._get, models), strict=True)
        return map(self._there, values)

    def _there(self, values: tuple[Raw | UnsetType, ...]) -> dict[str, Raw]:
        if values == self._none:
            return {}
        return {name: value for name, value in zip(self.names, values, strict=True) if value is not UNSET}


class Cutting:
    """Cuts fields from the records of a stage, and learns which unknown fields they have.

    `dropped_paths` returns the paths of unknown fields that count as dropped. It raises `Refusal` if one must not be
    cut.
    """

    def __init__(
        self,
        model: type[msgspec.Struct],
        shape: Shape,
        filters: Filters,
        *,
        dropped_paths: Callable[[Collection[str]], tuple[str, ...]],
    ) -> None:
        self._model = model
        self._shape = shape
        self._filters = filters
        self._dropped_paths = dropped_paths
        self._extras = _Extras(model, ())
        self._learnt: dict[str, None] = {}
        self._unknown: dict[tuple[str, ...], _Unknown] = {}
        fields = [field for each in objects_in(shape) for field in each.fields.values()]
        needed = {field.name for field in fields if field.required or field.policy}
        inner = [field.name for each in list(objects_in(shape))[1:] for field in each.fields.values()]
        self._cutter = Cutter(shape.fields, inner, {field.name for field in fields} - needed)

    def block(self, data: Sequence[bytes]) -> Block:
        """Make a block of these records. Records that can't be decoded have no row."""
        if len(self._learnt) > len(self._extras.names):
            self._extras = _Extras(self._model, tuple(self._learnt))
        return Block(data, self._extras.decode)

    def cut(self, block: Block) -> None:
        """Cut the fields that decoding skipped: optional fields that are null, and unknown outermost fields.

        Any other skipped field, such as a repeated one, shows as a comma more than the model has. No record of the
        block may hold an odd value: a comma too few in one record would hide a comma too many in another.
        """
        for begin in range(0, len(block.rows), _RUN):
            end = min(begin + _RUN, len(block.rows))
            models, bodies = block.models[begin:end], block.bodies[begin:end]
            again = kept(models)
            gone = self._cut_extras(block, begin, models, bodies) if self._extras.names else 0
            joined = _BETWEEN.join(bodies)
            there = signs(joined)
            left: list[bytes] | None = None
            if gone is not None and not hides(joined):
                # A model keeps a number as its JSON, so a null number stays in it.
                more = commas(there) - commas(again) + gone + sum(block.nulls[begin:end])
                left = self._cut_nulls(block, joined, models, more) if more else bodies
            if left is None:
                self._cut_each(block, begin, models, lines(again, models))
            elif gone or more:
                block.bodies[begin:end] = left
                block.cut = True
            if spelt_oddly(joined, there):  # perhaps only in a part that was cut
                alone = enumerate(block.bodies[begin:end], begin)
                block.odd.update([at for at, body in alone if spelt_oddly(body, signs(body))])

    def _cut_extras(self, block: Block, begin: int, models: Sequence[Any], bodies: list[bytes]) -> int | None:
        """Cut the decoded unknown fields from the bodies of a run.

        Return how many commas went with them; None if the records must be cut one by one.
        """
        gone = 0
        for at, extras in enumerate(self._extras.of(models)):
            if extras:
                try:
                    names = tuple(extras if len(extras) == 1 else filter(extras.__contains__, fields_of(bodies[at])))
                    unknown = self._unknown.get(names) or self._known(names)
                except (Refusal, *NOT_JSON):
                    return None
                left, count = self._cutter.fields(bodies[at], extras, names)
                if unknown.mixed or count < len(names):  # the cutter did not find all of them
                    return None
                self._note(block, block.rows[begin + at], unknown, extras)
                bodies[at] = left
                gone += count
        return None if gone and self._free(block, models) else gone

    def _cut_nulls(self, block: Block, joined: bytes, models: Sequence[Any], more: int) -> list[bytes] | None:
        """Cut `more` nulls from the joined bodies of a run; return None if the records must be cut one by one."""
        left, count, twofold, lone = self._cutter.nulls(joined)
        if count != more or not twofold.issubset(self._extras.names) or self._free(block, models):
            return None
        bodies = left.split(_BETWEEN)
        return None if len(bodies) != len(models) or (lone and has_lone_null(left)) else bodies

    def _free(self, block: Block, models: Sequence[Any]) -> bool:
        """Whether one of these models of a block has an object with fields of any name."""
        if block.free is None:
            block.free = self._shape.frees and holds_free(block.models, self._shape)
        return block.free and holds_free(models, self._shape)

    def _cut_each(self, block: Block, begin: int, models: Sequence[Any], again: Sequence[bytes]) -> None:
        """Cut fields from the records of a run one by one."""
        for at, (extras, line) in enumerate(zip(self._extras.of(models), again, strict=True), begin):
            more = (
                commas(block.bodies[at]) - commas(line) + sum([1 + bytes(each).count(b",") for each in extras.values()])
            )
            if block.nulls:
                more += block.nulls[at]
            if more and not self._cut(block, at, more):
                block.odd.add(at)

    def _cut(self, block: Block, at: int, more: int) -> bool:
        """Cut fields from a record that has `more` commas than its model. Return False if it needs a closer look."""
        body, free = block.bodies[at], self._free(block, (block.models[at],))
        left, null, twofold, _ = self._cutter.nulls(body)
        count = null
        if count != more:
            try:
                values = fields_of(left)
                unknown = self._unknown.get(tuple(values)) or self._known(tuple(values))
                if free or unknown.mixed:
                    left, some = without(left, unknown.names)
                else:
                    left, some = self._cutter.fields(left, values, unknown.names)
            except (Refusal, Duplicate, *NOT_JSON):
                return False
            count += some
            self._note(block, block.rows[at], unknown, values)
            self._learn(unknown.names)
            if count != more:
                self._cutter.learn_nulls(left)
                left, some, more_twofold, _ = self._cutter.nulls(left)
                count, null, twofold = count + some, null + some, twofold | more_twofold
        block.bodies[at] = left
        block.cut = True
        if count != more or (null and (free or has_lone_null(left))):
            return False
        self._learn(twofold)
        return not twofold or not self._cutter.mixes(self._cutter.unknown(fields_of(body)))

    def _learn(self, names: Collection[str]) -> None:
        """Decode these fields from the next block on, except names with a comma or an escape."""
        for name in names:
            if len(self._learnt) < _EXTRAS and name.isprintable() and _ODD_IN_NAME.isdisjoint(name):
                self._learnt[name] = None

    def _note(self, block: Block, row: int, unknown: _Unknown, values: Mapping[str, Raw]) -> None:
        """Note which paths of a record count as dropped, or why it is filtered."""
        if unknown.marks and (reason := self._reason(unknown, values)):
            block.reasons[row] = reason
            block.dropped.pop(row, None)
        elif unknown.dropped:
            block.dropped[row] = unknown.dropped

    def _known(self, names: tuple[str, ...]) -> _Unknown:
        """Remember the unknown ones among these outermost fields. Raises `Refusal` if one must not be cut."""
        unknown = self._cutter.unknown(names)
        dropped = self._dropped_paths(unknown)
        marks = [name for name in unknown if name in self._filters.customer_fields]
        if len(self._unknown) >= _MEMO:
            self._unknown.clear()
        found = _Unknown(unknown, self._cutter.mixes(unknown), dropped, marks, {})
        self._unknown[names] = found
        return found

    def _reason(self, unknown: _Unknown, values: Mapping[str, Raw]) -> str:
        """Return why a customer with these values is filtered, or ""."""
        marks = tuple([bytes(values[name]) for name in unknown.marks])
        reason = unknown.reasons.get(marks)
        if reason is None:
            reason = self._filters.customer(dict(zip(unknown.marks, map(text_in, marks), strict=True)))
            if len(unknown.reasons) < _MEMO:
                unknown.reasons[marks] = reason
        return reason
