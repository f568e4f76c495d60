"""Cuts fields from many records without a walk over each: nulls, and what the target does not know."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from itertools import compress
from typing import Any, NamedTuple

import msgspec

from streammig.masivo.edit import NOT_JSON, Cutter, Duplicate, commas, fields_of, has_lone_null, without
from streammig.masivo.rules.filters import Filters
from streammig.masivo.rules.reasons import Refusal
from streammig.masivo.rules.shape import Shape, objects_in
from streammig.masivo.rules.values import has_lone, holds_free, signs, text_in

_MEMO = 4096  # kinds of records that are remembered


class Block:
    """Records that are judged together. `rows` are the indices of those that can be sent, `bodies` and `models` theirs.

    `odd` are indices into these of records that take a closer look. `owners` and `uniques` are as in `Columns`; their
    checks fill them. `cut` says that some bodies are not as they came. `dropped` and `reasons`, of those that are to be
    left out, are by index in all.
    """

    def __init__(self, data: Sequence[bytes], decode: Callable[[bytes], Any]) -> None:
        self.models: list[Any] = []
        self.rows: list[int] = []
        decoded, begin = map(decode, data), 0
        while begin < len(data):
            count = len(self.models)
            with suppress(*NOT_JSON):
                self.models.extend(decoded)  # up to one that can't be decoded, then on behind it
            good = len(self.models) - count
            self.rows += range(begin, begin + good)
            begin += good + 1
        self.bodies = list(data) if len(self.rows) == len(data) else [data[at] for at in self.rows]
        self.owners: list[str] = []
        self.uniques: list[str] = []
        self.dropped: dict[int, tuple[str, ...]] = {}
        self.reasons: dict[int, str] = {}
        self.odd: set[int] = set()
        self.cut = False

    def sift(self) -> None:
        """Go on without the odd ones."""
        if self.odd:
            keep = [at not in self.odd for at in range(len(self.rows))]
            self.rows = list(compress(self.rows, keep))
            self.bodies = list(compress(self.bodies, keep))
            self.models = list(compress(self.models, keep))
            self.owners = list(compress(self.owners, keep))
            self.uniques = list(compress(self.uniques, keep))
            self.odd = set()


class _Unknown(NamedTuple):
    """What is to be known of records with outermost fields of just these names: the unknown ones, which are cut, and
    whether one stands further in, too; the paths that are told; the names of those that may mark what is left out, and
    the reason that their values are, or ""."""

    names: tuple[str, ...]
    mixed: bool
    dropped: tuple[str, ...]
    marks: list[str]
    reasons: dict[tuple[bytes, ...], str]


class Cutting:
    """What is cut from the records of a stage.

    `told` gives the paths of unknown fields that are told of, and raises `Refusal` where one must not be cut. `is_bare`
    says whether it is plain to see that a record has no field to be cut in its outermost object, but maybe others.
    """

    def __init__(
        self,
        shape: Shape,
        filters: Filters,
        *,
        told: Callable[[Collection[str]], tuple[str, ...]],
        is_bare: Callable[[bytes], bool],
    ) -> None:
        self._shape = shape
        self._filters = filters
        self._told = told
        self._is_bare = is_bare
        self._unknown: dict[tuple[str, ...], _Unknown] = {}
        fields = [field for each in objects_in(shape) for field in each.fields.values()]
        needed = {field.name for field in fields if field.required or field.policy}
        inner = [field.name for each in list(objects_in(shape))[1:] for field in each.fields.values()]
        self._cutter = Cutter(shape.fields, inner, {field.name for field in fields} - needed)

    def cut(self, block: Block, again: Sequence[bytes], nulls: Mapping[int, int]) -> None:
        """Cut what the models of a block, encoded `again`, read over: optional fields that are null, and unknown ones
        of the outermost object. Whatever else was read over, a field that is repeated, leaves more commas than the
        model has. `nulls` are the optional numbers that are null, of the records that have some."""
        free = self._shape.frees and holds_free(block.models, self._shape)
        nulled: list[int] = []
        for at, (there, most) in enumerate(zip(map(commas, block.bodies), map(commas, again), strict=False)):
            more = there - most + nulls.get(at, 0)  # a number is its JSON, and null is one to the model
            if more and not self._cut(block, at, more, free, nulled):
                block.odd.add(at)
        if nulled:
            left = [block.bodies[at] for at in nulled]
            if has_lone(signs(b",".join(left))):
                block.odd.update([at for at, each in zip(nulled, left, strict=True) if has_lone_null(each)])

    def _cut(self, block: Block, at: int, more: int, free: bool, nulled: list[int]) -> bool:
        """Cut fields of one record that has so many commas more than its model; whether that is all there is to be
        done. `free`: in one of the block there are objects that may hold a field of any name. `nulled` is told of nulls
        that were cut."""
        body, row = block.bodies[at], block.rows[at]
        free = free and holds_free((block.models[at],), self._shape)
        left, count, doubtful = self._cutter.nulls(body)
        null = count
        if count == more:
            doubtful = doubtful and not self._is_bare(body)
        else:
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
            if unknown.marks and (reason := self._reason(unknown, values)):
                block.reasons[row] = reason
            elif unknown.dropped:
                block.dropped[row] = unknown.dropped
            if count != more:
                self._cutter.learn_nulls(left)
                left, some, twofold = self._cutter.nulls(left)
                count, null, doubtful = count + some, null + some, doubtful or twofold
        block.bodies[at] = left
        block.cut = True
        if count != more or (null and free):
            return False
        if null:
            nulled.append(at)
        return not doubtful or not self._cutter.mixes(self._cutter.unknown(fields_of(body)))

    def _known(self, names: tuple[str, ...]) -> _Unknown:
        """What is to be known of an object with these fields; raises `Refusal` where one must not be."""
        unknown = self._cutter.unknown(names)
        dropped = self._told(unknown)
        marks = [name for name in unknown if name in self._filters.customer_fields]
        if len(self._unknown) >= _MEMO:
            self._unknown.clear()
        found = _Unknown(unknown, self._cutter.mixes(unknown), dropped, marks, {})
        self._unknown[names] = found
        return found

    def _reason(self, unknown: _Unknown, values: Mapping[str, msgspec.Raw]) -> str:
        """Why a customer with these fields is left out, or ""."""
        marks = tuple([bytes(values[name]) for name in unknown.marks])
        reason = unknown.reasons.get(marks)
        if reason is None:
            reason = self._filters.customer(dict(zip(unknown.marks, map(text_in, marks), strict=True)))
            if len(unknown.reasons) < _MEMO:
                unknown.reasons[marks] = reason
        return reason
