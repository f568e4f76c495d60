"""Check single values: ids, e-mail addresses, UUIDs, date-times, exact numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import repeat
from operator import contains
from types import NoneType
from typing import Any

import msgspec

from streammig.masivo.edit import NOT_JSON, NULL, Member, commas, has_lone_null, hides, kept
from streammig.masivo.rules.options import MAX_DIGITS, RuleOptions
from streammig.masivo.rules.reasons import expected
from streammig.masivo.rules.shape import Check, Shape
from streammig.model import EXACT

# The format `email` of JSON Schema, with letters of any script, without quoted parts.
_ATOM = r"""[^\x00-\x20\x7f-\xa0"(),.:;<>@\[\\\]]+"""
_LETTER = r"0-9A-Za-z\u00a1-\U0010ffff"
_LABEL = rf"[{_LETTER}](?:[{_LETTER}-]{{0,61}}[{_LETTER}])?"
_EMAIL = re.compile(rf"{_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})*")
_LONGEST_EMAIL, _LONGEST_LOCAL = 254, 64  # characters of all, and before the @
# Signs of a fault in e-mails joined with blanks; if one occurs, each e-mail is checked alone.
_ODD = (" @", "@ ", " .", ". ", "..", ".@", "@.", "@-", "-.", ".-", "- ", *'"(),:;<>[\\]')
_ODD_DOMAIN = re.compile(r"@[0-9A-Za-z.-]*+[^ ]")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

_NO_SIGNS = bytes({*range(256)} - {*b"-+:, {}"})
_DATE = re.compile(
    r"(?P<day>[0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[Tt ](?P<time>[0-9]{2}:[0-9]{2})(?P<seconds>:[0-9]{2}(?:\.[0-9]+)?)?"
    r" ?(?P<zone>[Zz]|UTC|[+-][0-9]{2}(?::?[0-9]{2})?)?)?"
)
_EPOCH = re.compile(r"-?[0-9]{9,13}(?:\.[0-9]+)?")

_SOME = 16  # models checked together to find a bad one
_MEMO = 16_384  # entries; a few megabytes

_NOTHING = frozenset({None})
_UNSEEN = frozenset({NoneType})

Path = tuple[Check, ...]

_date = msgspec.json.Decoder(datetime).decode
_text = msgspec.json.Decoder(str).decode

# By the first byte of a value, its kind in the words of messages.
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
    """Name the kind of JSON that begins there, for messages."""
    return KINDS.get(data[begin], NUMBER)


def text_of(data: bytes, member: Member | None) -> str:
    """Return a field's text, or the JSON of any other value; "" if it is missing or unreadable."""
    return "" if member is None else text_in(data[member.begin : member.end])


def text_in(value: bytes) -> str:
    """Decode a JSON text; return other JSON as it is, and "" if it is unreadable."""
    try:
        return _text(value) if value[0] == 0x22 else value.decode()
    except NOT_JSON:
        return ""


def texts_of(data: bytes, fields: Mapping[str, Member], names: Iterable[str]) -> dict[str, str]:
    """As `text_of`, for each of the named fields that is there."""
    return {name: text_of(data, fields[name]) for name in names if name in fields}


def good_id(text: str) -> bool:
    """Whether an id has 1 to 255 characters, no control character, no slash, and is not the name of a route."""
    if text.isprintable() or not _CONTROL.search(text):  # a printable text has no control characters
        return 0 < len(text) <= 255 and "/" not in text and text != "migrate"
    return False


def bad_ids(texts: Sequence[str]) -> list[int]:
    """Return the indices of bad ids. If all are printable, they are checked as one text."""
    joined = "|".join(texts)
    sized = min(map(len, texts)) > 0 and max(map(len, texts)) <= 255
    if sized and joined.isprintable() and "/" not in joined and "migrate" not in texts:
        return []
    return [at for at, each in enumerate(texts) if not good_id(each)]


def good_email(text: str) -> bool:
    """Whether an e-mail has the target's format, in letters of any script."""
    if len(text) > _LONGEST_EMAIL or text.find("@") > _LONGEST_LOCAL or not text.isprintable():
        return False
    return _EMAIL.fullmatch(text) is not None


def email_fault(text: str) -> str:
    """Describe a text that is no good e-mail, for messages."""
    if good_email(text.strip()):
        return "one with blanks around it (see trim_emails)"
    if text.lower().startswith("mailto:"):
        return "one behind mailto:"
    return "one that is too long" if text.find("@") > _LONGEST_LOCAL else "another text"


def lower_emails(texts: Sequence[str]) -> list[str] | None:
    """Return all e-mails in lower case if all are surely good; None says nothing about them."""
    joined, count = f" {' '.join(texts)} ", len(texts)
    plain = joined.isascii() and joined.isprintable() and joined.count(" ") == count + 1
    # As many @ as texts, and at least one in each: so exactly one in each.
    if not (plain and joined.count("@") == count and all(map(contains, texts, repeat("@")))):
        return None
    if max(map(len, texts)) > _LONGEST_LOCAL or any(map(contains, repeat(joined, len(_ODD)), _ODD)):
        return None
    return None if _ODD_DOMAIN.search(joined) else joined.lower().split(" ")[1:-1]


def good_uuid(text: str) -> bool:
    """Whether a text is a UUID in its usual spelling, in any case of letters."""
    return _UUID.fullmatch(text) is not None


class Numbers:
    """Checks numbers by value: at most `digits` digits after the point, and `MAX_DIGITS` in all."""

    def __init__(self, digits: int) -> None:
        self.digits = digits
        self._step = Decimal(1).scaleb(-digits)
        self._limit = Decimal(10) ** (MAX_DIGITS - digits)
        self._too_fine = re.compile(rb"\.[0-9]{%d}[0-9]*[1-9]" % digits).search
        self._longest = MAX_DIGITS - digits

    def exact(self, text: bytes) -> Decimal | None:
        """Return the exact number of a JSON text; None if it may not be sent. Its value counts: 1.50 is 15e-1."""
        try:
            number = Decimal(text.decode())
            # Bounds first, so that the remainder gets no huge exponent. `copy_abs`, because abs() rounds.
            if number.copy_abs() >= self._limit or EXACT.remainder(number, self._step):
                return None
            # 0e999999999 is within the bounds, and takes a gigabyte when written out.
            return number if abs(number.adjusted()) <= EXACT.prec else None
        except (ArithmeticError, ValueError):  # no number, or too small for EXACT: 1e-9999999
            pass
        return None

    def plain(self, texts: Iterable[msgspec.Raw], *, null: bool = False) -> bool:
        """Whether all of these may surely be sent; with `null`, a null too. False says nothing about them.

        They are checked as one text, which takes a tenth of the time of a check of each.
        """
        texts = list(filter(None, texts))
        if not texts:
            return True
        joined = b",".join(texts)
        if null:
            joined = joined.replace(NULL, b"0")
        plain = not joined.translate(None, b"0123456789.,-") and max(map(len, texts)) <= self._longest
        return plain and not self._too_fine(joined)


def signs(data: bytes) -> bytes:
    """Keep only the signs that structure fields and dates: a fourth of the bytes or less."""
    return data.translate(None, _NO_SIGNS)


def has_lone(signs: bytes) -> bool:
    """Whether there may be an object with one field, whose value has no signs (such as null)."""
    return b"{:}" in signs.translate(None, b" ")


def spelt_oddly(data: bytes, signs: bytes) -> bool:
    """Whether bytes may hold something that the commas of their model do not show.

    That is: an object with a single null, which has no comma; a comma as an escape; a date that msgspec takes and
    RFC 3339 does not, like `2020-01-31 10:00:00+0200`. True says only that it is possible. The signs show most of it;
    a check of each value would take ten times as long.
    """
    if has_lone(signs) and has_lone_null(data):
        return True
    plus, minus = signs.count(b"::+") if b"+" in signs else 0, signs.count(b"::-")
    # A zone without a colon is followed by a comma or a bracket before the next colon.
    return (
        (b"- " in signs and b"- :" in signs)
        or (plus > 0 and plus != signs.count(b"::+:"))
        or (minus > 0 and minus != signs.count(b"::-:"))
        or hides(data)
    )


def strictly(decode: Callable[[bytes], Any], data: bytes) -> Any:
    """Decode bytes if they hold only fields of the type, each once; else return None."""
    try:
        value = decode(data)
    except NOT_JSON:
        return None
    there = signs(data)
    return value if commas(kept((value,))) == commas(there) and not spelt_oddly(data, there) else None


def decimals(plain: Sequence[msgspec.Raw]) -> list[Decimal]:
    """Convert plain texts to numbers."""
    return list(map(Decimal, b",".join(plain).decode().split(","))) if plain else []


class Keys(dict[str, str]):
    """Maps a reward's id to the key of its sums: the UUID in lower case; "" for no UUID. Remembers results."""

    def __missing__(self, uuid: str) -> str:
        key = uuid.lower() if good_uuid(uuid) else ""
        if len(self) >= _MEMO:  # an odd export: an account has at most 1,000 rewards
            self.clear()
        self[uuid] = key
        return key


def along(path: Path, models: Iterable[Any]) -> list[Any]:
    """Return the values of models at the end of a path."""
    for check in path:
        models = check.values(filter(None, models))
    return list(models)


def holds_free(models: Iterable[Any], shape: Shape) -> bool:
    """Whether one of these models has an object of any content that is not empty."""
    for check in shape.checks:
        if check.kind == "free" and any(check.values(models)):
            return True
        if check.shape is not None and check.shape.frees:
            parts = list(filter(None, check.values(models)))
            if parts and holds_free(parts, check.shape):
                return True
    return False


class Values:
    """Checks of single values; a `Refusal` names the field's path, `where`."""

    def __init__(self, options: RuleOptions) -> None:
        self.numbers = Numbers(options.fraction_digits)
        self.keys = Keys()
        self.trims_emails = options.trim_emails
        self._zone = options.zone()
        self._time = options.time_of_day

    def clean(self, models: Sequence[Any], shape: Shape) -> bool:
        """Whether decoded models can be sent unchanged, by all checks beyond their types."""
        failing: list[Path] = []
        self.survey(models, shape, failing)
        return not failing

    def survey(self, models: Iterable[Any], shape: Shape, failing: list[Path], path: Path = ()) -> None:
        """Check one attribute of all models at a time, which takes a fourth of the time of a check of each model.

        Add the paths with a value that is not surely good to `failing`.
        """
        for check in shape.checks:
            along = (*path, check)
            if check.shape is not None and check.kind != "policy":
                if parts := list(filter(None, check.values(models))):
                    self.survey(parts, check.shape, failing, along)
            elif check.kind != "free" and not self.good(check.kind, check.values(models)):
                failing.append(along)

    def bad(self, models: Sequence[Any], path: Path) -> list[int]:
        """Return the indices of the models with a value at this path that is not surely good."""
        found: list[int] = []
        kind = path[-1].kind
        for at in range(0, len(models), _SOME):
            some = models[at : at + _SOME]
            if not self.good(kind, along(path, some)):
                found += [n for n, each in enumerate(some, at) if not self.good(kind, along(path, (each,)))]
        return found

    def good(self, kind: str, values: Iterable[Any]) -> bool:
        """Whether all of these values are surely good for a kind of `Check`."""
        if kind == "uuid":
            return all(map(self.keys.__getitem__, {*values} - _NOTHING))
        if kind == "policy":
            return {*map(type, values)} <= _UNSEEN
        return self.numbers.plain(values, null=kind == "nullable number")

    def text(self, data: bytes, begin: int, end: int, where: str) -> str:
        """Decode a text from `begin` to `end`."""
        if data[begin] != 0x22:
            raise expected("wrong-type", where, "a text", kind_of(data, begin))
        return _text(memoryview(data)[begin:end])

    def number(self, data: bytes, begin: int, end: int, where: str) -> Decimal:
        """Decode a number from `begin` to `end`, exactly."""
        number = self.numbers.exact(data[begin:end])
        if number is None:
            what = f"a number with at most {self.numbers.digits} digits behind the point and {MAX_DIGITS} in all"
            raise expected("bad-amount", where, what, "a number with more")
        return number

    def date(self, data: bytes, begin: int, end: int, where: str) -> tuple[datetime, str]:
        """Decode a date from `begin` to `end`. Return the aware time, and its text in RFC 3339, unchanged if it was."""
        text = self.text(data, begin, end, where)
        found = _DATE.fullmatch(text)
        if found is None:
            raise expected("bad-date", where, DATE, EPOCH if _EPOCH.fullmatch(text) else "another text")
        time, zone = found["time"], found["zone"]
        if time is None and not self._time:
            raise expected("bad-date", where, DATE, "a date without a time (see time_of_day)")
        if zone is None and self._zone is None:
            raise expected("bad-date", where, DATE, "one without a time zone (see time_zone)")
        clock = time + (found["seconds"] or ":00") if time else self._time
        offset = "Z" if zone in (None, "UTC") else zone
        if len(offset) in (3, 5):  # hours only, or no colon
            offset = f"{offset[:3]}:{offset[3:] or '00'}"
        between = "t" if text[10:11] == "t" else "T"
        try:
            moment = _date(f'"{found["day"]}{between}{clock}{offset}"'.encode())
        except NOT_JSON:
            raise expected("bad-date", where, DATE, "a day or time that there is not") from None
        if zone is None:
            moment = moment.replace(tzinfo=self._zone)
            offset = _offset(moment.utcoffset() or timedelta())
        return moment, f"{found['day']}{between}{clock}{offset}"


DATE = "a date-time such as 2020-01-31T12:00:00Z"
EPOCH = "seconds or milliseconds since 1970"


def _offset(offset: timedelta) -> str:
    # Before time zones, offsets had seconds, which ISO 8601 can't write: take the nearest minute.
    minutes = round(offset.total_seconds() / 60)
    hours, rest = divmod(abs(minutes), 60)
    return f"{'-' if minutes < 0 else '+'}{hours:02d}:{rest:02d}"
