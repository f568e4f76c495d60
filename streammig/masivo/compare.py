"""Whether what Masivo shows under a customer's id is what was sent for that customer."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec

from streammig.model import Sums, total

# What is shown of what was sent. Not the country, whose form is the target's own; nor the metrics, which it
# computes from the events.
TEXTS = ("name", "email", "gender", "document_type", "document_number")
MOMENTS = ("registration_date", "dob")
DAY = len("2020-01-01")


class _Lot(msgspec.Struct):
    reward_id: str
    amount: Decimal
    expiration_date: datetime | None = None


class _Sent(msgspec.Struct):
    balance: list[_Lot] | None = None


class _Wallet(msgspec.Struct):
    lines: list[_Lot] | None = None


def is_as_sent(body: bytes, shown: Mapping[str, Any], wallet: bytes, now: float) -> bool:
    """Whether a customer that is shown, with its wallet as JSON, is the one that `body` was sent as.

    Only what was sent and is shown can differ; what is shown in a form that can't be read does. Case, white space and
    the way a moment is written are the target's own; lots that have expired (`now` is in seconds since the epoch)
    count on neither side.
    """
    sent = msgspec.json.decode(body, type=dict[str, Any])
    return (
        all(same_text(sent.get(name), shown.get(name)) for name in TEXTS)
        and all(same_moment(sent.get(name), shown.get(name)) for name in MOMENTS)
        and _same(bool, sent.get("is_anonymous"), shown.get("is_anonymous"))
        and _same_balance(body, wallet, datetime.fromtimestamp(now, UTC))
    )


def _same(form: Any, sent: Any, shown: Any) -> bool:
    return sent is None or shown is None or form(sent) == form(shown)


def same_text(sent: Any, shown: Any) -> bool:
    """But for case and white space."""
    return _same(_folded, sent, shown)


def _folded(text: Any) -> str:
    return " ".join(unicodedata.normalize("NFKC", str(text)).split()).casefold()


def same_moment(sent: Any, shown: Any) -> bool:
    """To the second, for not everybody keeps more. A day alone is the day as it was written, or that of UTC, and a
    moment without a zone is likewise."""
    if sent is None or shown is None:
        return True
    try:
        left, right = datetime.fromisoformat(sent), datetime.fromisoformat(shown)
        if DAY in (len(sent), len(shown)):
            return not {it.date() for it in _readings(left)}.isdisjoint(it.date() for it in _readings(right))
        if left.tzinfo is not None and right.tzinfo is not None:
            return _at_once(left, right)
        return any(_at_once(one, other) for one in _readings(left) for other in _readings(right))
    except (TypeError, ValueError, OverflowError):
        return False  # shown in a form that says nothing to us


def _readings(moment: datetime) -> Iterable[datetime]:
    """As it was written, and in UTC."""
    written = moment.replace(tzinfo=UTC)
    return (written,) if moment.tzinfo is None else (written, moment.astimezone(UTC))


def _at_once(one: datetime, other: datetime) -> bool:
    return abs((one - other).total_seconds()) < 1


def _same_balance(body: bytes, wallet: bytes, now: datetime) -> bool:
    sent = msgspec.json.decode(body, type=_Sent).balance
    if sent is None or wallet in (b"", b"null"):
        return True  # not sent, or not shown
    try:
        shown = msgspec.json.decode(wallet, type=_Wallet).lines
        return shown is None or _totals(sent, now) == _totals(shown, now)
    except (msgspec.MsgspecError, ArithmeticError):
        return False  # in a form that says nothing to us


def _totals(lots: Iterable[_Lot], now: datetime) -> Sums:
    """By reward, for how the target parts a wallet into lines is its own; without zeros."""
    return total((lot.reward_id.lower(), lot.amount) for lot in lots if not is_expired(lot.expiration_date, now))


def is_expired(at: datetime | None, now: datetime) -> bool:
    return at is not None and (at if at.tzinfo is not None else at.replace(tzinfo=UTC)) <= now
