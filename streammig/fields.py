"""Declared mappings: which source field each field of the target comes from, and how its value is converted."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from difflib import get_close_matches
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

from streammig.errors import Unusable

ABSENT = object()  # missing, null or empty: the target's field is left out
SOURCES = ("field", "join", "constant", "null")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
YES, NO = ("yes", "y", "true", "t", "1"), ("no", "n", "false", "f", "0")
SEE = "See: streammig guide mapping"
_NUMBERS = {
    mark: re.compile(
        rf"(?P<sign>-?)\+?(?P<whole>\d+|\d{{1,3}}(?P<part>[^\d{mark}])\d{{3}}(?:(?P=part)\d{{3}})*)"
        rf"(?:[{mark}](?P<fraction>\d+))?",
        re.ASCII,
    )
    for mark in ".,"
}
Step = Callable[[Any], Any]
Make = Callable[[Mapping[str, Any]], Any]


class FieldError(Exception):
    """A value that can't be converted. `path` is the target's field. `said` holds no value of the record."""

    def __init__(self, path: str, said: str) -> None:
        super().__init__(said)
        self.path, self.said = path, said


class AtFault:
    """Finds the CSV column that a dead letter is about.

    `header` holds the names of the columns, or None for an export in JSON. `table` is the stage's declared mapping. It
    is empty without a mapping, and None if the mapping is a function.
    """

    def __init__(self, stage: str, header: Collection[str] | None, table: Mapping[str, Any] | None) -> None:
        self._stage, self._header, self._table = stage, header, table

    def column(self, code: str, message: str) -> str | None:
        """The names of the columns, joined with commas, or a number from 1 for a column without a name.

        Returns "" if no column is known, as for a record that a function made. Returns None for an export in JSON.
        """
        if self._header is None:
            return None
        path, colon, _ = message.partition(": ")
        steps = [step for step in re.split(r"[.\[\]]+", path.removeprefix("$")) if step]
        if not colon or not path.startswith("$") or not steps:
            return ""
        if code == "invalid-csv":
            return steps[0]
        if steps[0] == self._stage and steps[0] not in self._header:
            del steps[:2]  # the list that grouped the rows of a customer, and the row's index in it
        if self._table:
            return ", ".join(source[0] for source in dict.fromkeys(_sources_at(self._table, steps)))
        name = next((it for it in (".".join(steps), *steps[:1]) if it in self._header), "")
        return "" if self._table is None else name


def _sources_at(value: Any, steps: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The source fields of the value at a path of the target.

    Every element of a list counts: empty ones are left out, so an index in the message may mean a later element.
    """
    if isinstance(value, list):
        for each in value:
            yield from _sources_at(each, steps[1:])
    elif isinstance(value, str) or any(name in value for name in SOURCES):
        yield from _sources(value)
    elif steps and steps[0] in value:
        yield from _sources_at(value[steps[0]], steps[1:])


class FieldMapping:
    """Converts a source record into the target's form, by a table of the settings such as `[customers.fields]`.

    - A text is the name of a source field.
    - A table with `field`, `join`, `constant` or `null` is a value. Its other keys are conversions, applied in order.
    - Any other table is an object of fields, and a list is a list of them.
    - An object or list element is left out if none of its source fields has a value.

    `marks` are source fields that a setting of the stage reads, beside those that the table reads. Raises `Unusable`
    for an invalid table, `FieldError` for a value that can't be converted.
    """

    def __init__(self, stage: str, table: Mapping[str, Any], marks: Sequence[str] = ()) -> None:
        self._stage, self._table, self._marks = stage, table, marks
        self._make = _object(f"[{stage}.fields]", "$", table)
        self._sources = [*_sources(table), *((name,) for name in marks)]
        # The outermost fields: the whole name, and the first step of its dotted path.
        self.reads = frozenset(name for source in self._sources for name in source[:2])

    def __call__(self, record: Any) -> dict[str, Any]:
        if not isinstance(record, dict):
            raise FieldError("$", f"an object was expected, found {kind(record)}")
        made: dict[str, Any] = self._make(record)
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return FieldMapping, (self._stage, self._table, self._marks)

    def check_columns(self, columns: Collection[str]) -> None:
        """Raise `Unusable` for a source field that is no column: the target's field would be left out silently."""
        missing = [source[0] for source in self._sources if source[0] not in columns]
        if missing:
            near = get_close_matches(missing[0], columns, 1)
            raise Unusable(
                "fields-invalid",
                f"[{self._stage}]: the header of the export has no field {missing[0]}",
                (f"Did you mean {near[0]}? " if near else "") + f"Its fields are: {', '.join(sorted(columns))}.",
            )

    def unseen(self, records: Iterable[Any]) -> list[tuple[str, str]]:
        """Source fields that none of these records has, each with the most similar name in them, or ""."""
        missing, names = dict.fromkeys(self._sources), dict[str, None]()
        for record in records:
            if not missing:
                break
            if isinstance(record, dict):
                names |= dict.fromkeys(record)
                missing = dict.fromkeys(source for source in missing if not _has(source, record))
        return [(source[0], next(iter(get_close_matches(source[0], names, 1)), "")) for source in missing]

    def only(self, name: str) -> FieldMapping:
        """The mapping of one field only, which works even if another field can't be converted."""
        return FieldMapping(self._stage, {name: self._table[name]} if name in self._table else {})

    @property
    def mark(self) -> str:
        """Hash of the table, which identifies the mapping."""
        return hashlib.sha256(json.dumps(self._table, default=str).encode()).hexdigest()


def kind(value: Any) -> str:
    """Name the JSON type of a value, for messages that must not hold the value."""
    if isinstance(value, bool):
        return "true or false"
    kinds = {str: "a text", int: "a number", Decimal: "a number", float: "a number", dict: "an object", list: "a list"}
    return "null" if value is None else kinds.get(type(value), "something else")


# -- from the table to functions ---------------------------------------------------------------------------------------


def _object(where: str, path: str, table: Mapping[str, Any]) -> Make:
    parts = {name: _part(where, f"{path}.{name}", value) for name, value in table.items()}

    def make(record: Mapping[str, Any]) -> Any:
        return {name: value for name, part in parts.items() if (value := part(record)) is not ABSENT}

    return make


def _part(where: str, path: str, value: Any) -> Make:
    """A function that makes the value at this path of the target."""
    if isinstance(value, str):
        return partial(_found, _source(value))
    if isinstance(value, list):
        return partial(_list, [_member(where, f"{path}[{at}]", each) for at, each in enumerate(value)])
    if not isinstance(value, Mapping):
        raise _wrong(where, path, "the name of a source field, a table or a list of tables is expected")
    if not any(name in value for name in SOURCES):
        return _member(where, path, value)
    return _value(where, path, value)


def _member(where: str, path: str, value: Any) -> Make:
    """As `_part`, but an object is left out if none of its source fields has a value."""
    if not isinstance(value, Mapping):
        return _part(where, path, value)
    make, sources = _object(where, path, value), _sources(value)

    def unless_empty(record: Mapping[str, Any]) -> Any:
        if sources and all(_found(source, record) is ABSENT for source in sources):
            return ABSENT
        return make(record)

    return unless_empty


def _sources(value: Any) -> list[tuple[str, ...]]:
    """The source fields that a part of the table names."""
    if isinstance(value, str):
        return [_source(value)]
    if isinstance(value, list):
        return [name for each in value for name in _sources(each)]
    if "field" in value:
        return [_source(value["field"])]
    if "join" in value:
        return [_source(name) for name in value["join"]]
    if "constant" in value or "null" in value:
        return []
    return [name for each in value.values() for name in _sources(each)]


def _list(parts: list[Make], record: Mapping[str, Any]) -> list[Any]:
    return [value for part in parts if (value := part(record)) is not ABSENT]


def _value(where: str, path: str, table: Mapping[str, Any]) -> Make:
    named = [name for name in SOURCES if name in table]
    if len(named) > 1:
        raise _wrong(where, path, f"{' and '.join(named)} exclude each other")
    (source,) = named
    if source == "null":
        return lambda record: None
    if source == "constant":
        constant = _exact(table["constant"])
        return lambda record: constant
    steps = [
        _step(where, path, name, argument, table)
        for name, argument in table.items()
        if name not in (source, "with", "zone")
    ]
    if source == "field" and not isinstance(table["field"], str):
        raise _wrong(where, path, "field is the name of a source field")
    take = partial(_found, _source(table["field"])) if source == "field" else _joined(where, path, table)
    return partial(_converted, path, ", ".join(it[0] for it in _sources(table)), take, steps)


def _converted(path: str, names: str, take: Make, steps: list[Step], record: Mapping[str, Any]) -> Any:
    value = take(record)
    for step in steps:
        if value is ABSENT or value == "":
            return ABSENT
        try:
            value = step(value)
        except FieldError as error:
            raise FieldError(path, f"{error.said} (from {names})") from None
    return ABSENT if value == "" else value


def _joined(where: str, path: str, table: Mapping[str, Any]) -> Make:
    names, between = table["join"], table.get("with", " ")
    if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        raise _wrong(where, path, "join is a list of source fields")
    takes = [partial(_found, _source(name)) for name in names]

    def join(record: Mapping[str, Any]) -> Any:
        values = [value for take in takes if (value := take(record)) is not ABSENT]
        return between.join(_text(value) for value in values) if values else ABSENT

    return join


def _source(name: str) -> tuple[str, ...]:
    """A source field: its name, then the steps of the path if it has dots (`address.city`)."""
    return (name, *name.split(".")) if "." in name else (name,)


def _found(source: tuple[str, ...], record: Mapping[str, Any]) -> Any:
    value: Any = record.get(source[0], ABSENT)
    if value is ABSENT and len(source) > 1:
        value = record
        for step in source[1:]:
            value = value.get(step, ABSENT) if isinstance(value, dict) else ABSENT
    return ABSENT if value is None or value == "" else value


def _has(source: tuple[str, ...], record: Any) -> bool:
    """Whether a record has a field, even if it is null."""
    for step in () if source[0] in record else source[1:] or source:
        if not isinstance(record, dict) or step not in record:
            return False
        record = record[step]
    return True


def _exact(value: Any) -> Any:
    return Decimal(str(value)) if isinstance(value, float) else value


# -- conversions -------------------------------------------------------------------------------------------------------


def _step(where: str, path: str, name: str, argument: Any, table: Mapping[str, Any]) -> Step:
    match name, argument:
        case (("trim" | "lower" | "text" | "yes_no" | "epoch" | "epoch_ms"), bool()):
            plain: dict[str, Step] = {
                "trim": lambda value: _text(value).strip(),
                "lower": lambda value: _text(value).lower(),
                "text": _text,
                "yes_no": _yes_no,
                "epoch": partial(_epoch, 1),
                "epoch_ms": partial(_epoch, 1000),
            }
            return plain[name] if argument else lambda value: value
        case "strip", str():
            return lambda value: _text(value).strip(argument)
        case "prefix", str():
            return lambda value: argument + _text(value)
        case "split", str() if argument:
            return lambda value: [part.strip() for part in _text(value).split(argument) if part.strip()]
        case "number", ("." | ","):
            return partial(_number, argument)
        case "map", dict():
            return partial(_mapped, {name: _exact(value) for name, value in argument.items()})
        case "date", str():
            return partial(_date, argument, _zone(where, path, table.get("zone")))
        case _:
            known = "trim, lower, text, strip, prefix, split, number, yes_no, map, date, epoch, epoch_ms"
            raise _wrong(where, path, f"there is no conversion {name} = {argument!r}; known are {known}")


def _wrong(where: str, path: str, said: str) -> Unusable:
    return Unusable("fields-invalid", f"{where}: {path.removeprefix('$.')}: {said}", SEE)


def _zone(where: str, path: str, name: Any) -> ZoneInfo | None:
    try:
        return ZoneInfo(name) if name is not None else None
    except (OSError, ValueError, TypeError, KeyError):
        raise _wrong(where, path, f"there is no time zone {name!r}") from None


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise FieldError("", f"a text was expected, found {kind(value)}")
    return str(value)


def _number(mark: str, value: Any) -> Any:
    """Parse a number with this decimal mark. Thousands may be separated by any one character but the mark."""
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        return value
    found = _NUMBERS[mark].fullmatch(_text(value).strip())
    if found is None:
        raise FieldError("", f"a number with the decimal mark {mark} was expected, found another text")
    sign, whole, fraction = found["sign"], re.sub(r"\D", "", found["whole"]), found["fraction"]
    return Decimal(f"{sign}{whole}.{fraction}" if fraction else f"{sign}{whole}")


def _yes_no(value: Any) -> bool:
    word = str(value).strip().lower()
    if word in YES:
        return True
    if word in NO:
        return False
    raise FieldError("", f"yes or no was expected, found {kind(value)} that is neither")


def _mapped(table: Mapping[str, Any], value: Any) -> Any:
    found = table.get(str(value).lower() if isinstance(value, bool) else str(value), ABSENT)
    if found is ABSENT:
        found = table.get("*", ABSENT)  # "*" maps every other value
    if found is ABSENT:
        names = ", ".join(list(table)[:10])
        raise FieldError("", f"one of {names} was expected, found {kind(value)} that is none of them")
    return found


def _date(form: str, zone: ZoneInfo | None, value: Any) -> str:
    try:
        moment = datetime.strptime(_text(value).strip(), form)
    except ValueError:
        raise FieldError("", f"a date of the form {form} was expected, found {kind(value)} of another form") from None
    if moment.tzinfo is None:
        if zone is None:
            raise FieldError("", f"a date of the form {form} has no time zone; add zone to its table")
        moment = moment.replace(tzinfo=zone)
    return moment.isoformat()


def _epoch(parts: int, value: Any) -> str:
    micros = int(_number(".", value) * (1_000_000 // parts))  # whole numbers: a binary float would round the time
    try:
        return (EPOCH + timedelta(microseconds=micros)).isoformat().replace("+00:00", "Z")
    except OverflowError:
        raise FieldError("", "seconds since 1970 were expected, found a number beyond any date") from None
