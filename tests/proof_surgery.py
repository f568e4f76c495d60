"""Damage to the files of a migration between two of its runs, and what the next run makes of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random

from streammig.errors import Problem
from tests.memory_target import Weather
from tests.proof_lives import Lives
from tests.proof_report import Found, scratch
from tests.proof_writes import Fate

Content = Mapping[Path, bytes]


def cut(files: Content, older: Content, path: Path, dice: Random) -> None:
    """The file ends somewhere."""
    path.write_bytes(files[path][: dice.randrange(len(files[path]) + 1)])


def torn(files: Content, older: Content, path: Path, dice: Random) -> None:
    """Some pages hold nothing, or anything."""
    data, size = bytearray(files[path]), 4096
    for _ in range(dice.choice([1, 1, 3])):
        at = dice.randrange(max(len(data), 1)) // size * size
        there = data[at : at + size]
        data[at : at + size] = dice.choice([bytes(len(there)), dice.randbytes(len(there))])
    path.write_bytes(data)


def replaced(files: Content, older: Content, path: Path, dice: Random) -> None:
    """The file alone, without the log beside it, is an older copy."""
    path.write_bytes(older.get(path, b""))


def gone(files: Content, older: Content, path: Path, dice: Random) -> None:
    path.unlink()


def _logs(path: Path) -> list[Path]:
    return [path.with_name(path.name + end) for end in ("-wal", "-shm", "-journal")]


def set_back(lives: Lives, older: Content) -> None:
    """The checkpoint with its log is an older copy of itself."""
    for path in (lives.checkpoint, *_logs(lives.checkpoint)):
        path.unlink(missing_ok=True)
    for path, data in older.items():
        if path.name.startswith(lives.checkpoint.name):
            path.write_bytes(data)


DAMAGE: Mapping[str, Callable[[Content, Content, Path, Random], None]] = {
    "cut": cut, "torn": torn, "replaced": replaced, "gone": gone,
}  # fmt: skip


def damaged(points: int, seed: int, only: str = "") -> Found:
    """Damage so many files of migrations under way, and go on with each."""
    found = Found()
    for number in range(seed, seed + points):
        with scratch() as folder:
            found.points += 1
            wrong, refused, unknown = operate(number, folder, only)
        found.refusals += refused
        found.unknowns += unknown
        if wrong:
            found.violations.append(f"seed {number}: {wrong}\n  shown by: operate({number}, folder, {only!r})")
    return found


def operate(seed: int, folder: Path, only: str = "") -> tuple[str, bool, int]:
    """One patient: what did not hold, in words; whether it was refused; the units left in doubt."""
    dice = Random(seed)
    lives = Lives(folder, seed, 24, {"concurrency": dice.choice([1, 2, 4])} | ({"events": {}} if seed % 2 else {}))
    lives.weather = Weather(dice.choice([{}, {"landed-reset": 0.05, "lost": 0.05}]))
    lives.live(_ending(dice, 12, 70))
    while not lives.checkpoint.exists():  # without one there is nothing to damage
        lives.live(_ending(dice, 12, 70))
    older = _content(lives)
    if dice.random() < 0.7:
        lives.live(_ending(dice, 5, 50))
    what = _damage(lives, older, dice, only)
    ended = lives.live()
    for _ in range(3):
        if ended.word not in ("killed", "paused"):
            break
        ended = lives.live()
    if twice := lives.twice():
        return f"{what}: {twice[0]} ({ended})", False, 0
    if ended.code == 2:
        return "" if "\n" in ended.said else f"{what}: refused without a word on what to do: {ended.said}", True, 0
    try:
        wrong = lives.wrong(ended) or lives.finish()
    except Problem as problem:
        wrong = [f"the next command can't read it: {problem}"]
    return (f"{what}: {wrong[0]} ({ended})" if wrong else ""), False, _unknown(lives)


def _ending(dice: Random, least: int, most: int) -> Fate:
    """Killed, or drained in peace: then the log is folded into the file."""
    return Fate(
        dice.choice(["before", "after", "drain", "drain"]), dice.randrange(least, most), dice.randrange(1 << 30)
    )


def _damage(lives: Lives, older: Content, dice: Random, only: str) -> str:
    files = _content(lives)
    kinds = ["set back", *DAMAGE] if not only else [only]
    kind = dice.choice(kinds)
    if kind == "set back":
        set_back(lives, older)
        return "the checkpoint is an older copy of itself"
    wal = _logs(lives.checkpoint)[0]
    paths = [path for path in (lives.checkpoint, wal, lives.account, lives.fence) if path in files]
    if kind == "gone":  # without a checkpoint it is another migration
        paths.remove(lives.checkpoint)
    # The checkpoint is what most depends on.
    path = dice.choice([*paths, lives.checkpoint] if kind != "gone" else paths)
    DAMAGE[kind](files, older, path, dice)
    with contextlib.suppress(OSError):  # memory that the last process shared with nobody; gone after a restart
        _logs(lives.checkpoint)[1].unlink()
    return f"{path.name} is {kind}"


def _content(lives: Lives) -> dict[Path, bytes]:
    found = [path for base in (lives.checkpoint, lives.account, lives.fence) for path in (base, *_logs(base))]
    return {path: path.read_bytes() for path in found if path.is_file() and not path.name.endswith("-shm")}


def _unknown(lives: Lives) -> int:
    return sum(total.unknown.units for total, _, _ in lives.totals().values())
