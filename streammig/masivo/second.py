"""What of a record matters to a second export: a customer's profile, and when events were issued."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

OWNERS = "customers"
COUNTED = "events"  # of which any number may come
# What the target computes, or what moves by itself: the update call is not for these.
MOVING = ("balance", "metrics", "devices")


class _Event(msgspec.Struct):
    issued_at: datetime


class _Events(msgspec.Struct):
    events: list[_Event]


_EVENTS = msgspec.json.Decoder(_Events)


def issued(body: bytes) -> Sequence[float]:
    """When each event of a record was issued, in seconds since the epoch."""
    return [it.issued_at.timestamp() for it in _EVENTS.decode(body).events]


def profile(body: bytes) -> dict[str, Any]:
    """What the update call may change of a customer."""
    sent = msgspec.json.decode(body, type=dict[str, Any])
    return {name: value for name, value in sorted(sent.items()) if name not in MOVING}


def profile_hash(body: bytes) -> bytes:
    return hashlib.blake2b(msgspec.json.encode(profile(body)), digest_size=16).digest()
