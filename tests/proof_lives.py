"""Lives of the client as processes of their own, that end at a write of a file; their target outlives them."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from streammig.checkpoint import Checkpoint, Totals, fence_path
from streammig.clock import Clock
from streammig.errors import Problem
from streammig.migration import Migration
from streammig.model import BatchState
from streammig.ratelimit import account_name, account_path
from tests.memory_target import MemoryTarget, Weather
from tests.proof_writes import Fate, Writes
from tests.virtual import EPOCH, VirtualClock, run_virtual
from tests.world import World, write_export

STAGES = ("customers", "events", "transactions")


class Ended(NamedTuple):
    """How a life ended: `word` is "whole", "paused", "killed" or the name of a problem, `code` its exit code."""

    word: str
    code: int
    said: str
    writes: int
    failures: int = 0
    sends_after_failure: tuple[bytes, ...] = ()


class Lives:
    """One export, one target, one folder for checkpoint and state folder; each life is a forked process.

    The parent keeps what the target took in. `weather` and `settings` are those of the next life.
    """

    def __init__(self, folder: Path, seed: int, customers: int = 60, settings: dict[str, Any] | None = None) -> None:
        self.folder = folder
        self.seed, self.lives = seed, 0
        self.settings: dict[str, Any] = {"concurrency": 2, "limits": "off", "most_parked": 1000} | (settings or {})
        self.weather = Weather()
        self.asked: dict[str, Any] = {}
        self.keys = write_export(folder, customers, Random(seed))
        self.now = EPOCH
        self.sent: list[bytes] = []
        self.taken: list[tuple[float, str, bytes]] = []

    @property
    def checkpoint(self) -> Path:
        return self.folder / "run.checkpoint"

    @property
    def account(self) -> Path:
        return account_path(self.folder / "state", account_name(None, "http://127.0.0.1:1", "key"))

    @property
    def fence(self) -> Path:
        found = [*(self.folder / "state").glob("*.fence")]
        return found[0] if found else fence_path(self.folder / "state", "none")

    @property
    def stages(self) -> list[str]:
        return [name for name in STAGES if self.settings.get(name) != {}]

    def live(self, fate: Fate = Fate()) -> Ended:  # noqa: B008 - a frozen value
        """One life, to its end or to its fate."""
        self.lives += 1
        reads, writes = os.pipe()
        with warnings.catch_warnings():
            # A test runner's other threads: the child does nothing that they could hold a lock for.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            os.close(reads)
            _end_as(lambda: self._child(writes, fate))
        os.close(writes)
        ended = self._listen(reads)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) in (signal.SIGKILL, signal.SIGXFSZ), f"killed by {os.WTERMSIG(status)}"
            return ended._replace(word="killed")
        assert os.WEXITSTATUS(status) == 0, ended.said
        return ended

    def _listen(self, reads: int) -> Ended:
        after: list[bytes] = []
        ended = Ended("killed", 0, "", 0)
        with os.fdopen(reads, "rb") as stream:
            for kind, what in _messages(stream):
                if kind == "take":
                    self.taken.append(what)
                elif kind == "now":
                    self.now = max(self.now, what)
                elif kind == "write":
                    ended = ended._replace(writes=what)
                elif kind == "failed":
                    ended = ended._replace(failures=ended.failures + 1)
                elif kind == "send":
                    self.sent.append(what)
                    after += [what] if ended.failures else []
                elif kind == "end":
                    ended = ended._replace(word=what[0], code=what[1], said=what[2])
        return ended._replace(sends_after_failure=tuple(after))

    def _child(self, writes: int, fate: Fate) -> None:
        tell, dice = _Teller(writes), Random(f"{self.seed} {self.lives}")
        running: list[Migration] = []
        Writes(fate, tell, lambda: running[0].drain()).watch()

        class Watched(World):
            def migration(self) -> Migration:
                running.append(super().migration())
                return running[0]

        async def main() -> None:
            clock = VirtualClock(self.now)
            target = _ToldTarget(clock, Random(dice.random()), self.weather, queue=list(self.taken), told=tell)
            world = Watched(self.folder, target, clock, Random(dice.random()), self.settings, asked=self.asked)
            tell.clock = clock
            ended = await world.live()
            match ended:
                case bool():
                    tell("end", ("whole" if ended else "paused", 0, ""))
                case Problem():
                    tell("end", (type(ended).__name__, ended.exit_code, str(ended)))
                case _:
                    raise AssertionError(ended)

        try:
            run_virtual(main())
        except BaseException:
            tell("end", ("defect", -1, traceback.format_exc()))

    # -- what is there, after any life -------------------------------------------------------------------------------

    def held(self) -> MemoryTarget:
        """The target once its queue has done all its work."""
        found: list[MemoryTarget] = []

        async def main() -> None:
            target = MemoryTarget(VirtualClock(self.now), Random(0), queue=list(self.taken))
            target.settle()
            found.append(target)

        run_virtual(main())
        return found[0]

    def totals(self) -> dict[str, tuple[Totals, int, int]]:
        """By stage: its totals, and the units and number of batches that are being sent, as far as the file knows."""
        if not self.checkpoint.exists():
            return {}
        with closing(Checkpoint.open(self.checkpoint, read_only=True)) as file:
            return {
                row.name: (
                    file.totals(row.name),
                    sum(it.tally.units for it in file.batches(row.name, BatchState.SENDING)),
                    len(file.batches(row.name, BatchState.SENDING)),
                )
                for row in file.stages()
            }

    def doubtful(self) -> int:
        """Batches whose outcome the next life will not know, though the last one did: no more than were in flight."""
        if not self.checkpoint.exists():
            return 0
        with closing(Checkpoint.open(self.checkpoint, read_only=True)) as file:
            found = {(row.name, it.seq) for row in file.stages() for it in file.batches(row.name, BatchState.SENDING)}
        return len(found)

    def wrong(self, ended: Ended) -> list[str]:
        """What does not hold after a life, in words; empty if all does."""
        found: list[str] = []
        if ended.word == "defect" or (ended.code == 1 and ended.word != "MachineFault"):
            found.append(f"a defect: {ended.said}")
        found += self.wrong_at_target()
        if ended.word == "killed" and self.doubtful() > self.settings["concurrency"]:
            found.append(f"{self.doubtful()} new unknowns, {self.settings['concurrency']} requests in flight at most")
        return found

    def wrong_at_target(self) -> list[str]:
        """Nothing twice, nothing that was never asked for, and as much as the totals of the checkpoint allow."""
        found, target, totals = self.twice(), self.held(), self.totals()
        for stage in STAGES:
            there = getattr(target, stage).total() + sum(1 for key in target.dropped if key.startswith(stage))
            if stage not in totals:
                found += [f"{stage}: {there} units are there, though there are no totals"] if there else []
                continue
            total, sending, _ = totals[stage]
            if not total.balanced:
                found.append(f"{stage}: {total.taken} != {total.placed}")
            least, most = total.accepted.units, total.accepted.units + total.unknown.units + sending
            if not least <= there <= most:
                found.append(f"{stage}: the target has taken {there} units, the totals say {least} to {most}")
        return found

    def twice(self) -> list[str]:
        target, found = self.held(), []
        for stage, wanted in self.keys.items():
            there = getattr(target, stage)
            found += [f"{stage}: {key} came {count} times" for key, count in there.items() if count > 1]
            found += [f"{stage}: {key} was never asked for" for key in there if key not in wanted]
        return found

    def finish(self) -> list[str]:
        """Good weather until it has finished: all is there, or parked; what does not hold, in words."""
        self.weather = Weather(queue=self.weather.queue)
        ended = self.live()
        for _ in range(4):
            if ended.word not in ("killed", "paused"):
                break
            ended = self.live()
        if ended.word not in ("whole", "UnknownOutcome"):
            return [f"it does not finish: {ended}"]
        found, target = self.wrong(ended), self.held()
        totals = self.totals()
        for stage in self.stages if ended.word == "whole" else ():
            there = set(getattr(target, stage)) | {key.partition(" ")[2] for key in target.dropped}
            if missing := self.keys[stage] - there:
                found.append(f"{stage}: missing for ever: {sorted(missing)[:3]}")
            if totals[stage][0].accepted.units != len(self.keys[stage]):
                found.append(f"{stage}: {totals[stage][0].accepted.units} accepted of {len(self.keys[stage])}")
        return found


# -- inside the child ------------------------------------------------------------------------------------------------


def _end_as(work: Callable[[], None]) -> None:
    """Do the work and leave this process without what the parent had yet to do."""
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # SIGXFSZ leaves a core
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(70)


@dataclass
class _Teller:
    """Tells the parent what happened, at once: what was told outlives the process. (A pipe has no size limit.)"""

    pipe: int
    clock: Clock | None = None

    def __call__(self, kind: str, what: Any) -> None:
        told = pickle.dumps((kind, what))
        if self.clock is not None:
            told += pickle.dumps(("now", self.clock.time()))
        while told:
            told = told[os.write(self.pipe, told) :]


def _messages(stream: Any) -> Iterator[tuple[str, Any]]:
    while True:
        try:
            yield pickle.load(stream)
        except (EOFError, pickle.UnpicklingError):
            return


def _silent(kind: str, what: Any) -> None:
    """Nobody listens."""


@dataclass
class _ToldTarget(MemoryTarget):
    told: Callable[[str, Any], None] = field(default=_silent)

    async def _send(self, stage: str, body: bytes, began: Callable[[], None] = lambda: None) -> Any:
        self.told("send", body)
        return await super()._send(stage, body, began)

    def _take(self, stage: str, body: bytes) -> None:
        super()._take(stage, body)
        self.told("take", self.queue[-1])
