"""What a checked export means for the account that it is to go to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from streammig.check.work import Check
from streammig.doctor.against import Against
from streammig.doctor.way import account
from streammig.errors import Problem
from streammig.masivo.advice import WRONG, Advice, advice, at_account
from streammig.masivo.answers import absences
from streammig.masivo.readback import MasivoReadBack
from streammig.settings import Settings
from streammig.stages import STAGES
from streammig.telemetry import Warned

THERE = "already-there"
Count = int | Literal[False] | None


async def advise(
    check: Check, settings: Settings, environment: Mapping[str, str], offline: bool, against: Count = False
) -> dict[str, Any] | None:
    """Add to a check what its export means for an account; unless `offline`, the account itself is asked, and which of
    so many customers (None: of all, False: no look) it has already: that is returned.

    Where it can't be, that is a warning: all else was checked.
    """
    mentioned = {it.name: it.mentioned for it in check.stages}
    filtered = {reason: it.records for stage in check.stages for reason, it in stage.filtered.items()}
    dropped = {path: count for stage in check.stages for path, count in stage.dropped.items()}
    look: Against | None = None
    found = [*advice(mentioned, filtered, dropped)]
    if not offline:
        try:
            async with account(settings, environment) as (session, _):
                found += await at_account(session, mentioned)
                if against is not False and (look := _look(check, against)) is not None:
                    readback = MasivoReadBack(session, absences(settings.not_there))
                    name = check.stages[0].name
                    await look.look(check.inputs[name], readback, check.thread, settings.concurrency, check.notify)
                    found += _found(look)
        except Problem as problem:
            found.append(Advice("account-not-read", f"the account was not asked: {problem.what} [{problem.code}]"))
    check.wrong = WRONG | {THERE}
    check.warnings += [Warned(*it) for it in found]
    return look.document() if look is not None and look.looked else None


def _look(check: Check, count: int | None) -> Against | None:
    """The look at the customers of an export; None of one without any."""
    if not check.stages or check.stages[0].name != STAGES[0] or not check.stages[0].sent.records:
        return None
    return Against(check.stages[0].sent.records, count)


def _found(look: Against) -> Iterator[Advice]:
    if look.problem is not None:
        said = f"the look at the target ended behind {look.looked:,} customers: {look.problem.what}"
        yield Advice("account-not-read", f"{said} [{look.problem.code}]")
    if look.there:
        said = f"customers that are at the target already: {look.there:,} of {look.looked:,} looked for"
        yield Advice(THERE, f"{said}. They can't be migrated a second time: revert them, or leave them out with not_in")
