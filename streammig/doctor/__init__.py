"""Whether a machine and a target are fit for a migration, and whether the target behaves as is assumed."""

from __future__ import annotations

from typing import NamedTuple

from streammig.errors import Problem

OK, NOTE, WRONG = "ok", "note", "wrong"


class Finding(NamedTuple):
    """What was looked at, how it is ("ok", "note" or "wrong"), what was found, and what to do."""

    name: str
    state: str
    found: str
    do: str = ""


def wrong(name: str, problem: Problem) -> Finding:
    return Finding(name, WRONG, f"{problem.what} [{problem.code}]", problem.hint)
