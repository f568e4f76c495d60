"""Validation of one record's bytes: RFC 8259 in UTF-8 without lone surrogates."""

from __future__ import annotations

import re

import msgspec

WHITE = b" \t\n\r"
TOO_LARGE, TOO_DEEP = "too-large", "too-deep"
INVALID_JSON, INVALID_UTF8, LONE_SURROGATE = "invalid-json", "invalid-utf8", "lone-surrogate"

RAW = msgspec.json.Decoder(msgspec.Raw)
_AT = re.compile(r" \(byte (\d+)\)$")

Fault = tuple[int, str, str]
"""The record's full length in bytes, a code, and a message, without a value of the record."""


def decodes(data: bytes) -> bool:
    """Tell whether the bytes are one JSON value by grammar and escapes; UTF-8 is not checked."""
    try:
        RAW.decode(data)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def check_record(data: bytes) -> tuple[str, str]:
    """Check a record's bytes; return a code and a message, ("", "") if they are valid."""
    try:
        RAW.decode(data)
    except RecursionError:
        return TOO_DEEP, "the record is nested too deeply for the parser"
    except msgspec.DecodeError as error:
        at, why = place_of(error, len(data))
        if not decodes(without_surrogates(data)):
            return INVALID_JSON, f"no valid JSON at byte {at + 1} of the record: {why}"
        code = LONE_SURROGATE
        fault = f"an escaped surrogate near byte {at + 1} of the record lacks its other half"
    else:
        code = fault = ""
    if bad := utf8_fault(data):
        return INVALID_UTF8, bad
    return code, fault


def too_large(length: int, limit: int) -> Fault:
    return length, TOO_LARGE, f"the record has {length} bytes, the limit is {limit}"


def utf8_fault(data: bytes) -> str:
    """Return a message about invalid UTF-8 in a record; "" if it is valid."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return f"byte {error.start + 1} of the record belongs to no valid UTF-8 sequence"
    return ""


def is_utf8(data: bytes) -> bool:
    return data.isascii() or not utf8_fault(data)


def is_cut_off(data: bytes) -> bool:
    """Tell whether the bytes are truncated JSON."""
    try:
        RAW.decode(data)
    except RecursionError:
        return False
    except msgspec.DecodeError as error:
        return bool(data) and _AT.search(str(error)) is None  # only the message for truncated input names no byte
    return False


def place_of(error: msgspec.DecodeError, length: int) -> tuple[int, str]:
    """Return the index of the byte where a decoder failed, and why; `length` if the input was truncated."""
    text = str(error)
    found = _AT.search(text)
    if found is None:
        return length, "it ends too early"
    return int(found[1]), text[: found.start()].removeprefix("JSON is malformed: ")


def without_surrogates(data: bytes) -> bytes:
    """Replace the escapes of surrogates by others of the same length, for a check of the grammar alone.

    An escaped backslash before `ud` changes, too, into another valid string.
    """
    return data.replace(b"\\ud", b"\\u0").replace(b"\\uD", b"\\u0")
