"""Masivo as a target: its rules and the way to it, composed from plain settings."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

from streammig.context import Clock
from streammig.masivo.answers import Conditions, conditions
from streammig.masivo.client import MasivoClient, Observe
from streammig.masivo.http import check_base_url
from streammig.masivo.readback import MasivoReadBack
from streammig.masivo.rules import RuleOptions, StageRules, rules
from streammig.masivo.session import Secret, Session
from streammig.target import Client, ReadBack, Stage

__all__ = ["Masivo", "RuleOptions", "check_base_url", "conditions"]


@dataclass(frozen=True, slots=True)
class Masivo:
    """Implements `Target`. `timeout` is in seconds for one request; `pace`, `hold` and `observe` reach the account's
    rate limiter, `waiting` is told in words what is waited for, and for how many seconds."""

    base_url: str
    auth_url: str
    key: str = field(repr=False)
    timeout: float
    options: Mapping[str, RuleOptions]
    mappings: Mapping[str, Callable[[Any], Any] | None]
    clock: Clock
    rng: Random
    pace: Callable[[], Awaitable[None]]
    hold: Callable[[float], Awaitable[None]]
    observe: Observe
    waiting: Callable[[str, float], None]
    answers: Conditions = Conditions()  # noqa: RUF009  # frozen

    stages = (
        Stage("customers", depends_on="", once=False, unit="customer"),
        Stage("events", depends_on="customers", once=False, unit="event"),
        Stage("transactions", depends_on="events", once=True, unit="transaction"),
    )
    queued = True

    def rules(self, stage: str) -> StageRules:
        return rules(stage, self.options[stage], self.mappings[stage])

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[tuple[Client, ReadBack]]:
        session = Session(
            self.base_url, Secret(self.key), clock=self.clock, rng=self.rng, pace=self.pace, hold=self.hold,
            waiting=self.waiting, auth_url=self.auth_url, request_timeout=self.timeout,
        )  # fmt: skip
        async with session:
            yield MasivoClient(session, self.clock, self.observe, self.answers), MasivoReadBack(session)
