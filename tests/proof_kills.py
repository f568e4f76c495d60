"""Histories of a migration whose process is killed at its writes again and again."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from tests.memory_target import FAULTS, Weather
from tests.proof_lives import Lives
from tests.proof_report import Found, scratch, shortest
from tests.proof_writes import Fate

KILLS = ("before", "after", "within", "later")


@dataclass(frozen=True)
class History:
    """What is done to one migration; running it again does the same again."""

    seed: int
    settings: dict[str, Any]
    weather: Weather
    fates: tuple[Fate, ...] = field(default=())


def drawn(seed: int, kills: int = 4) -> History:
    """A random one: every other has no events, for what is unknown of these keeps transactions from being sent."""
    dice = Random(seed)
    settings: dict[str, Any] = {"concurrency": dice.choice([1, 2, 4]), "limits": dice.choice(["off", "1/1s,200/1h"])}
    if seed % 2:
        settings["events"] = {}
    bad = dice.choice([{}, {}, dict.fromkeys(FAULTS, 0.03)])
    fates = []
    for life in range(kills):
        # Half of the later lives end while they recover from the one before: in their first writes.
        most = 14 if life and dice.random() < 0.5 else 110
        fates.append(Fate(dice.choice(KILLS), dice.randrange(1, most), dice.randrange(1 << 30)))
    return History(seed, settings, Weather(bad), tuple(fates))


def play(history: History, folder: Path) -> tuple[list[str], int]:
    """What did not hold in it, in words, and how many units of unknown outcome are left at its end."""
    lives = Lives(folder, history.seed, 24, history.settings)
    lives.weather = history.weather
    for fate in history.fates:
        if found := lives.wrong(lives.live(fate)):
            return found, 0
    found = lives.finish()
    return found, 0 if found else sum(total.unknown.units for total, _, _ in lives.totals().values())


def killed_at_writes(points: int, seed: int) -> Found:
    """Kill at so many writes, four of them in each history."""
    found = Found()
    for number in range(-(-points // 4)):
        history = drawn(seed + number)
        with scratch() as folder:
            wrong, unknown = play(history, folder)
        found.points += len(history.fates)
        found.unknowns += unknown
        if wrong:
            found.violations.append(tell(history, wrong))
    return found


def tell(history: History, wrong: list[str]) -> str:
    """The seed, and the fewest fates that still show what is wrong."""

    def still(fates: tuple[Fate, ...]) -> bool:
        with scratch() as folder:
            return bool(play(replace(history, fates=fates), folder)[0])

    least = replace(history, fates=shortest(history.fates, still))
    return f"seed {history.seed}: {wrong[0]}\n  shown by: play({least!r}, folder)"
