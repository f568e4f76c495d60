"""What becomes of a batch with an unknown outcome: what successive looks add up to, and what can't be looked for."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import pytest

from streammig.delivery.reconcile import Evidence
from streammig.model import BatchState, Kind, Receipt, Record
from streammig.target import Seen
from tests.commands import Shell, sandbox, write
from tests.memory_target import Weather
from tests.refusing_target import RefusingTarget
from tests.sandbox_caller import customer, lot, transaction
from tests.test_isolation import SETTLE_TIME, Room
from tests.virtual import VirtualClock, virtual

A, N, P, D, X = Seen.ALL, Seen.NOTHING, Seen.PART, Seen.OTHER, Seen.CANT_TELL


@pytest.mark.parametrize(
    ("looks", "state"),
    [
        ([[A, A, A]], BatchState.ACCEPTED),
        ([[A, A, X]], BatchState.ACCEPTED),
        ([[A, X, X]], None),
        ([[X, X, X]] * 9, None),
        ([[A, A, N]], None),
        ([[A, A, N], [A, A, N]], BatchState.ACCEPTED),
        ([[A, P, D], [A, P, D]], BatchState.ACCEPTED),
        ([[A, A, N], [A, N, N], [A, A, N]], None),
        ([[A, N], [A, N], [A, N]], BatchState.PARKED),
        ([[A, N, N], [A, N, N], [A, A, A]], BatchState.ACCEPTED),
        ([[D, D, D]] * 3, BatchState.PARKED),
        ([[D, D, D], [D, D, N], [N, N, N]], None),
        ([[N, N, N]] * 3, BatchState.SEALED),
        ([[N, N, N], [N, N, X], [N, N, N], [N, N, N]], None),
        ([[N, N, N], [N, N, D], [N, N, N], [N, N, N]], None),
    ],
)
def test_i3_i4_looks_add_up_to_a_state_only_where_they_prove_it(
    looks: list[list[Seen]], state: BatchState | None
) -> None:
    """The looks are half a settle time apart."""
    watching = Evidence(SETTLE_TIME)
    *before, last = [watching.judge(seen, True, at * SETTLE_TIME / 2) for at, seen in enumerate(looks)]
    assert before == [None] * len(before)
    assert (last and last[0]) == state


def test_i3_absence_counts_only_while_later_batches_can_be_seen() -> None:
    watching = Evidence(SETTLE_TIME)
    said = [watching.judge([N], passed, at * SETTLE_TIME) for at, passed in enumerate([True, False, True])]
    assert said == [None] * 3
    assert watching.judge([N], True, 3 * SETTLE_TIME) is not None


@pytest.mark.parametrize(
    ("later", "mute", "why"),
    [
        (2, False, "the proof takes 3 batches that were accepted after it and can be seen, and there are 2"),
        (3, False, "the target does not show what it accepted after it"),
        (3, True, "some of it could not be read and the target does not show what it accepted after it"),
    ],
)
@virtual()
async def test_a_batch_that_is_parked_without_proof_says_why_and_what_may_prove_it_later(
    tmp_path: Path, later: int, mute: bool, why: str
) -> None:
    class Target(RefusingTarget):
        async def visible(self, stage: str, record: Record) -> Seen:
            return X if mute else N

    clock = VirtualClock()
    room = Room(tmp_path, Target(clock, Random(1), Weather()), clock)
    kinds = [(Kind.UNKNOWN, BatchState.UNKNOWN)] + [(Kind.ACCEPTED, BatchState.ACCEPTED)] * later
    batch, *_ = batches = [room.seal(f"a{number}", f"b{number}") for number in range(len(kinds))]
    for it, (kind, state) in zip(batches, kinds, strict=True):
        await asyncio.sleep(1)
        room.file.received(it, room.file.sending(it, clock.time()), Receipt(kind), state, clock.time())
    assert await room.sender().decide(batch) is BatchState.PARKED
    assert f"it can't be proven whether it landed ({why})" in room.said[-1]
    assert room.said[-1].endswith("once more was accepted, `streammig resolve` with --read-back may prove it")
    assert str(room.file.about(batch)["note"]) in room.said[-1]
    room.file.close()


NAMES = [f"c{number}" for number in range(4)]
DAYS = ["2023-05-01T10:00:00Z", "2023-05-02T10:00:00Z"]


@pytest.mark.parametrize("stage", ["customers", "transactions"])
def test_i4_what_an_earlier_migration_left_at_the_target_does_not_stand_for_a_lost_batch(
    shell: Shell, stage: str
) -> None:
    lost = {"on": stage, "nth": 2, "do": "reset", "at": "head"}
    with sandbox(lost, balance_match=False) as target:
        for number, day in enumerate(DAYS):
            made: dict[str, list[object]] = {
                "customers": [customer(name, balance=[lot(5 + number)]) for name in NAMES],
                "transactions": [{"id": name, "transactions": [transaction(5, issued_at=day)]} for name in NAMES],
            }
            for name, records in made.items():
                write(shell.folder / f"{name}{number}.json", records)
        before = ("--checkpoint", "before.checkpoint", "--customers", "customers0.json")
        assert shell.run(target.url, *before, "--transactions", "transactions0.json").code == 0
        # Long enough that a slow machine looks within it, too.
        ended = shell.run(target.url, f"--{stage}", f"{stage}1.json", "--settle-time", "0.6")
        assert ended.code == 4, ended.err
        assert "which may have been there before: it is parked for you to decide" in ended.err
        assert target.ledger()["holds"][stage]["count"] == len(NAMES)
