"""A made loyalty export with the shape of the published one: profile, transcript and their oddities."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

MEMBERS, LOG = "profile.ndjson.gz", "transcript-part.ndjson.gz"
OFFERS = ["ae264e3637204a6fb9bb56bc8210ddfd", "3f207df678b143eea3cee63160fa8bed", "9b98b8c7a33c4b65b9aebfe6a799e6d9"]
# The published programme added up amounts in floats, so some of them have noise in their last digits.
AMOUNTS = [0.8300000000000001, 34.56, 19.89, 1062.28, 7, 0.05]


class Loyalty(NamedTuple):
    """The two files of a loyalty export, and their records as `json` reads them."""

    members_file: Path
    log_file: Path
    members: list[dict[str, Any]]
    log: list[dict[str, Any]]


def read(folder: Path) -> Loyalty:
    """The export in a folder. Raises FileNotFoundError where it lacks a file."""
    members, log = folder / MEMBERS, folder / LOG
    return Loyalty(members, log, _lines(members), _lines(log))


def make(folder: Path, *, members: int = 2_300, hours: int = 120, dice: Random) -> Loyalty:
    """Write an export to a folder: `members` people, and some 30 lines of log for every sixth of `hours`."""
    people = [_member(dice) for _ in range(members)]
    log = [
        {"person": person["id"], **_happening(dice), "time": time}
        for time in range(0, hours, 6)
        for person in dice.sample(people[: members // 10], 60)
    ]
    _write(folder / MEMBERS, people)
    _write(folder / LOG, log)
    return read(folder)


def _member(dice: Random) -> dict[str, Any]:
    """A member: one in eight told nothing of themselves, which the programme wrote as null, null and an age of 118."""
    silent = dice.random() < 1 / 8
    day = f"{dice.randint(2013, 2018)}{dice.randint(1, 12):02}{dice.randint(1, 28):02}"
    return {
        "gender": None if silent else dice.choices(["M", "F", "O"], [57, 41, 2])[0],
        "age": 118 if silent else dice.randint(18, 101),
        "id": f"{dice.getrandbits(128):032x}",
        "became_member_on": day,
        "income": None if silent else dice.randrange(30_000, 121_000, 1000),
    }


def _happening(dice: Random) -> dict[str, Any]:
    """What a line of the log tells. Each kind of event has keys of its own, and one of them a key with a space."""
    offer = dice.choice(OFFERS)
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("offer received", {"offer id": offer}),
        ("offer viewed", {"offer id": offer}),
        ("offer completed", {"offer_id": offer, "reward": dice.choice([2, 3, 5, 10])}),
        ("transaction", {"amount": dice.choice(AMOUNTS)}),
    ]
    kind, value = dice.choice(kinds)
    return {"event": kind, "value": value}


def _lines(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rb") as file:
        return [json.loads(line) for line in file]


def _write(path: Path, records: list[dict[str, Any]]) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
