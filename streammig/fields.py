"""A mapping declared in the settings: where the value of each field comes from, and how it is converted."""

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

ABSENT = object()  # no such field, null, or an empty text: the target's field is left out
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
    """A value that a conversion can't take. `path` is the target's field; `said` holds no value of the record."""

    def __init__(self, path: str, said: str) -> None:
        super().__init__(said)
        self.path, self.said = path, said


class AtFault:
    """Finds the column of a table that a dead letter is about.

    `header` are the names of its columns, None where the export is no table. `table` is that of the stage's declared
    mapping, empty without a mapping, None where a function makes the records.
    """

    def __init__(self, stage: str, header: Collection[str] | None, table: Mapping[str, Any] | None) -> None:
        self._stage, self._header, self._table = stage, header, table

    def column(self, code: str, message: str) -> str | None:
        """Its name, or its number from 1 where it has none; several with commas between; "" where the letter is about
        no column, or about what a function made of some. None where the export is no table."""
        if self._header is None:
            return None
        path, colon, _ = message.partition(": ")
        steps = [step for step in re.split(r"[.\[\]]+", path.removeprefix("$")) if step]
        if not colon or not path.startswith("$") or not steps:
            return ""
        if code == "invalid-csv":
            return steps[0]
        if steps[0] == self._stage and steps[0] not in self._header:
            del steps[:2]  # a row among those of its customer
        if self._table:
            return ", ".join(way[0] for way in dict.fromkeys(_sources_at(self._table, steps)))
        name = next((it for it in (".".join(steps), *steps[:1]) if it in self._header), "")
        return "" if self._table is None else name


def _sources_at(value: Any, steps: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The source fields of the value at a path of the target. Elements of a list may be left out, so that any of them
    may be the one that is meant."""
    if isinstance(value, list):
        for each in value:
            yield from _sources_at(each, steps[1:])
    elif isinstance(value, str) or any(name in value for name in SOURCES):
        yield from _sources(value)
    elif steps and steps[0] in value:
        yield from _sources_at(value[steps[0]], steps[1:])


class FieldMapping:
    """Makes a target's record of a source record, by a table of the settings (`[customers.fields]`).

    A text is the name of a source field. A table with `field`, `join`, `constant` or `null` is a value, and its other
    keys are conversions, applied in their order. Any other table is an object of fields, and a list is a list of them.
    An object or an element of a list in which no source field had a value is left out. `marks` are source fields that
    the table does not read, and a setting of the stage does.

    Raises `Unusable` for a table that means nothing, `FieldError` for a value that a conversion can't take.
    """

    def __init__(self, stage: str, table: Mapping[str, Any], marks: Sequence[str] = ()) -> None:
        self._stage, self._table, self._marks = stage, table, marks
        self._make = _object(f"[{stage}.fields]", "$", table)
        self._ways = [*_sources(table), *((name,) for name in marks)]
        self.reads = frozenset(step for way in self._ways for step in way[:2])  # outermost fields, by whichever way

    def __call__(self, record: Any) -> dict[str, Any]:
        if not isinstance(record, dict):
            raise FieldError("$", f"an object was expected, found {kind(record)}")
        made: dict[str, Any] = self._make(record)
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return FieldMapping, (self._stage, self._table, self._marks)

    def check_columns(self, columns: Collection[str]) -> None:
        """Raise `Unusable` for a source field that a table has not: its target's field would be left out in silence."""
        missing = [way[0] for way in self._ways if way[0] not in columns]
        if missing:
            near = get_close_matches(missing[0], columns, 1)
            raise Unusable(
                "fields-invalid",
                f"[{self._stage}]: the header of the export has no field {missing[0]}",
                (f"Did you mean {near[0]}? " if near else "") + f"Its fields are: {', '.join(sorted(columns))}.",
            )

    def unseen(self, records: Iterable[Any]) -> list[tuple[str, str]]:
        """The source fields that none of these records has, each with the nearest name that one of them has, or ""."""
        missing, names = dict.fromkeys(self._ways), dict[str, None]()
        for record in records:
            if not missing:
                break
            if isinstance(record, dict):
                names |= dict.fromkeys(record)
                missing = dict.fromkeys(way for way in missing if not _has(way, record))
        return [(way[0], next(iter(get_close_matches(way[0], names, 1)), "")) for way in missing]

    def only(self, name: str) -> FieldMapping:
        """The mapping of one field alone: it works also where the conversion of another field fails."""
        return FieldMapping(self._stage, {name: self._table[name]} if name in self._table else {})

    @property
    def mark(self) -> str:
        """The hash of the table: another table is another mapping."""
        return hashlib.sha256(json.dumps(self._table, default=str).encode()).hexdigest()


def kind(value: Any) -> str:
    """What a value is, in words of JSON, without the value."""
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
    """What makes the value at this path of the target."""
    if isinstance(value, str):
        return partial(_found, _way(value))
    if isinstance(value, list):
        return partial(_list, [_member(where, f"{path}[{at}]", each) for at, each in enumerate(value)])
    if not isinstance(value, Mapping):
        raise _wrong(where, path, "the name of a source field, a table or a list of tables is expected")
    if not any(name in value for name in SOURCES):
        return _member(where, path, value)
    return _value(where, path, value)


def _member(where: str, path: str, value: Any) -> Make:
    """An object that is left out where none of its source fields has a value."""
    if not isinstance(value, Mapping):
        return _part(where, path, value)
    make, names = _object(where, path, value), list(_sources(value))

    def unless_empty(record: Mapping[str, Any]) -> Any:
        if names and all(_found(name, record) is ABSENT for name in names):
            return ABSENT
        return make(record)

    return unless_empty


def _sources(value: Any) -> list[tuple[str, ...]]:
    """The source fields that a part of the table names."""
    if isinstance(value, str):
        return [_way(value)]
    if isinstance(value, list):
        return [name for each in value for name in _sources(each)]
    if "field" in value:
        return [_way(value["field"])]
    if "join" in value:
        return [_way(name) for name in value["join"]]
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
    take = partial(_found, _way(table["field"])) if source == "field" else _joined(where, path, table)
    return partial(_converted, path, ", ".join(way[0] for way in _sources(table)), take, steps)


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
    takes = [partial(_found, _way(name)) for name in names]

    def join(record: Mapping[str, Any]) -> Any:
        values = [value for take in takes if (value := take(record)) is not ABSENT]
        return between.join(_text(value) for value in values) if values else ABSENT

    return join


def _way(name: str) -> tuple[str, ...]:
    """A field's name, and behind it the way that its dots may mean: `address.city`."""
    return (name, *name.split(".")) if "." in name else (name,)


def _found(way: tuple[str, ...], record: Mapping[str, Any]) -> Any:
    value: Any = record.get(way[0], ABSENT)
    if value is ABSENT and len(way) > 1:
        value = record
        for step in way[1:]:
            value = value.get(step, ABSENT) if isinstance(value, dict) else ABSENT
    return ABSENT if value is None or value == "" else value


def _has(way: tuple[str, ...], record: Any) -> bool:
    """Whether a record has a field, if only a null."""
    for step in () if way[0] in record else way[1:] or way:
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
    """A number of a text with this decimal mark; thousands may be parted in threes, by any one sign but the mark."""
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
        found = table.get("*", ABSENT)  # what every other value becomes
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
    micros = int(_number(".", value) * (1_000_000 // parts))  # in whole numbers: no binary float rounds a moment
    try:
        return (EPOCH + timedelta(microseconds=micros)).isoformat().replace("+00:00", "Z")
    except OverflowError:
        raise FieldError("", "seconds since 1970 were expected, found a number beyond any date") from None
