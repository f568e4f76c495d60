"""Makes the target from the settings."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from streammig.clock import Clock
from streammig.masivo.rules.compiled import at_work
from streammig.masivo.target import Account, Masivo, RuleOptions, absences, conditions
from streammig.settings import Settings
from streammig.stages import ONCE, STAGES
from streammig.target import Target

__all__ = ["at_work", "rule_options", "target_of"]


def target_of(
    settings: Settings,
    key: str,
    *,
    options: Mapping[str, RuleOptions],
    mappings: Mapping[str, Callable[[Any], Any] | None],
    clock: Clock,
    rng: Random,
    account: Account,
    waiting: Callable[[str, float], None],
) -> Target:
    """The target of a migration. `waiting` gets the reason for each wait, and its seconds."""
    return Masivo(
        base_url=settings.base_url,
        auth_url=settings.auth_url,
        key=key,
        timeout=settings.request_timeout,
        options=options,
        mappings=mappings,
        clock=clock,
        rng=rng,
        account=account,
        waiting=waiting,
        answers=conditions(settings.accepted_if, settings.refused_if),
        not_there=absences(settings.not_there),
        earlier=bool(settings.not_in or settings.since),
        judge=settings.judge,
    )


def rule_options(settings: Settings, started: float) -> dict[str, RuleOptions]:
    """The rules' options for each stage. Points expire by the time at which the checkpoint was made (`started`)."""
    now = datetime.datetime.fromtimestamp(started, datetime.UTC)
    return {
        name: RuleOptions(
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
            owner=settings.stage(name).owner or None if name not in ONCE else None,  # once-only stages group rows
            max_bytes=settings.max_bytes,
            now=now,
        )
        for name in STAGES
    }
