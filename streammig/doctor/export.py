"""What a checked export means for the account that it is to go to."""

from __future__ import annotations

from collections.abc import Mapping

from streammig.check.work import Check
from streammig.doctor.way import account
from streammig.errors import Problem
from streammig.masivo.advice import WRONG, Advice, advice, at_account
from streammig.settings import Settings
from streammig.telemetry import Warned


async def advise(check: Check, settings: Settings, environment: Mapping[str, str], offline: bool) -> None:
    """Add to a check what its export means for an account; unless `offline`, the account itself is asked.

    Where it can't be, that is a warning: all else was checked.
    """
    mentioned = {it.name: it.mentioned for it in check.stages}
    filtered = {reason: it.records for stage in check.stages for reason, it in stage.filtered.items()}
    dropped = {path: count for stage in check.stages for path, count in stage.dropped.items()}
    found = [*advice(mentioned, filtered, dropped)]
    if not offline:
        try:
            async with account(settings, environment) as (session, _):
                found += await at_account(session, mentioned)
        except Problem as problem:
            found.append(Advice("account-not-read", f"the account was not asked: {problem.what} [{problem.code}]"))
    check.wrong = WRONG
    check.warnings += [Warned(*it) for it in found]
