"""Write a loyalty export of any size, the same for the same seed.

    python -m benchmarks.exports --customers 1000000 --out customers.json
    python -m benchmarks.exports --customers 50000 --events 5 --transactions 3 --out all.json
    python -m benchmarks.exports --customers 50000 --events 5 --transactions 3 --out folder --ndjson

Without events and transactions, only customers are written. With them, an `--out` that ends in .json or .ndjson is one
file with everything; any other `--out` is a folder with a file for each stage. The counts are printed on stdout.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from time import perf_counter

from streammig.sandbox.sample import STAGES, Sample, Written, write_sample


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--customers", type=int, default=1_000_000)
    made.add_argument("--events", type=float, default=0.0, help="of a customer, on average")
    made.add_argument("--transactions", type=float, default=0.0, help="of a customer, on average")
    made.add_argument("--size", type=int, default=1000, help="bytes of a compact customer, on average")
    made.add_argument("--deleted", type=float, default=0.0, help="share of the customers")
    made.add_argument("--bad", type=float, default=0.0, help="share of the customers")
    made.add_argument("--reversed", type=float, default=0.0, help="share of the events")
    made.add_argument("--plain", action="store_true", help="no names beyond ASCII")
    made.add_argument("--pretty", action="store_true", help="indented JSON")
    made.add_argument("--ndjson", action="store_true", help="NDJSON in a folder of files")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--out", type=Path, required=True)
    made.add_argument("--json", action="store_true", help="say what was written as JSON")
    return made


def export(asked: argparse.Namespace) -> Written:
    sample = Sample(
        asked.customers, asked.events, asked.transactions, asked.size, asked.deleted, asked.reversed, asked.bad,
        not asked.plain, asked.pretty, asked.seed,
    )  # fmt: skip
    if asked.out.suffix in (".json", ".ndjson"):
        wanted = asked.out if asked.events or asked.transactions else {"customers": asked.out}
        return write_sample(sample, wanted)
    asked.out.mkdir(parents=True, exist_ok=True)
    stages = [stage for stage in STAGES if stage == "customers" or getattr(asked, stage)]
    suffix = "ndjson" if asked.ndjson else "json"
    return write_sample(sample, {stage: asked.out / f"{stage}.{suffix}" for stage in stages})


def main() -> int:
    asked = parser().parse_args()
    begun = perf_counter()
    written = export(asked)
    seconds = perf_counter() - begun
    if asked.json:
        good = {stage: part._asdict() for stage, part in written.good.items()}
        counts = {name: getattr(written, name) for name in ("customers", "deleted", "bad", "events", "reversed")}
        told = {**counts, "transactions": written.transactions, "bytes": written.bytes, "good": good}
        print(json.dumps({**told, "seconds": round(seconds, 2)}, indent=2, default=str))
        return 0
    print(f"{asked.out}: {written.bytes / 1e6:,.1f} MB in {seconds:.1f} s")
    print(f"  {written.customers:,} customers, {written.deleted:,} of them deleted, {written.bad:,} bad")
    print(f"  {written.events:,} events, {written.reversed:,} of them reversed; {written.transactions:,} transactions")
    return 0


if __name__ == "__main__":
    sys.exit(main())
