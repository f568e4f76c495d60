"""A disk that is full, or fails, from the n-th write on: for every n."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

from streammig.checkpoint import Checkpoint
from tests.proof_lives import Lives
from tests.proof_report import Found, scratch
from tests.proof_writes import Fate

FAILURES = ("failing", "full", "once")
CUSTOMERS = 24


def writes_of(seed: int) -> int:
    """How many writes an undisturbed life makes."""
    with scratch() as folder:
        return Lives(folder, seed, CUSTOMERS, _settings(seed)).live().writes


def failing_disks(seed: int, sites: Iterable[int]) -> Found:
    """At each of these writes every kind of failure; then the disk is mended and the run goes on."""
    found = Found()
    for at in sites:
        for how in FAILURES:
            fate = Fate(how, at, Random(at).randrange(1 << 30))
            with scratch() as folder:
                wrong, refused = fail(seed, fate, folder)
            found.points += 1
            found.refusals += refused
            if wrong:
                found.violations.append(f"seed {seed}: {wrong}\n  shown by: fail({seed}, {fate!r}, folder)")
    return found


def fail(seed: int, fate: Fate, folder: Path) -> tuple[str, bool]:
    """What did not hold, in words, and whether the run said that it can't write."""
    lives = Lives(folder, seed, CUSTOMERS, _settings(seed))
    ended = lives.live(fate)
    if wrong := lives.wrong(ended):
        return f"{wrong[0]} ({ended.word})", False
    failed = ended.word == "MachineFault"
    # One word of many about a slot may get lost without harm; what a send depends on may not. Where all was settled,
    # only the tidying at the end can fail.
    tidying = ended.word == "whole" and not ended.sends_after_failure
    if ended.failures and not failed and fate.how != "once" and not tidying:
        return f"a write failed, and the run ended as {ended.word}", False
    if failed and "\n" not in ended.said:
        return f"it does not say what to do: {ended.said}", failed
    unsure = set(ended.sends_after_failure) - _intended(lives)
    if unsure or (failed and len(ended.sends_after_failure) > lives.settings["concurrency"]):
        return f"{len(unsure)} bodies left that no file had noted, {len(ended.sends_after_failure)} in all", failed
    return next(iter(lives.finish()), ""), failed


def _settings(seed: int) -> dict[str, Any]:
    return {"concurrency": 1 + seed % 3, "limits": "1/1s,200/1h"}


def _intended(lives: Lives) -> set[bytes]:
    """The bodies, of all that were ever sent, whose intent is in the file."""
    if not lives.checkpoint.exists():
        return set()
    with closing(Checkpoint.open(lives.checkpoint, read_only=True)) as file:
        digests = {bytes(row[0]) for row in file.rows("SELECT digest FROM batch WHERE attempts > 0")}
    return {body for body in lives.sent if hashlib.sha256(body).digest() in digests}
