"""For the sandbox's tests: a caller over real sockets, and records in their proper form."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from streammig.sandbox import Sandbox, SandboxConfig

REWARD = "11111111-2222-4333-8444-555555555555"
OTHER_REWARD = "99999999-2222-4333-8444-555555555555"
TIER = "77777777-2222-4333-8444-555555555555"
DAY = "2024-03-01T10:00:00Z"


@dataclass
class FakeClock:
    """A clock that stands still until it is moved."""

    now: float = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Answer:
    status: int
    headers: Any
    text: str

    @property
    def json(self) -> Any:
        return orjson.loads(self.text)


@dataclass
class Caller:
    """Talks to one sandbox as a careless client would: no pacing, no check of what it sends."""

    sandbox: Sandbox
    session: aiohttp.ClientSession
    headers: dict[str, str] = field(default_factory=dict)

    async def call(self, method: str, path: str, data: Any = None, **headers: str) -> Answer:
        body = data if data is None or isinstance(data, bytes) else orjson.dumps(data)
        request = self.session.request(
            method, self.sandbox.url + path, data=body, headers={**self.headers, **headers}, allow_redirects=False
        )
        async with request as response:
            return Answer(response.status, response.headers, await response.text())

    async def authorize(self) -> None:
        answer = await self.call("GET", "/auth/authorize", **{"x-api-key": "sandbox-key"})
        self.headers = {"Authorization": f"Bearer {answer.json['data']}"}

    async def customers(self, *customers: Any) -> Answer:
        return await self.call("POST", "/customers/migrate", {"customers": customers})

    async def events(self, owners: dict[str, list[Any]]) -> Answer:
        body = [{"id": owner, "events": events} for owner, events in owners.items()]
        return await self.call("POST", "/customers/migrate/events", {"customers": body})

    async def transactions(self, owners: dict[str, list[Any]]) -> Answer:
        body = [{"id": owner, "transactions": entries} for owner, entries in owners.items()]
        return await self.call("POST", "/customers/migrate/transactions", {"customers": body})

    async def get(self, path: str) -> Answer:
        return await self.call("GET", path)

    async def own(self, path: str) -> Any:
        """What one of the sandbox's own routes says."""
        return (await self.get("/_sandbox/" + path)).json

    async def held(self, entity: str) -> dict[str, Any]:
        """What the ledger says is held of an entity, once the queue is empty."""
        assert await self.sandbox.drain(5)
        held: dict[str, Any] = self.sandbox.ledger()["holds"][entity]
        return held


@asynccontextmanager
async def running(clock: Callable[[], float] | None = None, token: bool = True, **config: Any) -> AsyncIterator[Caller]:
    """A sandbox and a caller that has its token already, for which it used one request of the general limit."""
    sandbox = Sandbox(SandboxConfig(**config), clock) if clock else Sandbox(SandboxConfig(**config))
    # One connection a request: aiohttp sends an idempotent request again when a kept-alive connection drops.
    connector = aiohttp.TCPConnector(force_close=True)
    async with sandbox, aiohttp.ClientSession(connector=connector) as session:
        caller = Caller(sandbox, session)
        if token:
            await caller.authorize()
        yield caller


def customer(id_: str, **fields: Any) -> dict[str, Any]:
    return {
        "id": id_,
        "name": f"Name of {id_}",
        "email": f"{id_}@example.org",
        "registration_date": DAY,
        "balance": [],
        **fields,
    }


def lot(amount: Any, **fields: Any) -> dict[str, Any]:
    return {"reward_id": REWARD, "amount": amount, "expiration_date": None, "brand_id": None, **fields}


def order(purchase_id: str, value: Any = 10, **fields: Any) -> dict[str, Any]:
    priced = {"value": value, "discounted_value": value, "payment_method": "CASH"}
    return {"purchase_id": purchase_id, "products": [], **priced, **fields}


def event(purchase_id: str, value: Any = 10, **fields: Any) -> dict[str, Any]:
    return {
        "type": "PURCHASE",
        "brand_id": None,
        "order": order(purchase_id, value),
        "fulfilled": True,
        "issued_at": DAY,
        "resolved_at": DAY,
        **fields,
    }


def transaction(amount: Any, **fields: Any) -> dict[str, Any]:
    return {
        "brand_id": None,
        "reward_id": REWARD,
        "details": "points",
        "type": "ACCUMULATION",
        "issued_at": DAY,
        "resolved_at": DAY,
        "amount": amount,
        "cost": None,
        "store_id": None,
        "channel_id": None,
        "event": None,
        **fields,
    }
