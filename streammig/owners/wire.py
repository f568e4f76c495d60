"""The messages between a census and its child process: a length and a msgpack body, over pipes."""

from __future__ import annotations

from typing import IO, TypeVar

import msgspec

from streammig.owners.layout import About
from streammig.records import Place

Entry = tuple[int, int, int, int, str, str, str]
"""Place (source, offset, unit, ordinal), owner, twin or "", and the reason if this is no record but an absent owner."""


class Begin(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The first message: what to build and with how much memory."""

    folder: str
    key: bytes
    bits: int
    memory_bytes: int
    threads: int
    first_wins: bool


class Add(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """More entries in reading order; not answered."""

    entries: list[Entry]


class Find(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """All entries are there: look for candidates. Answered by `Found`."""


class More(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Answered by the next `Page` of candidates."""


class Keys(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The owners and twins at the next of the places that were given out; not answered."""

    keys: list[tuple[str, str]]


class Conclude(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Write the table. Answered by `Done`."""

    about: About


class Found(msgspec.Struct, frozen=True, tag=True, array_like=True):
    candidates: int


class Page(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Places whose keys are wanted; none: there are no more."""

    places: list[Place]


class Done(msgspec.Struct, frozen=True, tag=True, array_like=True):
    about: About


class Fault(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The child gives up: why, in words for people, and whether the export is to blame rather than the machine."""

    what: str
    hint: str
    changed: bool = False


Request = Begin | Add | Find | More | Keys | Conclude
Answer = Found | Page | Done | Fault
T = TypeVar("T")


def send(pipe: IO[bytes], message: Request | Answer) -> None:
    body = msgspec.msgpack.encode(message)
    pipe.write(len(body).to_bytes(4, "little"))
    pipe.write(body)
    pipe.flush()


def receive(pipe: IO[bytes], decoder: msgspec.msgpack.Decoder[T]) -> T | None:
    """The next message, or None where the pipe ends, also within one."""
    head = pipe.read(4)
    if len(head) < 4:
        return None
    length = int.from_bytes(head, "little")
    body = pipe.read(length)
    return decoder.decode(body) if len(body) == length else None
