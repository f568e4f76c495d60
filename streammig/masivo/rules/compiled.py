"""Find the clean records of a block in one pass of C, by the same models as the rules in Python.

The judge's table is made from the models. It says "clean" or "not sure" of each record. Records that are not sure go
through the rules in Python, which decide. So without a compiler only the time differs.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import chain
from threading import Lock
from typing import Any, NamedTuple

import msgspec

from streammig.columns import Columns, Judged
from streammig.errors import Unusable
from streammig.masivo.edit import Member, Part
from streammig.masivo.rules.filters import Filters
from streammig.masivo.rules.options import MAX_DIGITS, RuleOptions
from streammig.masivo.rules.reasons import Refusal
from streammig.masivo.rules.shape import Field, Shape
from streammig.masivo.rules.values import text_in
from streammig.model import ZERO

try:
    from streammig.masivo.rules import _judge
except ImportError:  # it was not compiled
    _judge = None  # type: ignore[assignment]

VARIABLE = "STREAMMIG_JUDGE"  # overrules the settings
WANTED = ("auto", "compiled", "python")

# In the order of the enumerations in `_judge.c`.
KINDS = ("text", "id", "email", "uuid", "date", "number", "boolean", "enum", "free", "object", "list")
NEVER = len(KINDS)  # the kind of a field that makes a record not sure
NULLABLE, OPTIONAL, OWNER, UNIQUE, UNITS, KEY, AMOUNT, NOT_NEGATIVE, LATER, IS_TRUE, COUNTS_IF = (
    1 << at for at in range(11)
)
DROPS, MARK = 1, 2

MOST_RECORDS = 1000  # of a block
MOST_EXTRAS, MOST_VALUES = 64, 32  # unknown fields in the table, and values of each that mark nothing
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Path = tuple[str, ...]


class Roles(NamedTuple):
    """The roles of fields in a stage: flags by path.

    `adds` is the path of the objects that add an amount each. `key` is the key of all amounts, unless a field has it.
    An amount counts if the text of the field COUNTS_IF is one of `words`.
    """

    flags: Mapping[Path, int]
    adds: Path
    key: str | None = None
    words: tuple[str, ...] = ()


class Look(NamedTuple):
    """The findings of C in one record, by offset.

    They are: fields of the objects that are not clean, the outermost at 0; elements of the lists that are not clean,
    or whose objects add amounts; key and amount of the clean ones among these objects.
    """

    objects: dict[int, dict[str, Member]]
    lists: dict[int, list[Part]]
    pairs: dict[int, tuple[str, Decimal]]


class _Extra(msgspec.Struct):
    """An unknown field of the outermost object that is cut: its paths among the dropped ones, and, where it may mark a
    deleted customer, the JSON of the values that mark none."""

    told: tuple[str, ...]
    mark: bool
    values: list[bytes] = []


class Judge:
    """The compiled judge of one stage, for its `rules`. Threads may share it: it only learns unknown fields.

    `dropped_paths` returns the paths of unknown fields that count as dropped. It raises `Refusal` if one must not be
    cut.
    """

    def __init__(
        self,
        name: str,
        shape: Shape,
        options: RuleOptions,
        roles: Roles,
        *,
        rules: object,
        filters: Filters,
        room: int,
        most_units: int,
        dropped_paths: Callable[[Collection[str]], tuple[str, ...]],
    ) -> None:
        self._by, self._rules = (name, options), rules
        self._filters, self._dropped_paths = filters, dropped_paths
        self._shapes = tuple(_shapes_of(shape, roles))
        past = (options.now - _EPOCH) // timedelta(microseconds=1)
        digits = options.fraction_digits
        words = tuple(word.encode() for word in roles.words)
        grouped = any(flags & UNITS for flags in roles.flags.values())
        self._spec = (Member, Part, Decimal.from_float, Decimal, ZERO, roles.key, words, digits, MAX_DIGITS - digits,
                      past, room, most_units, grouped)  # fmt: skip
        self._extras: dict[bytes, _Extra] = {}
        self._sent: set[bytes] = set()  # unknown fields that are not cut
        self._learning = Lock()
        self._make_table()

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, str]]:
        return getattr, (self._rules, "judge")  # another process makes it again, with its rules

    def judged(self, found: object) -> Judged | None:
        """Return the findings in a span if the judge of the same rules made them."""
        return found if isinstance(found, Judged) and found.by == self._by else None

    def elements(self, data: bytes | memoryview, low: int, high: int, limit: int) -> Judged:
        """Judge the elements of an array from the offset `low` on. Places in the result count from `low`.

        It stops at an element whose end is not sure, or not before `high`, or that has more than `limit` bytes.
        """
        return self._columns(_judge.elements(self._table, data, low, high, MOST_RECORDS, limit))

    def lines(self, data: bytes, starts: Sequence[int], ends: Sequence[int], limit: int) -> Judged | None:
        """Judge lines; None if any is not surely one JSON value."""
        found = self._columns(_judge.framed(self._table, data, _places(starts, ends), limit, True))
        return found if len(found.starts) == len(starts) else None

    def framed(self, data: bytes, starts: Sequence[int], ends: Sequence[int], without: Collection[int]) -> Judged:
        """Judge records whose places are known. Those at the indices `without` are faults."""
        if without:
            ends = [starts[at] if at in without else end for at, end in enumerate(ends)]
        return self._columns(_judge.framed(self._table, data, _places(starts, ends), len(data), False))

    def look(self, data: bytes | memoryview) -> Look | None:
        """Find the clean parts of a record; None if it is not surely an object without repeated fields."""
        found = _judge.look(self._table, data)
        return Look(*found) if found is not None else None

    def _columns(self, told: tuple[Any, ...]) -> Judged:
        """What C tells of a block: where its records are, and which it is not sure of; the columns of the clean ones;
        `dropped`: by row, which of the unknown fields were cut; `news`: unknown fields, and marks with values, that no
        table had."""
        starts, ends, unsure, *rows, edited, dropped, news = told
        columns = Columns()
        columns.index, columns.owners, columns.uniques, columns.units, columns.inner, *amounts = rows
        columns.keys, columns.amounts, columns.upto = amounts
        columns.unit, columns.edited = [0] * len(columns.index), edited
        if dropped:
            paths = [extra.told for extra in list(self._extras.values())]  # another thread may learn more meanwhile
            columns.dropped = [(at, tuple(chain.from_iterable(map(paths.__getitem__, which)))) for at, which in dropped]
        if news:
            with self._learning:
                self._learn(news)
        return Judged(self._by, starts, ends, columns, unsure)

    def _learn(self, news: Sequence[tuple[bytes, bytes]]) -> None:
        """Add unknown fields, and values that mark nothing, to a new table."""
        new = False
        for name, value in news:
            field = name.decode()
            extra = self._extras.get(name)
            if extra is None and name not in self._sent and len(self._extras) + len(self._sent) < MOST_EXTRAS:
                try:
                    extra = _Extra(self._dropped_paths((field,)), mark=field in self._filters.customer_fields)
                    self._extras[name] = extra
                    new = True
                except Refusal:
                    self._sent.add(name)
            if extra is None or not extra.mark or value in extra.values or len(extra.values) >= MOST_VALUES:
                continue
            if value and not self._filters.customer({field: text_in(value)}):
                extra.values.append(value)
                new = True
        if new:
            self._make_table()

    def _make_table(self) -> None:
        extras = tuple(
            (name, bool(it.told) * DROPS | it.mark * MARK, tuple(it.values)) for name, it in self._extras.items()
        )
        self._table = _judge.table((self._shapes, extras, *self._spec))


def is_compiled() -> bool:
    """Whether this installation has the compiled judge."""
    return _judge is not None


def wanted(how: str) -> bool:
    """Whether to use the compiled judge. `STREAMMIG_JUDGE` overrules the settings.

    Raises `Unusable` if it is demanded and not there.
    """
    how = os.environ.get(VARIABLE) or how
    if how not in WANTED:
        raise Unusable("settings-invalid", f"{VARIABLE} is none of auto, compiled, python", "Set it to one of them.")
    if how == "compiled" and not is_compiled():
        raise Unusable(
            "judge-not-compiled",
            "judge is compiled, and this installation has no compiled judge",
            "Set it to auto; or install a C compiler and Python's headers, and then streammig again.",
        )
    return how != "python" and is_compiled()


def at_work(how: str) -> str:
    """Name the judge in use, for people. Raises as `wanted`."""
    return "the compiled judge" if wanted(how) else "the rules in Python"


def _places(starts: Sequence[int], ends: Sequence[int]) -> array[int]:
    return array("q", chain.from_iterable(zip(starts, ends, strict=True)))


def _shapes_of(shape: Shape, roles: Roles) -> Iterator[tuple[bool, tuple[Any, ...]]]:
    """Flatten a shape for C: itself first, then each shape inside, once for each place where it occurs."""
    todo: list[tuple[Path, Shape]] = [((), shape)]
    at = 0
    while at < len(todo):
        path, each = todo[at]
        at += 1
        fields = []
        for field in each.fields.values():
            child = len(todo)
            if field.shape is not None:
                todo.append(((*path, field.name), field.shape))
            fields.append(_field(field, roles.flags.get((*path, field.name), 0), child))
        yield path == roles.adds, tuple(fields)


def _field(field: Field, flags: int, child: int) -> tuple[Any, ...]:
    if field.nullable:
        flags |= NULLABLE
    elif not field.required and not field.policy:
        flags |= OPTIONAL
    kind = NEVER if field.policy else KINDS.index(field.kind)
    words = tuple(word.encode() for word in field.words)
    return field.name.encode() + b'"', kind, flags, field.longest or 0, child, field.required, words
