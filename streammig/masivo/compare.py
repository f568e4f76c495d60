"""Whether what Masivo shows is what was sent, and in which fields it differs."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec

from streammig.model import ZERO, Sums, total
from streammig.target import DIFFERS, LESS, MISSING, MORE, UNREADABLE, Difference

# What is shown of what was sent. Not the country, whose form is the target's own; nor the metrics, which it
# computes from the events.
TEXTS = ("name", "email", "gender", "document_type", "document_number")
MOMENTS = ("registration_date", "dob")
DAY = len("2020-01-01")
UNREADABLE_LOTS = (msgspec.MsgspecError, ArithmeticError)  # what a wallet of another form raises

GONE = Difference("", MISSING)
# Of a transaction: reward, type, amount, and the second at which it was issued.
Dated = tuple[str, str, Decimal, float]


class Lot(msgspec.Struct):
    """One lot of a balance, or a line of a wallet."""

    reward_id: str
    amount: Decimal
    brand_id: str | None = None
    expiration_date: datetime | None = None


class _Sent(msgspec.Struct):
    balance: list[Lot] | None = None


class _Wallet(msgspec.Struct):
    lines: list[Lot] | None = None


def is_as_sent(body: bytes, shown: Mapping[str, Any], wallet: bytes, now: float) -> bool:
    """Whether a customer that is shown, with its wallet as JSON, is the one that `body` was sent as.

    Only what was sent and is shown can differ; what is shown in a form that can't be read does. Case, white space and
    the way a moment is written are the target's own; lots that have expired (`now` is in seconds since the epoch)
    count on neither side.
    """
    sent = msgspec.json.decode(body, type=dict[str, Any])
    if differing(sent, shown) or not _same(bool, sent.get("is_anonymous"), shown.get("is_anonymous")):
        return False
    try:
        found = balances(body, wallet, now, lambda lot: lot.reward_id.lower())
    except UNREADABLE_LOTS:
        return False  # in a form that says nothing to us
    return found is None or found[0] == found[1]


def differing(sent: Mapping[str, Any], shown: Mapping[str, Any]) -> list[str]:
    """The fields of a customer, but for its balance, in which what is shown is not what was sent."""
    found = [name for name in TEXTS if not _same(_folded, sent.get(name), shown.get(name))]
    return found + [name for name in MOMENTS if not same_moment(sent.get(name), shown.get(name))]


def _same(form: Any, sent: Any, shown: Any) -> bool:
    return sent is None or shown is None or form(sent) == form(shown)


def _folded(text: Any) -> str:
    """But for case and white space."""
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


def balances(body: bytes, wallet: bytes, now: float, key: Callable[[Lot], str]) -> tuple[Sums, Sums] | None:
    """What was sent and what is shown, each summed up by `key` without zeros; None where one of them is not there. Lots
    that have expired (`now` is in seconds since the epoch) count on neither side. Raises `UNREADABLE_LOTS`."""
    sent = msgspec.json.decode(body, type=_Sent).balance
    shown = (
        msgspec.json.decode(wallet, type=_Wallet).lines if sent is not None and wallet not in (b"", b"null") else None
    )
    if sent is None or shown is None:
        return None
    moment = datetime.fromtimestamp(now, UTC)
    both = ([(key(lot), lot.amount) for lot in lots if not is_expired(lot.expiration_date, moment)]
            for lots in (sent, shown))  # fmt: skip
    before, after = map(total, both)
    return before, after


def is_expired(at: datetime | None, now: datetime) -> bool:
    return at is not None and (at if at.tzinfo is not None else at.replace(tzinfo=UTC)) <= now


def of_customer(body: bytes, shown: Mapping[str, Any], wallet: bytes, now: float) -> list[Difference]:
    """Of a customer that was sent as `body`. A field that was not sent, or is not shown, can't differ.

    Amounts are compared in decimals, by reward and brand. Lots that have expired (`now` is in seconds since the epoch)
    count on neither side.
    """
    sent = msgspec.json.decode(body, type=dict[str, Any])
    found = [Difference(name, DIFFERS, str(sent[name]), str(shown[name])) for name in differing(sent, shown)]
    try:
        both = balances(body, wallet, now, _name)
    except UNREADABLE_LOTS:
        return [*found, Difference("balance", UNREADABLE)]
    before, after = both or ({}, {})
    rows = [(key, before.get(key, ZERO), after.get(key, ZERO)) for key in sorted(before.keys() | after.keys())]
    return found + [_number(f"balance {key}", was, now_is) for key, was, now_is in rows if was != now_is]


def _name(lot: Lot) -> str:
    return " ".join(filter(None, (lot.reward_id.lower(), lot.brand_id)))


def of_count(field: str, sent: int, shown: Decimal) -> list[Difference]:
    """Of something that is only counted, like purchases."""
    return [] if shown == sent else [_number(field, Decimal(sent), shown)]


def of_transactions(sent: Counter[Dated], shown: Counter[Dated]) -> list[Difference]:
    """Of the transactions of one customer, a difference for each year of UTC. What was not sent may have come since."""
    if not sent & shown:
        alike = {key[:3] for key in sent} & {key[:3] for key in shown}
        # At another moment: not what was sent, but it is no proof that nothing is there.
        return [Difference("transactions", DIFFERS)] if alike else [GONE]
    years: dict[int, list[int]] = {}
    for key in sent:
        year = years.setdefault(datetime.fromtimestamp(key[3], UTC).year, [0, 0])
        year[0] += sent[key]
        year[1] += shown[key]
    found = []
    for number, (before, after) in sorted(years.items()):
        found += of_count(f"transactions of {number}", before, Decimal(after))
    return found


def _number(field: str, sent: Decimal, shown: Decimal) -> Difference:
    return Difference(field, LESS if shown < sent else MORE, f"{sent:f}", f"{shown:f}")
