"""In which fields what Masivo shows of a customer is not what was sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec

from streammig.masivo.compare import MOMENTS, TEXTS, is_expired, same_moment, same_text
from streammig.model import EXACT, ZERO
from streammig.target import DIFFERS, LESS, MISSING, MORE, UNREADABLE, Difference

GONE = Difference("", MISSING)
# Of a transaction: reward, type, amount, and the second at which it was issued.
Dated = tuple[str, str, Decimal, float]


class _Lot(msgspec.Struct):
    reward_id: str
    amount: Decimal
    brand_id: str | None = None
    expiration_date: datetime | None = None


class _Sent(msgspec.Struct):
    balance: list[_Lot] | None = None


class _Wallet(msgspec.Struct):
    lines: list[_Lot] | None = None


def of_customer(body: bytes, shown: Mapping[str, Any], wallet: bytes, now: float) -> list[Difference]:
    """Of a customer that was sent as `body`. A field that was not sent, or is not shown, can't differ.

    Amounts are compared in decimals, by reward and brand. Lots that have expired (`now` is in seconds since the epoch)
    count on neither side.
    """
    sent = msgspec.json.decode(body, type=dict[str, Any])
    found = [_differs(name, sent, shown) for name in TEXTS if not same_text(sent.get(name), shown.get(name))]
    found += [_differs(name, sent, shown) for name in MOMENTS if not same_moment(sent.get(name), shown.get(name))]
    return [*found, *_of_balance(body, wallet, datetime.fromtimestamp(now, UTC))]


def _differs(name: str, sent: Mapping[str, Any], shown: Mapping[str, Any]) -> Difference:
    return Difference(name, DIFFERS, str(sent.get(name)), str(shown.get(name)))


def _of_balance(body: bytes, wallet: bytes, now: datetime) -> Iterator[Difference]:
    lots = msgspec.json.decode(body, type=_Sent).balance
    if lots is None or wallet in (b"", b"null"):
        return
    try:
        lines = msgspec.json.decode(wallet, type=_Wallet).lines
    except (msgspec.MsgspecError, ArithmeticError):
        yield Difference("balance", UNREADABLE)
        return
    if lines is None:
        return
    sent, shown = _totals(lots, now), _totals(lines, now)
    for key in sorted(sent.keys() | shown.keys()):
        before, after = sent.get(key, ZERO), shown.get(key, ZERO)
        if before != after:
            yield _number("balance " + " ".join(filter(None, key)), before, after)


def _totals(lots: Iterable[_Lot], now: datetime) -> dict[tuple[str, str], Decimal]:
    sums: dict[tuple[str, str], Decimal] = {}
    for lot in lots:
        if not is_expired(lot.expiration_date, now):
            key = lot.reward_id.lower(), lot.brand_id or ""
            sums[key] = EXACT.add(sums.get(key, ZERO), lot.amount)
    return sums


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
