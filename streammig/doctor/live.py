"""Open questions of the target's contract, put to a real account with made-up customers, in at most ten permits."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

import msgspec

from streammig.address import is_loopback
from streammig.clock import SystemClock
from streammig.doctor import NOTE, OK, WRONG, Finding
from streammig.doctor.way import account
from streammig.errors import TargetStop, Unusable
from streammig.masivo.client import MasivoClient
from streammig.masivo.http import NoAnswer
from streammig.masivo.limits import DAY, PRESETS
from streammig.masivo.session import Session
from streammig.model import Kind, Receipt
from streammig.ratelimit import RateLimiter, parse_limits
from streammig.settings import Settings

MOST_PERMITS = 10
LOOK_AGAIN = 2.0  # seconds between two looks for what was accepted
ANY_REWARD = "6d1f6c1e-2f0b-4e55-9a53-7c1a5d0e4b21"  # where the account shows none
SENT_PURCHASES = 40  # in the metrics of a customer
Say = Callable[[str], None]


def check_live(settings: Settings) -> str:
    """The host that would be asked. Raises `Unusable` unless the settings say that it is a Dev account: nothing that is
    made up belongs into a production account. A stand-in on this machine is as good."""
    host = urlsplit(settings.base_url).hostname or ""
    daily = any(window.seconds == DAY for window in parse_limits(settings.limits, PRESETS).general)
    if not daily and not is_loopback(host):
        raise Unusable(
            "live-needs-dev",
            f"--live sends made-up customers, and the limits of these settings are not those of a Dev account: {host}",
            'Use the key of a Dev account, and set limits = "dev".',
        )
    return host


async def examine_answers(
    settings: Settings, environment: Mapping[str, str], say: Say
) -> AsyncGenerator[Finding, None]:
    """One finding for each question, as soon as it is answered. `say` is told in words what is waited for.

    Raises the `Problem` that ends it, among them `TargetStop` where a request is not answered as any is.
    """
    async with account(settings, environment) as (session, limiter):
        live = _Live(settings=settings, session=session, limiter=limiter, say=say)
        async for finding in live.ask():
            yield finding


@dataclass(slots=True)
class _Live:
    """The made-up customers, and what was answered of them. Each has a letter, behind a name that no other call has."""

    settings: Settings
    session: Session
    limiter: RateLimiter
    say: Say
    name: str = field(default_factory=lambda: f"streammig-doctor-{secrets.token_hex(4)}")
    reward: str = ANY_REWARD
    permits: int = 0
    rates: list[float] = field(default_factory=list)
    client: MasivoClient = field(init=False)

    def __post_init__(self) -> None:
        self.client = MasivoClient(self.session, SystemClock(), self.observe)

    async def observe(
        self, limit: float | None, remaining: float | None, reset: float | None, age: float = 0.0
    ) -> None:
        """Keep the limit that an answer to a migration request names, and obey it."""
        self.rates += [limit] if limit is not None else []
        await self.limiter.observe(limit, remaining, reset, age)

    async def ask(self) -> AsyncGenerator[Finding, None]:
        yield await self._absence()
        if rewards := (await self._get("/rewards", {"from": "0", "to": "0", "type": "POINTS"}))[1].get("data"):
            self.reward = rewards[0].get("id", ANY_REWARD)
        yield self._answer(
            await self._post("customers", self._customer("a", 10), self._customer("b", 5), self._customer("m", 7.25))
        )
        yield self._headers()
        extra = await self._post("customers", self._customer("u") | {"streammig_doctor": True})
        mixed = await self._post("customers", self._customer("good"), self._customer("bad") | {"email": "none"})
        again = await self._post("customers", self._customer("a", 10), self._customer("w") | {"metrics": _metrics()})
        twice = await self._post("customers", self._customer("t"), self._customer("t"))
        await self._settle()
        await self._post("customers", self._customer("e") | {"email": self._customer("b")["email"]})
        await self._post("transactions", self._history("b", 5), self._history("m", 3))
        events = self._event("a", "1"), self._event("w", "2"), self._event("stranger", "s")
        strange = await self._post("events", *events)
        await self._post("events", events[0])
        second = await self._post("transactions", self._history("b", 5))
        await self._settle()
        yield await self._unknown_field(extra)
        yield await self._mixed(mixed)
        yield await self._repeated(again)
        yield self._twice(twice)
        yield await self._one_email()
        yield await self._decimals()
        yield await self._balance()
        yield await self._moved()
        yield await self._once(second)
        yield await self._stranger(strange)
        if strange.kind is Kind.ACCEPTED:
            yield await self._same_purchase()
            yield await self._recounted()
        yield await self._entry()

    # -- what is sent ------------------------------------------------------------------------------------------------

    def _id(self, letter: str) -> str:
        return f"{self.name}-{letter}"

    def _customer(self, letter: str, amount: float = 0) -> dict[str, Any]:
        id_ = self._id(letter)
        lot = {"reward_id": self.reward, "amount": amount, "expiration_date": None, "brand_id": None}
        return {
            "id": id_, "name": f"Streammig Doctor {letter}", "email": f"{id_}@example.com",
            "registration_date": _now(), "balance": [lot] if amount else [],
        }  # fmt: skip

    def _event(self, letter: str, number: str) -> dict[str, Any]:
        order = {"purchase_id": f"{self.name}-{number}", "value": 1, "discounted_value": 1, "products": []}
        dates = {"fulfilled": True, "issued_at": _now(), "resolved_at": _now()}
        event = {"type": "PURCHASE", "brand_id": None, "order": order | {"payment_method": "OTHER"}}
        return {"id": self._id(letter), "events": [event | dates]}

    def _history(self, letter: str, amount: int) -> dict[str, Any]:
        what = {"reward_id": self.reward, "brand_id": None, "type": "ACCUMULATION", "amount": amount}
        entry = what | {"details": "streammig doctor", "issued_at": _now(), "resolved_at": _now()}
        entry |= dict.fromkeys(("cost", "store_id", "channel_id", "event"))
        return {"id": self._id(letter), "transactions": [entry]}

    async def _post(self, stage: str, *elements: Mapping[str, Any]) -> Receipt:
        """One request, under the account's limits. Its receipt is one of yes, no, or a yes that is not clear."""
        assert self.permits < MOST_PERMITS, "no more requests than were agreed on"
        self.permits += 1
        permit = await self.limiter.acquire()
        receipt = await self.client.send(stage, msgspec.json.encode({"customers": elements}), permit.sent)
        permit.unsent()
        if receipt.kind not in (Kind.ACCEPTED, Kind.REJECTED) and (receipt.status or 0) // 100 != 2:
            said = f"request {self.permits} ({stage}) was answered with {receipt.status or receipt.code}"
            raise TargetStop("live-stopped", said, "Nothing more was sent. Call it again later.")
        return receipt

    # -- what is seen ------------------------------------------------------------------------------------------------

    async def _get(self, path: str, query: Mapping[str, str] | None = None) -> tuple[int, dict[str, Any]]:
        """Status and body of a read; 0 where none came, {} where it is no object."""
        answer = await self.session.get(path, query)
        if isinstance(answer, NoAnswer):
            return 0, {}
        try:
            found = msgspec.json.decode(answer.body)
        except msgspec.MsgspecError:
            found = None
        return answer.status, found if isinstance(found, dict) else {}

    async def _shown(self, letter: str) -> dict[str, Any] | None:
        """What is shown of a customer, None without one."""
        status, found = await self._get(f"/customers/{self._id(letter)}")
        data = found.get("data")
        shown = isinstance(data, dict) and isinstance(data.get("customer"), dict)
        return data if status == 200 and shown else None

    async def _entries(self, letter: str) -> list[str]:
        """The types of a customer's transactions of this year."""
        year = str(datetime.now(UTC).year)
        _, found = await self._get(f"/customers/{self._id(letter)}/transactions", {"year": year})
        rows = found.get("data")
        return [str(row.get("type")) for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []

    async def _held(self, letter: str) -> Decimal:
        """What a customer's wallet holds."""
        lines = ((await self._shown(letter) or {}).get("wallet") or {}).get("lines") or []
        return sum((Decimal(str(line.get("amount", 0))) for line in lines), Decimal(0))

    async def _purchases(self, letter: str) -> Any:
        metrics = ((await self._shown(letter) or {}).get("customer") or {}).get("metrics") or {}
        return (metrics.get("lifetime") or {}).get("number_of_purchases")

    async def _settle(self) -> None:
        """Until the first customer is visible, and a settle time more."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self.settings.visible_time
        while await self._shown("a") is None:
            if loop.time() > end:
                raise TargetStop("live-invisible", "a made-up customer was accepted and can't be seen", "Try later.")
            self.say("waiting until the first made-up customer can be seen")
            await asyncio.sleep(min(LOOK_AGAIN, max(self.settings.settle_time, 0.01)))
        self.say(f"waiting for the target's queue: {self.settings.settle_time:g} s")
        await asyncio.sleep(self.settings.settle_time)

    # -- the questions -----------------------------------------------------------------------------------------------

    async def _absence(self) -> Finding:
        status, _ = await self._get(f"/customers/{self._id('nobody')}")
        if status == 404:
            return Finding("absent-customer", OK, "a read of a customer who is not there answers 404, as assumed")
        do = 'A read-back can\'t tell what is missing. Set unknown = "park" in each stage.'
        return Finding("absent-customer", WRONG, f"it answers {status or 'nothing'}; 404 was assumed", do)

    def _answer(self, receipt: Receipt) -> Finding:
        said = f"customers were answered with {receipt.status}"
        if receipt.kind is not Kind.ACCEPTED:
            do = "Look at the words of the answer, and set accepted_if or refused_if."
            return Finding("accepted-answer", WRONG, f"{said}, which does not read as a yes ({receipt.code})", do)
        if receipt.unjudged:
            names = ", ".join(receipt.unjudged)
            return Finding("accepted-answer", NOTE, f"{said}, with {names}", "Does one say no? Set refused_if.")
        return Finding("accepted-answer", OK, f"{said}, which reads as a yes, as assumed")

    def _headers(self) -> Finding:
        limits = parse_limits(self.settings.limits, PRESETS)
        ours = {window.count for window in limits.migration}
        if not self.rates:
            said, do = "answers to migration requests name no limit", "Nothing needs to change: the limits are kept."
            return Finding("limit-headers", NOTE, said, do)
        if self.rates[-1] in ours:
            said = f"answers to migration requests name a migration limit ({self.rates[-1]:g}), as assumed"
            return Finding("limit-headers", OK, said)
        said = f"answers to migration requests name a limit of {self.rates[-1]:g}, which is no migration limit of yours"
        return Finding("limit-headers", NOTE, said, "Compare it with limits. Headers may only slow a run down.")

    def _twice(self, receipt: Receipt) -> Finding:
        if receipt.kind is not Kind.ACCEPTED:
            said = "a request with one customer twice is refused, as assumed"
            return Finding("twice-in-a-request", OK, said)
        do = "Nothing needs to change: no request has a customer twice."
        return Finding("twice-in-a-request", NOTE, "a request with one customer twice is taken", do)

    async def _decimals(self) -> Finding:
        if (held := await self._held("m")) == Decimal("7.25"):
            return Finding("amount-decimals", OK, "an amount keeps two decimals, as assumed")
        do = "Set fraction_digits to the decimals that are kept, and see what check says."
        return Finding("amount-decimals", WRONG, f"an amount of 7.25 is shown as {held:f}", do)

    async def _moved(self) -> Finding:
        if (held := await self._held("b")) == 5:
            return Finding("history-and-wallet", OK, "a history leaves the wallet as it is, as assumed")
        do = "Do not send balances and transactions both. Ask Masivo which of them makes the wallet."
        said = f"a wallet of 5 with a history of 5 is shown with {held:f}"
        return Finding("history-and-wallet", WRONG, said, do)

    async def _recounted(self) -> Finding:
        count = await self._purchases("w")
        if count == 1:
            return Finding("metrics-and-events", OK, "events replace the metrics that were sent, as assumed")
        if count is None:
            do = "Nothing needs to change. Call it again later to learn more."
            return Finding("metrics-and-events", NOTE, "no metrics are shown of a customer sent with them", do)
        do = "Send metrics or the whole purchase history, not both."
        said = f"a customer sent with {SENT_PURCHASES} purchases and one event is shown with {count}"
        return Finding("metrics-and-events", NOTE, said, do)

    async def _unknown_field(self, receipt: Receipt) -> Finding:
        if receipt.kind is not Kind.ACCEPTED:
            told = WRONG if self.settings.unknown_fields == "send" else NOTE
            return Finding("unknown-field", told, "an unknown field is refused", 'Keep unknown_fields = "drop".')
        if await self._shown("u") is None:
            return Finding("unknown-field", WRONG, "its customer is dropped", 'Keep unknown_fields = "drop".')
        return Finding("unknown-field", OK, "an unknown field is taken or ignored, as assumed")

    async def _mixed(self, receipt: Receipt) -> Finding:
        good, bad = await self._shown("good"), await self._shown("bad")
        if receipt.kind is Kind.ACCEPTED:
            said = "a bad record is not refused: it is " + ("dropped later" if bad is None else "taken")
            return Finding("refused-whole", NOTE, said, "Nothing needs to change. What was accepted may be missing.")
        if good is not None:
            do = "Isolation would send that part twice. Set isolation_share = 0 and isolation_requests = 0."
            return Finding("refused-whole", WRONG, "of a refused request the good part is taken", do)
        return Finding("refused-whole", OK, "one bad record refuses a request as a whole, as assumed")

    async def _repeated(self, receipt: Receipt) -> Finding:
        held = await self._held("a")
        if receipt.kind is Kind.ACCEPTED and held == 20:
            return Finding("repeated-customer", OK, "a customer migrated twice has the balance twice, as assumed")
        how = "refused" if receipt.kind is not Kind.ACCEPTED else "ignored" if held == 10 else f"shown with {held:f}"
        do = 'Nothing needs to change. unknown = "resend" in [customers] would do no harm.'
        do = do if held == 10 else "The balance sent was 10, twice. Ask Masivo what it means."
        return Finding("repeated-customer", NOTE, f"a customer migrated twice is {how}; doubled was assumed", do)

    async def _one_email(self) -> Finding:
        if await self._shown("e") is None:
            return Finding("repeated-email", OK, "a second customer with the same e-mail is dropped, as assumed")
        do = 'Nothing needs to change. duplicates = "none" would send such customers too.'
        return Finding("repeated-email", NOTE, "a second customer with the same e-mail is taken", do)

    async def _balance(self) -> Finding:
        if _sent(await self._entries("m")):
            do = "Nothing needs to change."
            return Finding("balance-match", NOTE, "a history that does not match the balance is taken", do)
        if not _sent(await self._entries("b")):
            return Finding("balance-match", WRONG, "no history is shown, though one matches", "Ask Masivo why.")
        return Finding("balance-match", OK, "a history that does not match the balance is dropped, as assumed")

    async def _once(self, receipt: Receipt) -> Finding:
        if receipt.kind is not Kind.ACCEPTED:
            return Finding("history-once", OK, "a second history of a customer is refused, as assumed")
        count = len(_sent(await self._entries("b")))
        how = "taken" if count == 2 else "dropped in silence"
        return Finding("history-once", NOTE, f"a second history of a customer is {how}", "Nothing needs to change.")

    async def _same_purchase(self) -> Finding:
        count = await self._purchases("a")
        if count == 2:
            return Finding("repeated-event", OK, "an event that is sent twice counts twice, as assumed")
        if count == 1:
            do = 'Nothing needs to change. unknown = "resend" in [events] would do no harm.'
            return Finding("repeated-event", NOTE, "an event that is sent twice counts once", do)
        do = "Counts may be computed later. Without them a batch of events with an unknown outcome is always parked."
        return Finding("repeated-event", NOTE, f"the count of purchases is {count}; 2 was assumed", do)

    async def _stranger(self, receipt: Receipt) -> Finding:
        if receipt.kind is not Kind.ACCEPTED:
            do = "Nothing needs to change: customers go first, and events of absent ones are not sent."
            return Finding("event-of-nobody", NOTE, "an event of an unknown customer refuses its request", do)
        if await self._shown("stranger") is None:
            return Finding("event-of-nobody", OK, "an event of an unknown customer is dropped, as assumed")
        do = "Nothing needs to change: customers still go first."
        return Finding("event-of-nobody", NOTE, "an event of an unknown customer makes a customer", do)

    async def _entry(self) -> Finding:
        if "MIGRATION" in await self._entries("m"):
            return Finding("migration-entry", OK, "a migrated balance shows as a MIGRATION transaction, as assumed")
        do = "Nothing needs to change: such entries are passed over where they are shown."
        return Finding("migration-entry", NOTE, "a migrated balance shows as no transaction", do)


def _sent(types: Sequence[str]) -> list[str]:
    return [kind for kind in types if kind != "MIGRATION"]


def _metrics() -> dict[str, Any]:
    period = {"from": "2020-01-01T00:00:00Z", "to": _now(), "last_visit": _now(), "spend_total": SENT_PURCHASES}
    return {"lifetime": period | {"number_of_purchases": SENT_PURCHASES}, "updated_at": _now()}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
