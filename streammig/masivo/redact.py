"""Replaces the values of a request's records, where a message repeats them, by the names of their fields."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

LONGEST = 2000  # characters of a message that are looked at; the rest is left out
SHORTEST = 3  # a value of one or two characters stands in any text
CUT = "…"  # what a message that was cut short ends with

# Their values are words of the API, which a person needs to read.
_ENUMS = frozenset({"type", "gender", "payment_method", "platform", "status", "fulfilled"})
_FREE = frozenset({"metadata", "tags"})
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")


def redact(message: str, body: bytes) -> str:
    """The message without any value of the body's records: `<email>` stands where an e-mail of them stood.

    Whole tokens, whatever their case, the longest first; strings and numbers of three characters or more. Takes time
    in proportion to the body, whatever the message.
    """
    cut = message.endswith(CUT) or len(message) > LONGEST
    text = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), message[:LONGEST].removesuffix(CUT))
    # lower() may lengthen a text (a dotted capital I does); what does not keep its length is compared as it is.
    folded = text.lower() if len(text.lower()) == len(text) else text
    try:
        leaves = json.loads(body, parse_int=str, parse_float=str)  # numbers as the text they were sent as
    except (ValueError, RecursionError):
        return "(a message that may repeat what was sent)" if message else ""
    found: dict[str, str] = {}
    for name, value in _values(leaves):
        if len(value) < SHORTEST or value in found:
            continue
        if value in folded:
            found[value] = name
        elif cut and (tail := _beginning_at_the_end(value, folded)):
            found.setdefault(tail, name)
    return _replaced(text, folded, found) + CUT * cut


def _values(root: Any) -> Iterator[tuple[str, str]]:
    """Every value with its field's name, folded."""
    stack: list[tuple[str, bool, Any]] = [("value", False, root)]
    while stack:
        name, free, value = stack.pop()
        if isinstance(value, dict):
            for key, member in value.items():
                below = free or key in _FREE
                stack.append((name if free else key, below, member))
        elif isinstance(value, list):
            stack.extend((name, free, member) for member in value)
        elif isinstance(value, str):
            if free or name not in _ENUMS:
                yield name, " ".join(value.split()).lower()
            if "." in value:  # 12.50 comes back as 12.5
                yield name, value.rstrip("0").rstrip(".")


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
