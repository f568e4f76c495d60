"""A million customers of about 1 KB through the real command to the sandbox, without limits: time and peak memory.

    python -m benchmarks.migrate [--customers 1000000] [--json]

Client and sandbox are two processes on one machine. They share its cores, so the time is that of both. The memory is
the client's: the resident memory of `streammig run` and its readers together, sampled 20 times a second, or the
kernel's own peak of the command if that is more.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from benchmarks.watching import Watching
from streammig.sandbox.sample import Sample, Written, write_sample

GOAL_MB = 150
DRAIN_SECONDS = 600
PROGRAM = [sys.executable, "-m", "streammig"]


@contextmanager
def sandbox(folder: Path, latency: float = 0.0) -> Iterator[tuple[str, str]]:
    """Its base URL and API key, as long as the block lasts. It waits `latency` seconds before each answer."""
    arguments = ["sandbox", "--port", "0", "--limits", "off", "--store", str(folder / "sandbox.sqlite")]
    arguments += ["--latency", str(latency)]
    with subprocess.Popen([*PROGRAM, *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            words = process.stdout.readline().split()
            if "API" not in words:
                raise SystemExit("the sandbox did not start")
            yield words[words.index("at") + 1], words[-1]
        finally:
            process.terminate()


def told(url: str) -> Any:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=DRAIN_SECONDS) as answer:
        return json.load(answer)


class Memory(Watching):
    """Watches, in bytes, what a process and its readers hold in memory together (`peak`)."""

    def __init__(self, pid: int) -> None:
        self.peak = 0
        super().__init__()
        self._pid = pid

    def look(self) -> None:
        family = list(descendants(self._pid))
        highest = max((it.peak for it in family if it.pid == self._pid), default=0)
        self.peak = max(self.peak, highest, sum(it.resident for it in family))


class Process(NamedTuple):
    """A process; `resident` and `peak` in bytes, `peak` 0 where the system does not say it."""

    pid: int
    parent: int
    resident: int
    peak: int
    command: str


def descendants(root: int) -> Iterator[Process]:
    """A process and all that descend from it; none once it has ended."""
    found = {it.pid: it for it in processes()}
    family = {root} & found.keys()
    while more := {it.pid for it in found.values() if it.parent in family} - family:
        family |= more
    return (found[pid] for pid in family)


def processes() -> Iterator[Process]:
    """Every process of this machine."""
    if not Path("/proc/self/status").exists():
        listing = subprocess.run(
            ["ps", "-axo", "pid=,ppid=,rss=,command="], stdout=subprocess.PIPE, text=True, check=True
        )
        for line in listing.stdout.splitlines():
            pid, parent, kilobytes, command = line.split(None, 3)
            yield Process(int(pid), int(parent), int(kilobytes) * 1024, 0, command)
        return
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text, command = ((entry / name).read_text(errors="replace") for name in ("status", "cmdline"))
            except OSError:
                continue  # it has ended since
            fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
            if "VmRSS" in fields:
                resident, peak = (int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
                yield Process(int(entry.name), int(fields["PPid"]), resident, peak, command)


def migrate(folder: Path, url: str, key: str) -> dict[str, Any]:
    """Run the migration; its document, exit code, seconds and peak memory in bytes."""
    arguments = [
        "run", "--customers", "customers.json", "--base-url", url, "--limits", "off", "--settle-time", "0",
        "--state-dir", "state", "--json", "--quiet",
    ]  # fmt: skip
    own = {**os.environ, "MASIVO_API_KEY": key, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    begun = perf_counter()
    with (folder / "totals.json").open("wb") as out:
        process = subprocess.Popen([*PROGRAM, *arguments], cwd=folder, env=own, stdout=out)
        with Memory(process.pid) as memory:
            process.wait()
    seconds = perf_counter() - begun
    totals = json.loads((folder / "totals.json").read_text() or "null")
    return {"totals": totals, "exit": process.returncode, "seconds": seconds, "peak": memory.peak}


def same(written: Written, totals: Any, ledger: Any) -> bool:
    """Whether the sandbox holds what was to arrive, once, and the totals say so."""
    from decimal import Decimal

    good, held, account = written.good["customers"], ledger["holds"]["customers"], totals["stages"]["customers"]
    balances = {reward: Decimal(text) for reward, text in held["balances"].items()}
    accepted = {reward: Decimal(text) for reward, text in account["sums"]["accepted"].items()}
    counts = {good.records, account["accepted"], held["count"], held["landed"]}
    return bool(totals["balanced"] and len(counts) == 1 and good.sums == balances == accepted)


def measure(customers: int, folder: Path) -> dict[str, Any]:
    begun = perf_counter()
    written = write_sample(Sample(customers), {"customers": folder / "customers.json"})
    made = perf_counter() - begun
    with sandbox(folder) as (url, key):
        found = migrate(folder, url, key)
        told(f"{url}/_sandbox/drain?timeout={DRAIN_SECONDS}")
        ledger = told(f"{url}/_sandbox/ledger")
    if found["totals"] is None:
        raise SystemExit(f"streammig run ended with {found['exit']} and no totals")
    account, seconds = found["totals"]["stages"]["customers"], found["seconds"]
    return {
        "records": customers,
        "megabytes": round(written.bytes / 1e6, 1),
        "seconds_to_generate": round(made, 1),
        "seconds": round(seconds, 1),
        "records_per_second": round(customers / seconds),
        "megabytes_per_second": round(written.bytes / 1e6 / seconds, 1),
        "requests": account["requests"],
        "fill": account["fill"],
        "peak_megabytes": round(found["peak"] / 1e6, 1),
        "goal_megabytes": GOAL_MB,
        "reached": found["peak"] <= GOAL_MB * 1e6,
        "exit": found["exit"],
        "ledger_holds_exactly_what_was_read": same(written, found["totals"], ledger),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--customers", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="streammig-migrate-") as name:
        found = measure(asked.customers, Path(name))
    right = found["exit"] == 0 and found["ledger_holds_exactly_what_was_read"]
    if asked.json:
        print(json.dumps(found, indent=2))
    else:
        show(found)
    return 0 if right and found["reached"] else 1


def show(found: dict[str, Any]) -> None:
    yes = {True: "yes", False: "NO"}
    print(f"streammig run --limits off, {found['records']:,} customers, {found['megabytes']:,} MB, to the sandbox\n")
    for name, text in {
        "seconds": f"{found['seconds']:,}",
        "records / s": f"{found['records_per_second']:,}",
        "MB / s": f"{found['megabytes_per_second']:,}",
        "requests": f"{found['requests']:,}",
        "fill": f"{found['fill']:.1%}",
        "peak memory of the client, MB": f"{found['peak_megabytes']:,}",
        "  goal, MB": f"{found['goal_megabytes']:,}",
        "  reached": yes[found["reached"]],
        "exit code": f"{found['exit']}",
        "the ledger holds what was read": yes[found["ledger_holds_exactly_what_was_read"]],
    }.items():
        print(f"{name:<32}{text:>12}")


if __name__ == "__main__":
    sys.exit(main())
