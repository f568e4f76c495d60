"""Redacts what the target said: only words of a known list stay, any other may be personal data."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator, Set
from itertools import groupby, pairwise
from pathlib import Path
from urllib.parse import unquote

LONGEST = 2000  # characters of a message that are looked at; the rest is left out
CUT = "…"  # what a message that was cut short ends with
GONE = "<…>"  # what stands for what is taken out
GREATEST = 1000  # of the numbers that stay: an index or a count within a request; a year is more

_LISTED = Path(__file__).with_name("words.txt").read_text(encoding="utf-8").splitlines()
ALLOWED = frozenset(word for line in _LISTED if not line.startswith("#") for word in line.split())
"""The words that stay, in lower case."""

_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})|\\([/\"\\])")
_LAYERS = 3  # of escapes within escapes
_CHUNK = re.compile(r"[^\s\"'`,;()\[\]{}<>|=]+")
_EDGE = re.compile(r"^([.:!?/#*-]*)(.*?)([.:!?/*-]*)$", re.DOTALL)
_PART = re.compile(r"[-._/:#*]+|(?<=[a-z])(?=[A-Z])")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,3}")
_LOOSE = re.compile(r"[\s()]*")  # between the parts of one phone number, date or name


def unescaped(text: str) -> str:
    """A text without the escapes of JSON, addresses and HTML, also where it was escaped more than once."""
    for _ in range(_LAYERS):
        plain = _ESCAPE.sub(lambda match: match[2] or chr(int(match[1], 16)), text)
        text, before = html.unescape(unquote(plain)), text
        if text == before:
            break
    return text


def redact(message: str, known: Set[str] = ALLOWED) -> str:
    """The message with `<…>` for all but `known` words, in lower case, and single small numbers.

    What is not known to be harmless is taken out: so it does not matter whose value it is, or how it is written.
    """
    cut = message.endswith(CUT) or len(message) > LONGEST
    text = unicodedata.normalize("NFC", unescaped(message[:LONGEST].removesuffix(CUT)))
    tokens = list(_tokens(text, known))
    if cut and tokens and tokens[-1][0] != "between":
        tokens[-1] = ("gone", GONE)  # of a longer word, maybe a name
    parts: list[str] = []
    for joined, group in groupby(tokens, key=lambda token: token[0] in ("gone", "number", "loose")):
        run = list(group)
        marks = [kind for kind, _ in run if kind != "loose"]
        if not joined or marks in ([], ["number"]):
            parts += [token for _, token in run]
        else:  # numbers beside each other, or beside what is taken out, are parts of it
            parts += [*_loose(run[:1]), GONE, *_loose(run[-1:])]
    return "".join(parts) + CUT * cut


def _loose(run: list[tuple[str, str]]) -> list[str]:
    return [token for kind, token in run if kind == "loose"]


def _tokens(text: str, known: Set[str]) -> Iterator[tuple[str, str]]:
    """The text in pieces, each with its kind: word, number, gone, and what stands between them: loose or between."""
    at = 0
    for match in _CHUNK.finditer(text):
        before, chunk, behind = _edges(match[0])
        yield from _between(text[at : match.start()] + before)
        if chunk:
            yield _kind(chunk, known), chunk
        yield from _between(behind)
        at = match.end()
    yield from _between(text[at:])


def _edges(chunk: str) -> tuple[str, str, str]:
    found = _EDGE.match(chunk)
    return (found[1], found[2], found[3]) if found else ("", chunk, "")


def _between(text: str) -> Iterator[tuple[str, str]]:
    if text:
        yield "loose" if _LOOSE.fullmatch(text) else "between", text


def _kind(chunk: str, words: Set[str]) -> str:
    parts = [part for part in _PART.split(chunk) if part]
    numbers = [bool(_NUMBER.fullmatch(part)) and int(part) <= GREATEST for part in parts]
    if numbers == [True]:
        return "number"
    dated = any(one and other for one, other in pairwise(numbers))
    known = all(number or part.lower() in words for number, part in zip(numbers, parts, strict=True))
    return "word" if known and parts and not dated else "gone"
