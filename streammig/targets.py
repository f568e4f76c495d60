"""Makes the target from the settings: Masivo's rules and the connection to it."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

from streammig.clock import Clock
from streammig.delivery.folder import Unlimited
from streammig.masivo.answers import Absence, Conditions, absences, conditions
from streammig.masivo.client import MasivoClient
from streammig.masivo.readback import MasivoReadBack
from streammig.masivo.rules import RuleOptions, StageRules, rules
from streammig.masivo.rules.compiled import at_work
from streammig.masivo.session import Secret, Session
from streammig.masivo.stages import STAGES
from streammig.ratelimit import RateLimiter
from streammig.settings import Settings
from streammig.stages import ONCE
from streammig.target import Client, ReadBack

__all__ = ["Masivo", "at_work"]


@dataclass(slots=True)
class Masivo:
    """Implements `Target`. Lots expire as of `started`, in seconds since the epoch: when the checkpoint was made.

    `mappings` are by stage; `waiting` is told in words what is waited for, and for how many seconds.
    """

    settings: Settings
    key: str = field(repr=False)
    started: float
    mappings: Mapping[str, Callable[[Any], Any] | None]
    clock: Clock
    rng: Random
    account: RateLimiter | Unlimited
    waiting: Callable[[str, float], None]
    _answers: Conditions = field(init=False)
    _not_there: tuple[Absence, ...] = field(init=False)

    stages = STAGES
    queued = True

    def __post_init__(self) -> None:
        """Raises `Unusable` for settings that say nothing of an answer."""
        self._answers = conditions(self.settings.accepted_if, self.settings.refused_if)
        self._not_there = absences(self.settings.not_there)

    def rules(self, stage: str) -> StageRules:
        return rules(stage, self._options(stage), self.mappings[stage], self.settings.judge)

    def _options(self, stage: str) -> RuleOptions:
        settings = self.settings
        return RuleOptions(
            unknown_fields=settings.unknown_fields,
            fraction_digits=settings.fraction_digits,
            include_inactive=settings.include_inactive,
            send_anonymous=settings.send_anonymous,
            zero_orders=settings.zero_orders,
            send_redeem=settings.send_redeem,
            trim_emails=settings.trim_emails,
            time_zone=settings.time_zone or None,
            time_of_day=settings.time_of_day,
            deleted=settings.customers.deleted,
            reversed=settings.events.reversed,
            owner=settings.stage(stage).owner or None if stage not in ONCE else None,  # those rows are grouped
            max_bytes=settings.max_bytes,
            now=datetime.datetime.fromtimestamp(self.started, datetime.UTC),
        )

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[tuple[Client, ReadBack]]:
        settings = self.settings
        session = Session(
            settings.base_url,
            Secret(self.key),
            clock=self.clock,
            rng=self.rng,
            pace=self.account.read,
            hold=self.account.pause_for,
            waiting=self.waiting,
            auth_url=settings.auth_url,
            request_timeout=settings.request_timeout,
        )
        async with session:
            yield (
                MasivoClient(session, self.clock, self.account.observe, self._answers),
                MasivoReadBack(session, self._not_there, earlier=bool(settings.not_in or settings.since)),
            )
