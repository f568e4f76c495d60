"""The checkpoint does what a plain model of it does, through any order of changes, undone changes and reopenings."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from streammig.checkpoint import Checkpoint
from streammig.model import (
    Batch,
    BatchState,
    DeadLetter,
    Draft,
    Kind,
    Place,
    Position,
    Progress,
    Range,
    Receipt,
    Tally,
    add_up,
)
from tests.drafts import made

STAGE = "customers"
ANSWERS = {
    Kind.ACCEPTED: BatchState.ACCEPTED, Kind.REJECTED: BatchState.REJECTED, Kind.UNKNOWN: BatchState.UNKNOWN,
    Kind.THROTTLED: BatchState.SEALED, Kind.NOT_SENT: BatchState.SEALED,
}  # fmt: skip


@dataclass
class Held:
    """A batch of the model: the numbers of the records in it."""

    numbers: list[int]
    state: BatchState
    parent: int | None = None
    attempts: list[str | None] = field(default_factory=list)  # what became of each request


@dataclass
class Model:
    """What a checkpoint should know: records are numbered as they stand in the export, one unit each."""

    read: int = 0
    batches: list[Held] = field(default_factory=list)
    dead: dict[tuple[int, int], str] = field(default_factory=dict)  # (number, batch) to code
    filtered: list[int] = field(default_factory=list)

    def in_state(self, *states: BatchState) -> list[int]:
        return [number for number, held in enumerate(self.batches, 1) if held.state in states]

    def tally(self, *states: BatchState) -> Tally:
        return tally([it for held in self.batches if held.state in states for it in held.numbers])


def amount(number: int) -> Decimal:
    return Decimal(number % 7) / 100


def tally(numbers: list[int]) -> Tally:
    whole = sum((amount(number) for number in numbers), Decimal())
    return Tally(len(numbers), len(numbers), {"points": whole} if whole else {})


def place(number: int) -> Place:
    return Place(0, number * 10, 0, number + 1)


def draft(numbers: list[int]) -> Draft:
    ranges = [Range(place(number), place(number + 1)) for number in numbers]
    return made(ranges, tally(numbers), repr(numbers).encode())


def letter(number: int, code: str) -> DeadLetter:
    return DeadLetter(Position(0, number * 10, 9, number + 1), 0, code, "$.dob: a date", tally([number]))


class CheckpointMachine(RuleBasedStateMachine):
    """Every change that a run makes, made to both."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.file = Checkpoint.create(self.folder / "c", binding={}, version="1", started=1.0)
        self.file.add_stage(STAGE, 0, {}, [{}])
        self.model = Model()

    def teardown(self) -> None:
        self.file.close()
        shutil.rmtree(self.folder)

    # -- reading -------------------------------------------------------------------------------------------------------

    @rule(packed=st.integers(0, 4), dead=st.integers(0, 2), filtered=st.integers(0, 2))
    def read(self, packed: int, dead: int, filtered: int) -> None:
        """Read on: some records packed, some dead, some filtered; with a batch or without one."""
        model, first = self.model, self.model.read
        numbers = list(range(first, first + packed))
        behind = first + packed
        letters = [letter(number, "bad-date") for number in range(behind, behind + dead)]
        model.filtered += range(behind + dead, behind + dead + filtered)
        model.dead |= {(it.position.offset // 10, 0): it.code for it in letters}
        model.read = behind + dead + filtered
        progress = self._progress(tuple(letters))
        if not numbers:
            self.file.advance(STAGE, progress)
            return
        batch = self.file.seal(STAGE, draft(numbers), progress, 1.0)
        model.batches.append(Held(numbers, BatchState.SEALED))
        assert batch.seq == len(model.batches)

    def _progress(self, letters: tuple[DeadLetter, ...]) -> Progress:
        model = self.model
        return Progress(
            place(model.read), model.read, tally(list(range(model.read))),
            filtered={"deleted": tally(model.filtered)} if model.filtered else {}, dead=letters,
        )  # fmt: skip

    # -- sending -------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.model.in_state(BatchState.SEALED))
    @rule(data=st.data(), kind=st.sampled_from([None, *ANSWERS]))
    def send(self, data: st.DataObject, kind: Kind | None) -> None:
        """One request; None stands for a process that ends before its receipt."""
        batch, held = self._chosen(data, BatchState.SEALED)
        attempt = self.file.sending(batch, 2.0)
        held.attempts.append(None)
        held.state = BatchState.SENDING
        assert attempt == len(held.attempts)
        if kind is not None:
            self.file.received(batch, attempt, Receipt(kind, 200), ANSWERS[kind], 3.0)
            held.attempts[-1], held.state = str(kind), ANSWERS[kind]

    @precondition(lambda self: self.model.in_state(*BatchState))
    @rule(data=st.data())
    def what_is_not_sealed_can_not_be_sent(self, data: st.DataObject) -> None:
        batch, held = self._chosen(data, *BatchState)
        if held.state is not BatchState.SEALED:
            try:
                self.file.sending(batch, 2.0)
            except AssertionError:
                return
            raise AssertionError(f"a batch that is {held.state} was sent")

    @precondition(lambda self: self.model.in_state(BatchState.UNKNOWN, BatchState.PARKED))
    @rule(data=st.data(), after=st.sampled_from([BatchState.ACCEPTED, BatchState.SEALED, BatchState.PARKED]))
    def decide(self, data: st.DataObject, after: BatchState) -> None:
        batch, held = self._chosen(data, BatchState.UNKNOWN, BatchState.PARKED)
        assert not self.file.move(batch, BatchState.SENDING, after)  # it is not in that state
        assert self.file.move(batch, held.state, after, 4.0)
        held.state = after

    @precondition(lambda self: self.model.in_state(BatchState.REJECTED))
    @rule(data=st.data())
    def split(self, data: st.DataObject) -> None:
        batch, held = self._chosen(data, BatchState.REJECTED)
        half = len(held.numbers) // 2
        parts = [part for part in (held.numbers[:half], held.numbers[half:]) if part]
        made = self.file.split(batch, [draft(part) for part in parts], 5.0)
        held.state = BatchState.SPLIT
        self.model.batches += [Held(part, BatchState.SEALED, batch.seq) for part in parts]
        assert [it.seq for it in made] == list(range(len(self.model.batches) - len(made) + 1, made[-1].seq + 1))

    @precondition(lambda self: self.model.in_state(BatchState.REJECTED))
    @rule(data=st.data())
    def bury(self, data: st.DataObject) -> None:
        batch, held = self._chosen(data, BatchState.REJECTED)
        self.file.dead(batch, [letter(number, "refused") for number in held.numbers], 5.0, ["c"])
        held.state = BatchState.DEAD
        self.model.dead |= {(number, batch.seq): "refused" for number in held.numbers}

    # -- the process ---------------------------------------------------------------------------------------------------

    @rule()
    def end_and_recover(self) -> None:
        """The process ends; the next one opens the file, and what was being sent is unknown."""
        self.file.close()
        self.file = Checkpoint.open(self.folder / "c")
        lost = self.model.in_state(BatchState.SENDING)
        assert [batch.seq for batch in self.file.recover()] == lost
        for seq in lost:
            self.model.batches[seq - 1].state = BatchState.UNKNOWN
            self.model.batches[seq - 1].attempts[-1] = "unknown"

    @rule(packed=st.integers(1, 4))
    def undo(self, packed: int) -> None:
        """A transaction that fails half-way leaves nothing behind."""

        class Halfway(Exception):
            pass

        numbers = list(range(self.model.read, self.model.read + packed))
        try:
            with self.file.transaction():
                self.file.seal(STAGE, draft(numbers), Progress(place(numbers[-1] + 1), 9, tally(numbers)), 1.0)
                raise Halfway
        except Halfway:
            return

    # -- what must hold ------------------------------------------------------------------------------------------------

    @invariant()
    def both_know_the_same(self) -> None:
        file, model = self.file, self.model
        found = [(it.seq, it.state, it.parent, it.attempts, it.ranges) for it in file.batches(STAGE, *BatchState)]
        assert found == [
            (seq, it.state, it.parent, len(it.attempts), draft(it.numbers).ranges)
            for seq, it in enumerate(model.batches, 1)
        ]
        letters = {(it.position.offset // 10, batch): it.code for batch, it in file.dead_letters(STAGE)}
        assert letters == model.dead
        assert file.progress(STAGE).frontier == (place(model.read) if model.read else Place())
        requests = sum(len(it.attempts) for it in model.batches)
        assert file.counts(STAGE)["requests"] == len(file.starts()) == requests

    @invariant()
    def each_batch_that_is_not_settled_has_its_body(self) -> None:
        """And no other: one that is accepted has samples, and what a crash left goes at the next start."""
        file, model = self.file, self.model
        settled = (BatchState.ACCEPTED, BatchState.SPLIT, BatchState.DEAD)
        for batch in file.batches(STAGE, *BatchState):
            numbers = model.batches[batch.seq - 1].numbers
            if batch.state not in settled:
                assert file.outbox.body(batch) == repr(numbers).encode()
            if batch.state is BatchState.ACCEPTED:
                assert [record.body for record in file.outbox.records(batch)] == [repr(numbers).encode()]
        if file.outbox.folder.exists():
            file.sweep_outbox()
            there = {path.name for path in file.outbox.folder.glob("*")} - {f"{STAGE}.samples"}
            held = [number for number, it in enumerate(model.batches, 1) if it.state not in settled]
            assert there == {f"{STAGE}-{number}" for number in held}

    @invariant()
    def the_totals_add_up(self) -> None:
        totals, model = self.file.totals(STAGE), self.model
        assert totals.balanced
        assert totals.read == tally(list(range(model.read)))
        assert totals.accepted == model.tally(BatchState.ACCEPTED)
        assert totals.unknown == model.tally(BatchState.UNKNOWN, BatchState.PARKED)
        assert totals.pending == model.tally(BatchState.SEALED, BatchState.SENDING, BatchState.REJECTED)
        assert totals.dead == add_up(tally([number]) for number, _ in model.dead)
        assert totals.filtered == tally(model.filtered)

    @invariant()
    def the_digest_is_that_of_what_is_there(self) -> None:
        self.file.verify()

    def _chosen(self, data: st.DataObject, *states: BatchState) -> tuple[Batch, Held]:
        seq = data.draw(st.sampled_from(self.model.in_state(*states)))
        (batch,) = [it for it in self.file.batches(STAGE, *BatchState) if it.seq == seq]
        return batch, self.model.batches[seq - 1]


TestCheckpoint = CheckpointMachine.TestCase
TestCheckpoint.settings = settings(
    max_examples=15, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
