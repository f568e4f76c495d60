"""Run a user's mapping on a source record, and keep whatever it does away from the totals."""

from __future__ import annotations

import datetime
import math
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from pathlib import PurePath
from types import TracebackType
from typing import Any

import msgspec
import orjson

from streammig.errors import Unusable
from streammig.fields import FieldError
from streammig.masivo.edit import NOT_JSON, duplicated, faithful, fields_of
from streammig.masivo.redact import ALLOWED, GONE, redact
from streammig.masivo.rules.filters import holds
from streammig.masivo.rules.options import Match
from streammig.masivo.rules.reasons import Refusal
from streammig.masivo.rules.values import text_in

_decode = msgspec.json.Decoder(float_hook=Decimal).decode
_FAILED = "mapping-failed"
_PYTHON = frozenset(
    """
    arg args ascii badly bytes callable char chr class codec concatenate conversion syntax decimal decode define dict
    dictionary division doesn encode expecting formed got hexadecimal increase instances int isoformat iterable lambda
    len like literal none nonetype operand ordinal pop positional real replacement round separator sequence str
    subscriptable t tuple unpack utf
    """.split()  # noqa: SIM905  # a list of words is read more easily
)
"""Words of Python's own exceptions, which a message may show."""
_SHOWN = 200  # characters of an exception's text
_PLAIN = (str, bool, type(None), datetime.datetime, datetime.date, uuid.UUID)


class Mapped:
    """A mapping from a record's bytes to the bytes of no record, one, or several.

    `deleted` are marks of deleted customers. A mark may name a field of the source record that the mapping does not
    pass on. Then the mapped records are marked as deleted here.
    """

    def __init__(self, mapping: Callable[[Any], Any], deleted: Sequence[Match] = ()) -> None:
        self._mapping, self._deleted = mapping, deleted

    def __call__(self, data: bytes) -> list[bytes]:
        """Map a record, and encode the result at once, before the mapping can change it. Raises `Refusal`."""
        try:
            source = _decode(data)
            if not faithful(data, source) and duplicated(data, 0, len(data)):
                raise Refusal("duplicate-field", "$", "a field is repeated in an object")
        except (*NOT_JSON, ArithmeticError):  # ArithmeticError: an exponent that no Decimal can hold
            raise Refusal("invalid-json", "$", "the bytes are not valid JSON, or nested too deeply") from None
        try:
            made = self._mapping(source)
        except FieldError as error:
            raise Refusal(_FAILED, error.path, error.said) from None
        except KeyboardInterrupt:
            raise KeyboardInterrupt from None  # its text and its cause may hold a value of the record
        except SystemExit as error:
            raise Unusable(
                "map-ended",
                f"the mapping asked to end the process{_line(error.__traceback__)}",
                "A mapping returns None to leave a record out, and raises to make a dead letter of it. Correct it, then"
                " run the same command.",
            ) from None
        except BaseException as error:  # a mapping that fails for a record, in any way, must not end the run
            where, said = _line(error.__traceback__), _said(error, data, source)
            raise Refusal(_FAILED, "", f"the mapping raised {type(error).__name__}{where}{said}") from None
        if made is None:
            return []
        records = made if type(made) is list else [made]
        gone = self._gone(data) if self._deleted else []
        return [_encoded(record, gone) for record in records]

    def _gone(self, data: bytes) -> list[str]:
        """Return the fields of a source record that mark a deleted customer."""
        texts = {name: text_in(bytes(raw)) for name, raw in fields_of(data).items()} if data.startswith(b"{") else {}
        return [match.field for match in self._deleted if holds(match, texts)]


def _encoded(record: object, gone: Sequence[str]) -> bytes:
    if not isinstance(record, dict):
        found = type(record).__name__
        raise Refusal(_FAILED, "", f"the mapping returned {found}; expected a dict, a list of dicts, or None")
    if not all(name in record for name in gone):
        record = {**record, "status": "DELETED"}
    try:
        return orjson.dumps(_exactly(record))
    except Refusal:
        raise
    except KeyboardInterrupt:
        raise KeyboardInterrupt from None
    except BaseException as error:  # a foreign object may raise anything
        raise Refusal(_FAILED, "", f"the mapping returned what is no JSON ({type(error).__name__})") from None


def _exactly(value: Any) -> Any:
    """Return a value with decimals and large integers as JSON text, for orjson refuses them.

    Floats become their shortest text. NaN and infinity are refused, for orjson makes null of them.
    """
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, dict):
        return {key: _exactly(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_exactly(each) for each in value]
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else orjson.Fragment(str(Decimal(value)))
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, Decimal) and value.is_finite():
        return orjson.Fragment(str(value))
    found = type(value).__name__
    raise Refusal(_FAILED, "", f"the mapping returned a record with {found} in it; expected JSON and finite numbers")


def _said(error: BaseException, data: bytes, source: Any) -> str:
    """Return the text of an exception, without anything that may be a value of the record.

    Words of Python and of the mapping's own code stay unless a value has them. Numbers stay if the record lacks them.
    """
    try:
        text = str(error)[:_SHOWN]
    except BaseException:  # it is foreign code
        return ""
    known = ALLOWED | _PYTHON | set(_words(_code(error.__traceback__)))
    told = redact(text, known - set(_words(_texts(source))))
    told = re.sub(r"\d+", lambda number: GONE if number[0].encode() in data else number[0], told)
    return f": {told}" if told.strip() else ""


def _words(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield from re.findall(r"[^\W\d_]+", text.lower())


def _texts(value: Any) -> Iterator[str]:
    """Give the texts among the values of a record."""
    if isinstance(value, str):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(each)


def _theirs(trace: TracebackType | None) -> TracebackType | None:
    """Skip our own frames at the start of a traceback."""
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("streammig."):
        trace = trace.tb_next
    return trace


def _code(trace: TracebackType | None) -> Iterator[str]:
    """Give texts and names in those functions of the mapping's file that an exception went through."""
    trace = _theirs(trace)
    home = trace.tb_frame.f_code.co_filename if trace is not None else ""
    while trace is not None:
        code = trace.tb_frame.f_code
        if code.co_filename == home:
            yield from (*code.co_names, *code.co_varnames, *(it for it in code.co_consts if isinstance(it, str)))
        trace = trace.tb_next


def _line(trace: TracebackType | None) -> str:
    """Name the last line of the mapping's own file in a traceback."""
    trace = _theirs(trace)
    if trace is None:
        return ""
    home = trace.tb_frame.f_code.co_filename
    line = trace.tb_lineno
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == home:
            line = trace.tb_lineno
        trace = trace.tb_next
    return f" at line {line} of {PurePath(home).name}"
