"""Replaces the values of a request's records, where a message repeats them, by the names of their fields."""

from __future__ import annotations

import html
import json
import re
import unicodedata
from collections.abc import Iterator
from itertools import pairwise
from typing import Any
from urllib.parse import unquote

LONGEST = 2000  # characters of a message that are looked at; the rest is left out
SHORTEST = 3  # bytes: a value of one or two letters stands in any text, and is looked for behind its field's name only
CUT = "…"  # what a message that was cut short ends with

# Their values are words of the API, which a person needs to read.
_ENUMS = frozenset({"type", "gender", "payment_method", "platform", "status", "fulfilled"})
_FREE = frozenset({"metadata", "tags"})
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})|\\([/\"\\])")
_LAYERS = 3  # of escapes within escapes
_DATE = re.compile(
    r"\b(?:(?P<year>\d{4})[-/.](?P<a>\d\d?)[-/.](?P<b>\d\d?)|(?P<c>\d\d?)[-/.](?P<d>\d\d?)[-/.](?P<late>\d{4}))"
    r"(?:[t ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:z|[+-]\d\d:?\d\d)?)?(?!\w)"
)
_NUMBER = re.compile(r"\+?\d(?:[-.,()/]{0,2}\d){4,}")
_SPACED = re.compile(r"\+?\d(?:[-.,()/ ]{0,2}\d){4,}")
_SHORT = re.compile(r"(\w+)[\"']?\s*[:=]\s*[\"']?(\w{1,2})(?!\w)")
_WORDS = re.compile(r"[^\W_]{3,}")
# Words of messages, which are no less readable because a shop or a note has them in it.
_USUAL = (
    "and any are bad but can client code com contain contains could customer customers data does duplicate duplicated "
    "each else email empty enqueued entry error event events exist exists expected failed field for format found from "
    "greater has have http https invalid item items key less limit list long may more must name non not null number "
    "object one only order org phone please product products purchase record records rejected request required reward "
    "server should store string than that the there this too transaction transactions true type unique unknown user "
    "valid validation value was when with without wrong you your"
)
_PLAIN = frozenset(_USUAL.split())


def unescaped(text: str) -> str:
    """A text without the escapes of JSON, addresses and HTML, also where it was escaped more than once."""
    for _ in range(_LAYERS):
        plain = _ESCAPE.sub(lambda match: match[2] or chr(int(match[1], 16)), text)
        text, before = html.unescape(unquote(plain)), text
        if text == before:
            break
    return text


def redact(message: str, body: bytes) -> str:
    """The message without any value of the body's records: `<email>` stands where an e-mail of them stood.

    Whole tokens, whatever their case, the longest first; strings and numbers of three characters or more, and parts
    of them that say who it is: a word, the side of an e-mail, a day, a number. Also where they are escaped, `\\u0040`
    or `%40`, a date is written the other way round, or a number without its dots. Takes time in proportion to the
    body, whatever the message.
    """
    cut = message.endswith(CUT) or len(message) > LONGEST
    text = unicodedata.normalize("NFC", unescaped(message[:LONGEST].removesuffix(CUT)))
    # lower() may lengthen a text (a dotted capital I does); what does not keep its length is compared as it is.
    folded = text.lower() if len(text.lower()) == len(text) else text
    try:
        leaves = json.loads(body, parse_int=str, parse_float=str)  # numbers as the text they were sent as
    except (ValueError, RecursionError):
        return "(a message that may repeat what was sent)" if message else ""
    found: dict[str, str] = {}
    within: dict[str, str] = {}
    said, written = {*_words(folded)}, _written(folded)
    for name, value in _values(leaves):
        if len(value.encode()) < SHORTEST:
            within.update(dict.fromkeys(written.get(f"{name.lower()}={value}", ()), name))
            continue
        if value in found:
            continue
        parts = {part for part in _sides(value) if len(part) >= SHORTEST and part in folded}
        if said:
            parts |= said.intersection(_words(value))
        if written:
            parts.update(written.get(_day(value) or _digits(value), ()))
        within.update(dict.fromkeys(parts, name))
        if value in folded:
            found[value] = name
        elif cut and (tail := _beginning_at_the_end(value, folded)):
            found.setdefault(tail, name)
    return _replaced(text, folded, within | found) + CUT * cut


def _values(root: Any) -> Iterator[tuple[str, str]]:
    """Every value with its field's name, folded."""
    stack: list[tuple[str, bool, Any]] = [("value", False, root)]
    while stack:
        name, free, value = stack.pop()
        if isinstance(value, dict):
            for key, member in value.items():
                below = free or key in _FREE
                stack.append((name if free else key, below, member))
                if free and not key.isidentifier():
                    stack.append((name, True, key))  # an e-mail, a number
        elif isinstance(value, list):
            stack.extend((name, free, member) for member in value)
        elif isinstance(value, str):
            if free or name not in _ENUMS:
                yield name, " ".join(unicodedata.normalize("NFC", value).split()).lower()
            if "." in value:  # 12.50 comes back as 12.5
                yield name, value.rstrip("0").rstrip(".")


def _written(text: str) -> dict[str, list[str]]:
    """What stands in a folded text in a form of its own: the tokens by the day, the digits, or `field=value`."""
    found: dict[str, list[str]] = {}
    for match in _DATE.finditer(text):
        year, first, second = match["year"] or match["late"], match["a"] or match["c"], match["b"] or match["d"]
        for month, day in ((first, second), (second, first)):
            found.setdefault(f"{year}-{month:0>2}-{day:0>2}", []).append(match[0])
    for pattern in (_NUMBER, _SPACED):
        for match in pattern.finditer(text):
            found.setdefault(re.sub(r"\D", "", match[0]), []).append(match[0])
    for match in _SHORT.finditer(text):
        found.setdefault(f"{match[1]}={match[2]}", []).append(match[2])
    return found


def _day(value: str) -> str:
    return value[:10] if value[4:5] == value[7:8] == "-" and value[:4].isdigit() else ""


def _digits(value: str) -> str:
    """The digits of a number of five or more, whatever stands between them; "" of anything else."""
    return re.sub(r"\D", "", value) if value[-1:].isdigit() and _SPACED.fullmatch(value) else ""


def _words(text: str) -> Iterator[str]:
    """The words of a folded text that may tell whom it is of: not those of any message, nor a year or an amount."""
    return (word for word in _WORDS.findall(text) if word not in _PLAIN and not (word.isdigit() and len(word) < 5))


def _sides(value: str) -> tuple[str, ...]:
    """The two sides of an e-mail, the day of a date-time."""
    if "@" in value:
        return tuple(value.split("@"))
    return (value[:10],) if value[10:11] == "t" and value[4:5] == "-" else ()


def _beginning_at_the_end(value: str, text: str) -> str:
    """What of a value stands at the end of a text that was cut within it, "" if nothing does."""
    at = text.rfind(value[:SHORTEST])
    return text[at:] if at >= 0 and value.startswith(text[at:]) else ""


def _replaced(text: str, folded: str, found: dict[str, str]) -> str:
    """One pass from left to right; at each place the longest value that stands there as a whole token."""
    lengths = sorted({len(value) for value in found}, reverse=True)
    word = [False, *(each.isalnum() or each == "_" for each in folded), False]
    edge = [not (left and right) for left, right in pairwise(word)]  # whether a token may begin or end before it
    parts: list[str] = []
    at = 0
    while at < len(text):
        ends = (at + length for length in lengths if at + length <= len(text)) if edge[at] else iter(())
        end = next((end for end in ends if edge[end] and folded[at:end] in found), 0)
        parts.append(f"<{found[folded[at:end]]}>" if end else text[at])
        at = end or at + 1
    return "".join(parts)
