"""In which fields what Masivo shows of a customer is not what was sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec

from streammig.masivo.compare import UNREADABLE_LOTS, Lot, balances, differing
from streammig.model import ZERO
from streammig.target import DIFFERS, LESS, MISSING, MORE, UNREADABLE, Difference

GONE = Difference("", MISSING)
# Of a transaction: reward, type, amount, and the second at which it was issued.
Dated = tuple[str, str, Decimal, float]


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
