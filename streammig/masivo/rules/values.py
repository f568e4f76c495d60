"""Single values: ids, e-mail addresses, UUIDs, date-times, exact numbers."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import repeat
from operator import contains
from typing import Any

import msgspec
from msgspec import UNSET

from streammig.masivo.edit import NOT_JSON, NULL, Member
from streammig.masivo.rules.options import MAX_DIGITS, RuleOptions
from streammig.masivo.rules.reasons import expected
from streammig.masivo.rules.shape import Check, Shape
from streammig.model import EXACT

# Plain ASCII first: a class with \s in it costs four times as much a character.
_EMAIL = re.compile(r"[!-?A-~]+@[!-?A-~]+|[^\s@\x00-\x1f\x7f]+@[^\s@\x00-\x1f\x7f]+")
_ODD = (" @", "@ ", " .", ". ", "..", ".@", "@.")  # what no e-mail begins with, ends with or has in it
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

_SOME = 16  # models that are looked at together where one is bad
_MEMO = 16_384  # entries; a few megabytes

_NOTHING = frozenset({UNSET, None})
_UNSEEN = frozenset({type(UNSET)})

Path = tuple[Check, ...]

_date = msgspec.json.Decoder(datetime).decode
_text = msgspec.json.Decoder(str).decode

# How the first byte of a value tells its kind, in the words of messages.
KINDS = {
    ord('"'): "a text",
    ord("{"): "an object",
    ord("["): "a list",
    ord("t"): "true",
    ord("f"): "false",
    ord("n"): "null",
}
NUMBER = "a number"


def kind_of(data: bytes, begin: int) -> str:
    """What kind of JSON begins there, in the words of messages."""
    return KINDS.get(data[begin], NUMBER)


def text_of(data: bytes, member: Member | None) -> str:
    """A field's text, the JSON of any other value, or "" where there is none or it can't be read."""
    return "" if member is None else text_in(data[member.begin : member.end])


def text_in(value: bytes) -> str:
    """The text that this JSON is, the JSON of any other value, or "" where it can't be read."""
    try:
        return _text(value) if value[0] == 0x22 else value.decode()
    except NOT_JSON:
        return ""


def texts_of(data: bytes, fields: Mapping[str, Member], names: Iterable[str]) -> dict[str, str]:
    """As `text_of`, of those of the named fields that are there."""
    return {name: text_of(data, fields[name]) for name in names if name in fields}


def good_id(text: str) -> bool:
    """1 to 255 characters, no control character, no slash, and not the name of a route beside the customers'."""
    if text.isprintable() or not _CONTROL.search(text):  # what is printable holds no control character
        return 0 < len(text) <= 255 and "/" not in text and text != "migrate"
    return False


def good_ids(texts: Sequence[str]) -> bool:
    """Whether all of these are good, told at once where each is printable; False may still be a no."""
    joined = "|".join(texts)
    sized = min(map(len, texts)) > 0 and max(map(len, texts)) <= 255
    return sized and joined.isprintable() and "/" not in joined and "migrate" not in texts


def good_email(text: str) -> bool:
    """A light check: one @, no white space, no control character, no dot at an end of a side or beside another."""
    if "." not in (text[:1], text[-1:]) and ".." not in text and ".@" not in text and "@." not in text:
        return _EMAIL.fullmatch(text) is not None
    return False


def folded_emails(texts: Sequence[str]) -> list[str] | None:
    """All of these in lower case if all are good and plain ASCII; None may still be a yes."""
    joined, count = f" {' '.join(texts)} ", len(texts)
    plain = joined.isascii() and joined.isprintable() and joined.count(" ") == count + 1
    # As many signs as texts, and one in each, is just one in each.
    if not (plain and joined.count("@") == count and all(map(contains, texts, repeat("@")))):
        return None
    return None if any(map(contains, repeat(joined, len(_ODD)), _ODD)) else joined.lower().split(" ")[1:-1]


def good_uuid(text: str) -> bool:
    """A UUID in its usual spelling, in any case of letters."""
    return _UUID.fullmatch(text) is not None


class Numbers:
    """Which numbers may be sent: at most `digits` digits behind the point, at most `MAX_DIGITS` in all, by value."""

    def __init__(self, digits: int) -> None:
        self.digits = digits
        self._step = Decimal(1).scaleb(-digits)
        self._limit = Decimal(10) ** (MAX_DIGITS - digits)
        self._too_fine = re.compile(rb"\.[0-9]{%d}[0-9]*[1-9]" % digits).search
        self._longest = MAX_DIGITS - digits

    def exact(self, text: bytes) -> Decimal | None:
        """The number that a JSON text is, exactly, or None if it is none that may be sent: 1.50 is 15e-1."""
        try:
            number = Decimal(text.decode())
            # The bounds first, so that no exponent is too large for the remainder; `copy_abs`, because abs() rounds.
            if number.copy_abs() >= self._limit or EXACT.remainder(number, self._step):
                return None
            # 0e999999999 is in bounds and a gigabyte when it is written out.
            return number if abs(number.adjusted()) <= EXACT.prec else None
        except (ArithmeticError, ValueError):  # no number at all, or beyond what EXACT can hold: 1e-9999999
            pass
        return None

    def plain(self, texts: Iterable[msgspec.Raw], *, null: bool = False) -> bool:
        """Whether all of these may be sent and are spelt plainly, or are `null`; False may still be a no.

        They are looked at as one text, which takes a tenth of the time that weighing each takes.
        """
        texts = list(filter(None, texts))
        if not texts:
            return True
        joined = b",".join(texts)
        if null:
            joined = joined.replace(NULL, b"0")
        plain = not joined.translate(None, b"0123456789.,-") and max(map(len, texts)) <= self._longest
        return plain and not self._too_fine(joined)


def decimals(plain: Sequence[msgspec.Raw]) -> list[Decimal]:
    """The numbers that plain texts are."""
    return list(map(Decimal, b",".join(plain).decode().split(","))) if plain else []


class Keys(dict[str, str]):
    """The key that a reward's sums have: its UUID in lower case, or "" for what is no UUID. Remembered as well."""

    def __missing__(self, uuid: str) -> str:
        key = uuid.lower() if good_uuid(uuid) else ""
        if len(self) >= _MEMO:  # an account has at most 1,000 rewards: this export is odd
            self.clear()
        self[uuid] = key
        return key


def along(path: Path, models: Iterable[Any]) -> list[Any]:
    """The values of models at the end of a path."""
    for check in path:
        models = check.values(filter(None, models))
    return list(models)


def allowed_nulls(models: Sequence[Any], paths: Sequence[Path]) -> int:
    """How many nulls may stand in the models; `paths` are those to the attributes that may be null."""
    count = 0
    for path in paths:
        values = along(path, models)
        count += list(map(bytes, values)).count(NULL) if path[-1].kind == "nullable number" else values.count(None)
    return count


def paths_to(kinds: Collection[str], shape: Shape, path: Path = ()) -> Iterator[Path]:
    """The paths to all attributes of these kinds of checks."""
    for check in shape.checks:
        if check.kind in kinds:
            yield (*path, check)
        elif check.shape is not None:
            yield from paths_to(kinds, check.shape, (*path, check))


class Values:
    """The checks of single values that name the field they refuse; `where` is the field's path."""

    def __init__(self, options: RuleOptions) -> None:
        self.numbers = Numbers(options.fraction_digits)
        self.keys = Keys()
        self._zone = options.zone()

    def clean(self, models: Sequence[Any], shape: Shape) -> bool:
        """Whether these decoded models can be sent as they stand, also where their types say nothing."""
        failing: list[Path] = []
        self.survey(models, shape, failing)
        return not failing

    def survey(self, models: Iterable[Any], shape: Shape, failing: list[Path], path: Path = ()) -> None:
        """Look at one attribute of all of these models at a time: a fourth of what looking at each model costs.

        The paths at which a value of some model is not plainly good go to `failing`.
        """
        for check in shape.checks:
            along = (*path, check)
            if check.shape is not None and check.kind != "policy":
                if parts := list(filter(None, check.values(models))):
                    self.survey(parts, check.shape, failing, along)
            elif check.kind not in ("nullable", "free") and not self.good(check.kind, check.values(models)):
                failing.append(along)

    def bad(self, models: Sequence[Any], path: Path) -> list[int]:
        """The indices of the models that have a value at this path that is not plainly good."""
        found: list[int] = []
        for at in range(0, len(models), _SOME):
            some = models[at : at + _SOME]
            if not self.good(path[-1].kind, along(path, some)):
                found += [n for n, each in enumerate(some, at) if not self.good(path[-1].kind, along(path, (each,)))]
        return found

    def good(self, kind: str, values: Iterable[Any]) -> bool:
        """Whether all of these are plainly good, as far as a kind of `Check` says."""
        if kind == "uuid":
            return all(map(self.keys.__getitem__, {*values} - _NOTHING))
        if kind == "policy":
            return {*map(type, values)} <= _UNSEEN
        return self.numbers.plain(values, null=kind == "nullable number")

    def text(self, data: bytes, begin: int, end: int, where: str) -> str:
        """The text that stands there."""
        if data[begin] != 0x22:
            raise expected("wrong-type", where, "a text", kind_of(data, begin))
        return _text(memoryview(data)[begin:end])

    def number(self, data: bytes, begin: int, end: int, where: str) -> Decimal:
        """The number that stands there, exactly."""
        number = self.numbers.exact(data[begin:end])
        if number is None:
            what = f"a number with at most {self.numbers.digits} digits behind the point and {MAX_DIGITS} in all"
            raise expected("bad-amount", where, what, "a number with more")
        return number

    def date(self, data: bytes, begin: int, end: int, where: str) -> tuple[datetime, bytes]:
        """The aware time that stands there, and the zone's offset to be put in behind it (empty if it has one)."""
        self.text(data, begin, end, where)
        try:
            time = _date(memoryview(data)[begin:end])
        except NOT_JSON:
            raise expected("bad-date", where, _DATE, "another text") from None
        if time.tzinfo is not None:
            return time, b""
        if self._zone is None:
            raise expected("bad-date", where, _DATE, "one without a time zone")
        time = time.replace(tzinfo=self._zone)
        return time, _offset(time.utcoffset() or timedelta())


_DATE = "a date-time such as 2020-01-31T12:00:00Z"


def _offset(offset: timedelta) -> bytes:
    # Before there were zones offsets had seconds, which ISO 8601 can't write: the nearest minute is taken.
    minutes = round(offset.total_seconds() / 60)
    hours, rest = divmod(abs(minutes), 60)
    return b"%c%02d:%02d" % (b"-" if minutes < 0 else b"+", hours, rest)
