"""Sends a file to a target without limits, and compares ways to do so.

    python -m benchmarks.end_to_end [--mb N] [--rounds N] [--json]

Contestants take turns, each a process of its own, against a target in another process that takes everything at once:

- streammig: the real command, `streammig run --limits off --settle-time 0 --unchecked`, with every rule, the
  checkpoint and the account's file, both synced
- streammig, python: the same with the rules in Python, where the compiled judge is the one at work
- script: a simple program instead: ijson, batches of 1,000, `gather` over four requests of aiohttp's `json=`; it
  validates nothing and keeps no checkpoint
- script, orjson: the same with orjson as the encoder
- ceiling: the same aiohttp posting bodies that were built beforehand, four at a time; only the posting is timed

Each takes `--mb` of customers of 1 KB, then a third of that in customers of 330 bytes. Seconds are those of the whole
process but for the ceiling; ratios are medians of the rounds' ratios. `held` is how late the client's event loop is
for a timer that is due every 5 ms, at the 99th percentile. `parent` is the CPU of the client's first process from the
start of its event loop on, per batch: it seals, syncs and posts what the reader's process made.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from compileall import compile_dir
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import streammig
from benchmarks.figures import figures, yes
from benchmarks.large import write_small
from benchmarks.migrate import Memory
from benchmarks.null_target import direct, null_target, seen
from streammig.masivo.rules.compiled import VARIABLE, is_compiled
from streammig.sandbox.sample import Sample, write_sample

SMALL = "330 bytes"
PYTHON = "streammig, python"
GOALS = {"script": 4.0, "small": 3.0} if is_compiled() else {"script": 1.3, "small": 1.0}
GOALS |= {"held": 0.020, "parent": 0.004}
BATCH, UNDER_WAY = 1000, 4
EVERY = 0.005
PATH = "/customers/migrate"


# -- contestants, each in a process of its own -------------------------------------------------------------------------


def run_script(file: str, url: str, fast: bool) -> None:
    import aiohttp
    import ijson
    import orjson

    encode = (lambda value: orjson.dumps(value).decode()) if fast else json.dumps

    async def main() -> None:
        async with aiohttp.ClientSession(json_serialize=encode) as session:

            async def post(records: list[Any]) -> None:
                async with session.post(url + PATH, json={"customers": records}) as answer:
                    answer.raise_for_status()

            with open(file, "rb") as source:  # noqa: ASYNC230  # as such scripts are
                batch: list[Any] = []
                batches: list[list[Any]] = []
                for record in ijson.items(source, "customers.item", use_float=True):
                    batch.append(record)
                    if len(batch) == BATCH:
                        batches.append(batch)
                        batch = []
                    if len(batches) == UNDER_WAY:
                        await asyncio.gather(*map(post, batches))
                        batches = []
                await asyncio.gather(*map(post, [*batches, batch] if batch else batches))

    asyncio.run(main())


def run_ceiling(file: str, url: str) -> None:
    """Prints the seconds that posting alone took, for bodies of the file's size."""
    import aiohttp

    size = Path(file).stat().st_size
    with open(file, "rb") as source:
        bodies = [source.read(1_000_000) for _ in range(16)]
    count = max(round(size / 1_000_000), 1)

    async def main() -> float:
        async with aiohttp.ClientSession() as session:
            left = iter(range(count))

            async def work() -> None:
                for number in left:
                    async with session.post(url + PATH, data=bodies[number % len(bodies)]) as answer:
                        answer.raise_for_status()

            begun = perf_counter()
            await asyncio.gather(*(work() for _ in range(UNDER_WAY)))
            return perf_counter() - begun

    print(asyncio.run(main()))


def run_streammig(arguments: list[str]) -> None:
    """The real command, with a timer beside it that notes how late it was called. How late it was and the CPU seconds
    of this process since the loop began go to the file `loop.json`."""
    late: list[float] = []
    begun: list[float] = []

    class Timed(asyncio.DefaultEventLoopPolicy):
        def new_event_loop(self) -> asyncio.AbstractEventLoop:
            loop = super().new_event_loop()
            begun.append(process_time())

            def tick(due: float) -> None:
                now = loop.time()
                late.append(now - due)
                loop.call_at(now + EVERY, tick, now + EVERY)

            loop.call_soon(tick, loop.time())
            return loop

    from streammig.cli import main

    asyncio.set_event_loop_policy(Timed())
    sys.argv = ["streammig", *arguments]
    try:
        main()
    finally:
        cpu = process_time() - begun[0] if begun else 0.0
        Path("loop.json").write_text(json.dumps({"late": late, "cpu": cpu}))


# -- the race ----------------------------------------------------------------------------------------------------------


def timed(contestant: str, file: Path, url: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.end_to_end", "--as", contestant, "--file", str(file), "--url", url]
    before = seen(url)
    with tempfile.TemporaryDirectory(dir=folder) as own:
        begun = perf_counter()
        here = direct() | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
        here |= {VARIABLE: "python"} if contestant == PYTHON else {}
        process = subprocess.Popen(command, cwd=own, env=here, stdout=subprocess.PIPE)
        assert process.stdout is not None
        with Memory(process.pid) as memory:
            said = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
        seconds = perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{contestant} ended with {process.returncode}")
        loop = json.loads((Path(own) / "loop.json").read_text()) if contestant.startswith("streammig") else {}
    after = seen(url)
    found = {
        "seconds": float(said) if contestant == "ceiling" else seconds,
        "cpu": usage.ru_utime + usage.ru_stime,
        "requests": after["requests"] - before["requests"],
        "bytes": after["bytes"] - before["bytes"],
        "peak_mb": memory.peak / 1e6,
    }
    if loop:
        found |= {"held": statistics.quantiles(loop["late"], n=100)[98], "parent": loop["cpu"] / found["requests"]}
    return found


def race(file: Path, customers: int, rounds: int, folder: Path) -> dict[str, Any]:
    """All contestants, in turn, over one export."""
    contestants = ("streammig", *([PYTHON] if is_compiled() else []), "script", "script, orjson", "ceiling")
    table: dict[str, list[dict[str, Any]]] = {name: [] for name in contestants}
    with null_target() as url:
        for _ in range(rounds):
            for name in contestants:
                table[name].append(timed(name, file, url, folder))
    ours = [each["seconds"] for each in table["streammig"]]
    return {
        "customers": customers,
        "megabytes": round(file.stat().st_size / 1e6, 1),
        "contestants": {
            name: {key: round(statistics.median(each[key] for each in found), 4) for key in found[0]}
            for name, found in table.items()
        },
        "times": {
            name: round(statistics.median(their["seconds"] / mine for mine, their in zip(ours, found, strict=True)), 3)
            for name, found in table.items()
            if name != "streammig"
        },
    }


def measure(megabytes: float, rounds: int, folder: Path) -> dict[str, Any]:
    compile_dir(Path(streammig.__file__).parent, quiet=1)  # as pip does when it installs what the scripts import
    files = {"1 KB": folder / "customers.json", SMALL: folder / "small.json"}
    customers = max(round(megabytes * 1000), 1)
    write_sample(Sample(customers), {"customers": files["1 KB"]})
    counts = {"1 KB": customers, SMALL: write_small(files[SMALL], megabytes / 3)}
    found = {name: race(file, counts[name], rounds, folder) for name, file in files.items()}
    large, small = found.values()
    ours = large["contestants"]["streammig"]
    figures = {
        "script": large["times"]["script"],
        "small": small["times"]["script, orjson"],
        "held": ours["held"],
        "parent": ours["parent"],
    }
    reached = {name: figures[name] >= goal for name, goal in GOALS.items() if name in ("script", "small")}
    reached |= {name: figures[name] <= GOALS[name] for name in ("held", "parent")}
    return {"rounds": rounds, "cores": os.cpu_count(), "sizes": found, "figures": figures, "reached": reached}


def show(found: dict[str, Any]) -> None:
    for name, race in found["sizes"].items():
        print(f"{race['customers']:,} customers of {name}, {race['megabytes']:,} MB, {found['cores']} cores\n")
        print(f"{'':<16}{'seconds':>9}{'MB/s':>8}{'CPU s':>8}{'requests':>10}{'peak MB':>9}{'our speed':>11}")
        for contestant, row in race["contestants"].items():
            times = race["times"].get(contestant)
            print(
                f"{contestant:<16}{row['seconds']:>9.2f}{race['megabytes'] / row['seconds']:>8.1f}{row['cpu']:>8.2f}"
                f"{row['requests']:>10,.0f}{row['peak_mb']:>9.1f}{'' if times is None else f'{times:.3f} x':>11}"
            )
        print()
    figures, reached = found["figures"], found["reached"]
    for name, text, unit in (
        ("script", "1 KB, times the script", 1),
        ("small", "330 bytes, times the script with orjson", 1),
        ("held", "loop held, p99, ms", 1000),
        ("parent", "parent, CPU ms a batch", 1000),
    ):
        print(f"{text:<42}{figures[name] * unit:>8.2f}   goal {GOALS[name] * unit:g}: {yes(reached[name])}")


def contend() -> int:
    """Be one of the contestants."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--as", dest="contestant")
    parser.add_argument("--file")
    parser.add_argument("--url")
    asked = parser.parse_args()
    match asked.contestant:
        case "streammig" | "streammig, python":
            run_streammig(
                ["run", "--customers", asked.file, "--base-url", asked.url, "--limits", "off", "--settle-time", "0",
                 "--unchecked", "--state-dir", "state", "--quiet"]
            )  # fmt: skip
        case "script" | "script, orjson":
            run_script(asked.file, asked.url, asked.contestant != "script")
        case "ceiling":
            run_ceiling(asked.file, asked.url)
    return 0


def main() -> int:
    return contend() if "--as" in sys.argv else figures(__doc__, "race", measure, show, mb=1000.0, rounds=3)


if __name__ == "__main__":
    sys.exit(main())
