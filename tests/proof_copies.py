"""Random histories of a checkpoint: older copies are put back at any moment, runs end in crashes."""

from __future__ import annotations

import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from streammig.errors import SamplesMissing, TargetStop, UnknownOutcome, Unusable
from streammig.sandbox.local import LocalTarget
from streammig.sandbox.sample import Sample, write_sample
from tests.commands import finished, process, quickly, sandbox, until
from tests.memory_target import FAULTS, Crash, MemoryTarget, Weather
from tests.proof_report import Found, scratch
from tests.virtual import VirtualClock, run_virtual
from tests.world import World, write_export

CUSTOMERS = 90


@dataclass
class History:
    """One migration: its runs, the copies made of its files, and what was done with them."""

    seed: int
    folder: Path
    dice: Random
    world: World
    keys: dict[str, set[str]]
    copies: list[Path] = field(default_factory=list)
    refused: int = 0
    lost: int = 0
    wrong: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    async def play(self) -> None:
        """Some runs that end in a crash, copies put back between them, then runs in good weather to the end."""
        for _ in range(self.dice.randrange(2, 6)):
            await self.run(self.dice.randrange(1, self.dice.choice([60, 150, 400])))
            if self.dice.random() < 0.7:
                self.copy()
            if self.copies and self.dice.random() < 0.6:
                await self.put_back(self.dice.choice(self.copies))
        self.world.target.weather = Weather()
        ended: Any = None
        for _ in range(6):
            # A run that ended before it had noted the operator's word needs it again. A copy that took the place of
            # another, whose outbox stayed, may lack bodies.
            code = ended.code if isinstance(ended, Unusable) else ""
            asked = {"checkpoint-stale": "newest_lost", "body-lost": "bodies_lost"}.get(code)
            ended = await self.run(None, **({asked: True} if asked else {}))
            if ended is True or isinstance(ended, UnknownOutcome):
                break
        self.check(ended)

    async def run(self, crash_at: int | None, **asked: Any) -> Any:
        """One run. It ends done, or by a crash, an answer that stops it, an unknown outcome, or a refusal."""
        self.world.asked = asked
        ended = await self.world.live(crash_at=crash_at, crash_after=self.dice.random() < 0.5)
        self.told.append(f"{asked or 'run'} {crash_at}: {type(ended).__name__} {ended}")
        if not isinstance(ended, bool | Crash | SamplesMissing | TargetStop | UnknownOutcome | Unusable):
            self.wrong.append(f"ended with {ended!r}")
        return ended

    # -- copies ------------------------------------------------------------------------------------------------------

    def files(self) -> list[Path]:
        """The checkpoint and what lies beside it."""
        return [it for it in self.folder.glob("run.checkpoint*") if it.suffix not in (".lock", ".owners")]

    def copy(self) -> None:
        if not (self.folder / "run.checkpoint").exists():
            return
        self.copies.append(self.folder / f"copy{len(self.copies)}")
        self.copies[-1].mkdir()
        _copy(self.files(), self.copies[-1])
        self.told.append(f"copied as {self.copies[-1].name}")

    def install(self, copy: Path, outbox: bool = True) -> None:
        """Put a copy in the place of the checkpoint; without its `outbox`, the one that is there stays."""
        for path in self.files():
            if outbox or not path.is_dir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        _copy([path for path in copy.iterdir() if outbox or not path.is_dir()], self.folder)

    async def put_back(self, copy: Path) -> None:
        """An older copy takes the checkpoint's place. If it is refused, the newest copy comes back, or is lost."""
        newest = self.folder / "newest"
        shutil.rmtree(newest, ignore_errors=True)
        newest.mkdir()
        _copy(self.files(), newest)
        self.install(copy, outbox=self.dice.random() < 0.5)
        self.told.append(f"put {copy.name} back")
        made = self.world.target.requests
        crash_at = self.dice.choice([None, self.dice.randrange(1, 200)])
        ended = await self.run(crash_at)
        if not isinstance(ended, Unusable):
            return
        self.refused += 1
        # Without its outbox a copy may lack the body of a batch that was settled since.
        if ended.code not in ("checkpoint-stale", "body-lost") or self.world.target.requests != made:
            self.wrong.append(f"refused with: {ended.what}")
        if ended.code == "body-lost" or self.dice.random() < 0.5:
            self.install(newest)
            self.told.append("brought the newest back")
            return
        ended = await self.run(crash_at, newest_lost=True)
        if isinstance(ended, Unusable):
            self.install(newest)  # it was told that this copy can't go on
        else:
            self.lost += 1

    # -- what must hold at the end -----------------------------------------------------------------------------------

    def check(self, ended: Any) -> None:
        if not (ended is True or isinstance(ended, UnknownOutcome)):
            self.wrong.append(f"does not finish: {ended!r}")
        target = self.world.target
        target.settle()
        totals = self.world.totals() if (self.folder / "run.checkpoint").exists() else {}
        for stage in self.keys:
            held = getattr(target, stage)
            twice = sorted(key for key, count in held.items() if count > 1)
            if twice:
                self.wrong.append(f"{stage}: came twice: {twice[:3]}")
            if stage not in totals:
                continue
            there = held.total() + sum(1 for key in target.dropped if key.startswith(f"{stage} "))
            if not totals[stage].balanced:
                self.wrong.append(f"{stage}: {totals[stage].taken} != {totals[stage].placed}")
            if totals[stage].accepted.units > there:
                self.wrong.append(f"{stage}: {totals[stage].accepted.units} units are accepted, {there} are there")
            missing = self.keys[stage] - set(held) - {it.partition(" ")[2] for it in target.dropped}
            if ended is True and len(missing) > totals[stage].dead.units:
                self.wrong.append(f"{stage}: lost {sorted(missing)[:3]}")


def _copy(paths: list[Path], folder: Path) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(folder / path.name, ignore_errors=True)
            shutil.copytree(path, folder / path.name)
        else:
            shutil.copy(path, folder / path.name)


def drawn(seed: int, folder: Path) -> History:
    """The history of this seed, to be made inside a virtual loop."""
    dice = Random(seed)
    keys = write_export(folder, CUSTOMERS, Random(seed))
    clock = VirtualClock()
    weather = Weather(dice.choice([{}, {}, dict.fromkeys(FAULTS, 0.03)]), queue=dice.choice([(0.1, 5.0), (5.0, 50.0)]))
    poison = frozenset({"c7"} if dice.random() < 0.2 else ())  # then there are parts of refused batches
    world = World(folder, MemoryTarget(clock, Random(seed + 1), weather, poison=poison), clock, Random(seed + 2))
    world.settings = {"limits": "off", "concurrency": dice.choice([1, 4, 4]), "most_parked": 1000}
    if dice.random() < 0.6:  # what is unknown of events would keep transactions from being sent
        world.settings["events"] = {}
        del keys["events"]
    return History(seed, folder, dice, world, keys)


def played(seed: int, folder: Path) -> History:
    found: list[History] = []

    async def main() -> None:
        found.append(drawn(seed, folder))
        await found[0].play()

    run_virtual(main())
    return found[0]


def put_back(histories: int, seed: int) -> Found:
    """So many histories."""
    found = Found()
    for number in range(seed, seed + histories):
        with scratch() as folder:
            history = played(number, folder)
        found.points += 1
        found.refusals += history.refused
        found.unknowns += history.lost
        if history.wrong:
            found.violations.append(f"seed {number}: {history.wrong[0]}\n  shown by: played({number}, folder)")
    return found


# -- the real command ------------------------------------------------------------------------------------------------


def by_command(seed: int, folder: Path) -> tuple[list[str], int]:
    """Kill the real command at random moments, put older copies or a checkpoint without its -wal back, and finish.

    Returns what did not hold, in words, and how many runs were refused.
    """
    dice, checkpoint, copies = Random(seed), folder / "migration.checkpoint", list[Path]()
    written = write_sample(Sample(500, transactions=3, size=600, seed=seed), folder / "export.json")
    files = [f"--{name}=export.json#customers" for name in ("customers", "transactions")]
    wrong, refusals = list[str](), 0
    with sandbox(latency=0.005, queue_delay=0.02, seed=seed) as target:
        command = ["run", *files, "--max-bytes", 12_000, "--unchecked", *quickly(target.url), "--json"]
        for _ in range(3):
            with process(folder, *command) as running:
                _at_work(running, target)
                time.sleep(dice.uniform(0, 0.4))
                running.kill()
                running.communicate()
            copies.append(folder / f"copy{len(copies)}")
            copies[-1].mkdir()
            _copy(list(folder.glob("migration.checkpoint*")), copies[-1])
            if dice.random() < 0.5:
                _copy(list(dice.choice(copies).iterdir()), folder)
            elif dice.random() < 0.5:
                checkpoint.with_name(checkpoint.name + "-wal").unlink(missing_ok=True)
            checkpoint.with_name(checkpoint.name + "-shm").unlink(missing_ok=True)
        ended = finished(folder, *command)
        if ended.code == 2:
            refusals += 1
            if ended.document["error"]["code"] != "checkpoint-stale":
                wrong.append(f"refused: {ended.out}{ended.err}")
            ended = finished(folder, *command, "--newest-is-lost")
        # The lost copy may have sent parts of a batch: then this one stays refused.
        for_good = ended.code == 2 and ended.document["error"]["code"] == "checkpoint-stale-for-good"
        if ended.code not in (0, 4) and not for_good:
            wrong.append(f"ended with {ended.code}: {ended.err}")
        ledger = target.ledger()
    for name, good in written.good.items():
        if ledger["twice"][name]["count"]:
            wrong.append(f"{name} came twice: {ledger['twice'][name]}")
        there = ledger["holds"][name]["count"] + sum(of["units"] for of in ledger["dropped"][name].values())
        if name in ("customers", "transactions") and ended.code == 0 and there != good.units:
            wrong.append(f"{name}: {there} of {good.units} are there")
    return wrong, refusals


def _at_work(running: subprocess.Popen[str], target: LocalTarget) -> None:
    """Wait until it has sent something, or has ended."""
    sent = target._sandbox._running().script._seen
    before = dict(sent)
    until(lambda: running.poll() is not None or dict(sent) != before, "a sign of work")


def commands_put_back(histories: int, seed: int) -> Found:
    """So many histories of the real command."""
    found = Found()
    for number in range(seed, seed + histories):
        with scratch() as folder:
            wrong, refused = by_command(number, folder)
        found.points += 1
        found.refusals += refused
        if wrong:
            found.violations.append(f"seed {number}: {wrong[0]}\n  shown by: by_command({number}, folder)")
    return found
