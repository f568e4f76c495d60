"""Masivo as a target: its rules and the way to it, composed from plain settings."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

from streammig.clock import Clock
from streammig.masivo.answers import NOT_THERE, Absence, Conditions, absences, conditions
from streammig.masivo.client import MasivoClient
from streammig.masivo.http import check_base_url
from streammig.masivo.readback import MasivoReadBack
from streammig.masivo.rules import RuleOptions, StageRules, rules
from streammig.masivo.session import Secret, Session
from streammig.masivo.stages import STAGES
from streammig.target import Client, ReadBack

__all__ = ["Masivo", "RuleOptions", "absences", "check_base_url", "conditions"]


class Account(Protocol):
    """The account's rate limiter, as the client's own requests and the headers of answers reach it."""

    async def read(self) -> None:
        """Wait for the right to make one read."""

    async def pause_for(self, seconds: float, status: int = 429) -> None:
        """Nobody on this account starts a request for so long, as an answer with this status asked for."""

    async def observe(
        self, limit: float | None, remaining: float | None, reset: float | None, age: float = 0.0
    ) -> None:
        """What the headers of an answer say of the limit; `reset` is in seconds from now, and its request left `age`
        seconds ago."""


@dataclass(frozen=True, slots=True)
class Masivo:
    """Implements `Target`. `timeout` is in seconds for one request; `waiting` is told in words what is waited for, and
    for how many seconds."""

    base_url: str
    auth_url: str
    key: str = field(repr=False)
    timeout: float
    options: Mapping[str, RuleOptions]
    mappings: Mapping[str, Callable[[Any], Any] | None]
    clock: Clock
    rng: Random
    account: Account
    waiting: Callable[[str, float], None]
    answers: Conditions = Conditions()  # noqa: RUF009  # frozen
    not_there: tuple[Absence, ...] = NOT_THERE
    earlier: bool = False  # whether another run has sent to the same customers before
    judge: str = "auto"  # which judge of records is wanted: compiled, python, or auto

    stages = STAGES
    queued = True

    def rules(self, stage: str) -> StageRules:
        return rules(stage, self.options[stage], self.mappings[stage], self.judge)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[tuple[Client, ReadBack]]:
        session = Session(
            self.base_url,
            Secret(self.key),
            clock=self.clock,
            rng=self.rng,
            pace=self.account.read,
            hold=self.account.pause_for,
            waiting=self.waiting,
            auth_url=self.auth_url,
            request_timeout=self.timeout,
        )
        async with session:
            yield (
                MasivoClient(session, self.clock, self.account.observe, self.answers),
                MasivoReadBack(session, self.not_there, earlier=self.earlier),
            )
