"""What an export means for a Masivo account: what is not there, what is too much, and what costs money later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from streammig.masivo.http import NoAnswer
from streammig.masivo.session import Session

MOST = {"rewards": 1_000, "tiers": 10, "stores": 1_000, "channels": 50, "brands": 200, "event-types": 50}
"""What one account holds at most, as its documentation gives it."""
BUILT_IN = frozenset({"PURCHASE"})  # a type of event that every account has
CONSENT = frozenset({"consent", "consents", "optin", "optout", "marketingconsent", "acceptsmarketing", "newsletter"})
WRONG = frozenset({"too-many-resources", "unknown-rewards", "unknown-tiers"})  # what can't go well as it is
SHOWN = 5
PAGE = 100  # rewards to a read

Mentioned = Mapping[str, Mapping[str, Mapping[str, int]]]
"""Stage, kind of thing, which one: how many records mention it."""


class Advice(NamedTuple):
    """Something to look at: a stable code, and words without a value of a person."""

    code: str
    what: str


def advice(mentioned: Mentioned, filtered: Mapping[str, int], dropped: Mapping[str, int]) -> Iterator[Advice]:
    """What the export alone tells. `filtered` are counts by reason, `dropped` by field, of all stages."""
    for kind, most in MOST.items():
        found = {each for stage in mentioned.values() for each in stage.get(kind, ())}
        count = len(found - BUILT_IN if kind == "event-types" else found)
        if count > most:
            yield Advice("too-many-resources", f"{kind}: {count:,} are mentioned, and an account holds {most:,}")
    metrics = mentioned.get("customers", {}).get("remarks", {}).get("metrics", 0)
    if metrics and "events" in mentioned:
        said = f"customers with metrics: {metrics:,}, and there are events too: spending may count double"
        yield Advice("metrics-and-events", f"{said}. Send one of the two")
    for name, stage in mentioned.items():
        if old := stage.get("remarks", {}).get("old", 0):
            yield Advice("not-readable", f"{name}: from before 2020, so they can't be read back: {old:,}")
    if "expired-lots" in filtered:
        yield Advice("lots-expired", "lots of balances have expired, and are not sent: see the sums in the document")
    lost = {path: count for path, count in dropped.items() if _folded(path) in CONSENT}
    for path, count in lost.items():
        said = f"{path}: customers that say something about consent: {count:,}. The target has no field for it"
        yield Advice("consent-dropped", f"{said}: who opted out counts as opted in, until it is told by other means")


def _folded(path: str) -> str:
    return path.removeprefix("$.").split(".")[0].replace("_", "").replace("-", "").lower()


async def at_account(session: Session, mentioned: Mentioned) -> list[Advice]:
    """Which rewards and tiers that the export mentions the account does not have. Raises `TargetStop`."""
    found = []
    for kind in ("rewards", "tiers"):
        wanted = {each for stage in mentioned.values() for each in stage.get(kind, ())}
        there = await (_rewards(session) if kind == "rewards" else _ids(session, "/tiers", {})) if wanted else set()
        if there is None:
            found.append(Advice("account-not-read", f"{kind} of the account can't be read: they were not compared"))
        elif missing := sorted(wanted - there):
            shown = ", ".join(missing[:SHOWN]) + (" ..." if len(missing) > SHOWN else "")
            code = "unknown-rewards" if kind == "rewards" else "unknown-tiers"
            found.append(Advice(code, f"{kind} that the account does not have: {len(missing):,}: {shown}"))
    return found


async def _rewards(session: Session) -> set[str] | None:
    found: set[str] = set()
    while len(found) <= MOST["rewards"]:
        begin = len(found)
        more = await _ids(session, "/rewards", {"from": str(begin), "to": str(begin + PAGE - 1)})
        if more is None:
            return None
        found |= more
        if len(found) < begin + PAGE:
            break
    return found


async def _ids(session: Session, path: str, query: Mapping[str, str]) -> set[str] | None:
    """The ids that a read lists; None where the answer is no list."""
    answer = await session.get(path, query)
    if isinstance(answer, NoAnswer) or answer.status != 200:
        return None
    try:
        listed = msgspec.json.decode(answer.body, type=_Listed)
    except msgspec.MsgspecError:
        return None
    return {each.id.lower() for each in listed.data}


class _One(msgspec.Struct):
    id: str


class _Listed(msgspec.Struct):
    data: list[_One]
