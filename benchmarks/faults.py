"""Runs the proofs of "nothing lost, nothing twice" and prints what was tried, and what was found."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from streammig.stages import STAGES
from tests.proof_bad_days import FAULTS, bad_days, hour_of_502
from tests.proof_copies import commands_put_back, put_back
from tests.proof_cuts import cut_stages
from tests.proof_disk import failing_disks, writes_of
from tests.proof_kills import killed_at_writes
from tests.proof_races import on_one_account, on_one_checkpoint
from tests.proof_report import Found, scratch
from tests.proof_surgery import damaged
from tests.test_proof_checkpoint_model import CheckpointMachine
from tests.test_ratelimit_limiter import DEV, PROD, _one_account
from tests.test_run_stops import killed_until_done
from tests.test_system import live_through


@dataclass(frozen=True, slots=True)
class Row:
    """One fault: what is done, how many times of it in full and in a hurry, and what does it for so many and a seed."""

    fault: str
    full: int
    quick: int
    prove: Callable[[int, int], Found]


def added(several: Iterable[Found]) -> Found:
    total = Found()
    for each in several:
        total.points += each.points
        total.violations += each.violations
        total.unknowns += each.unknowns
        total.refusals += each.refusals
    return total


def claims(claim: Callable[[Path, int], object], seeds: Iterable[int], points: int = 1) -> Found:
    """A claim that raises where it does not hold, for each seed."""
    found = Found()
    for seed in seeds:
        found.points += points
        with scratch() as folder:
            try:
                claim(folder, seed)
            except AssertionError as error:
                found.violations.append(f"seed {seed}: {claim!r}: {error}")
    return found


def _disks(count: int, seed: int) -> Found:
    sites = range(1, writes_of(seed) + 1)
    return failing_disks(seed, sites if count > len(sites) else Random(seed).sample(sites, count))


def _limits(count: int, seed: int) -> Found:
    def held(folder: Path, number: int) -> None:
        assert _one_account(number, 72.0, DEV if number % 5 else PROD, folder) >= 0.98

    return claims(held, range(seed, seed + count))


def _cuts(count: int, seed: int) -> Found:
    # Each seed cuts its stage twice or more, on average.
    return added(cut_stages(stage, range(seed, seed + max(1, count // 6))) for stage in STAGES)


def _model(count: int, seed: int) -> Found:
    def as_the_model(folder: Path, number: int) -> None:
        machine = settings(max_examples=count, stateful_step_count=30, deadline=None, database=None)
        run_state_machine_as_test(CheckpointMachine, settings=machine)

    return claims(as_the_model, [seed], count)


ROWS = (
    Row("process killed before, within and after writes of either file, and while it recovers", 2000, 60,
        killed_at_writes),
    Row("the real command killed at random moments", 100, 5,
        lambda count, seed: claims(lambda folder, it: killed_until_done(folder, 5, it),
                                   range(seed, seed + count // 5), 5)),
    Row("checkpoint or account's file cut, torn, flipped, lost, or an older copy of itself", 2000, 60, damaged),
    Row("older copies of the files put back between runs", 5880, 40, put_back),
    Row("older copies put back between runs of the real command", 120, 2, commands_put_back),
    Row("disk full, or failing once or for good, at every write", 1000, 15, _disks),
    *(Row(f"target: {name}", 500, 20, lambda count, seed, name=name: bad_days(name, count, seed))  # type: ignore[misc]
      for name in [*FAULTS, "all"]),
    Row("target: an hour of nothing but 502 (virtual time)", 20, 2,
        lambda count, seed: claims(hour_of_502, range(seed, seed + count))),
    Row("whole system under a virtual clock: faults, crashes, slow queues", 500, 8,
        lambda count, seed: claims(live_through, range(seed, seed + count))),
    Row("limits over restarts, 72 hours each, 98 % of them used", 50, 1, _limits),
    Row("stage cut and gone on with: bytes and counters", 200, 12, _cuts),
    Row("two runs on one checkpoint", 100, 4, on_one_checkpoint),
    Row("two runs on one account", 100, 2, on_one_account),
    Row("checkpoint against a plain model (histories of 30 changes)", 500, 10, _model),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small share of each: some minutes instead of an hour")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", metavar="WORD", help="only the rows with this word in them")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [row for row in ROWS if options.only in row.fault]
    done: list[dict[str, Any]] = []
    if not options.json:
        print("| fault | tried | violations | units left unknown | refused | seconds |\n|---|--:|--:|--:|--:|--:|")
    for row in rows:
        began = time.monotonic()
        found = row.prove(row.quick if options.quick else row.full, options.seed)
        seconds = round(time.monotonic() - began)
        done.append({"fault": row.fault, **asdict(found), "seconds": seconds})
        if not options.json:
            numbers = (found.points, len(found.violations), found.unknowns, found.refusals, seconds)
            print(f"| {row.fault} | " + " | ".join(f"{number:,}" for number in numbers) + " |", flush=True)
        for violation in found.violations:
            print(violation, file=sys.stderr)
    if options.json:
        print(json.dumps(done, indent=2))
    sys.exit(any(line["violations"] for line in done))


if __name__ == "__main__":
    main()
