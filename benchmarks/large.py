"""Large exports of customers of about 1 KB in little time: 50,000 of them are made, then repeated.

So ids repeat, and `streammig run` needs `--unchecked`. Otherwise the file is like a real one.
"""

from __future__ import annotations

from pathlib import Path

from streammig.sandbox.sample import Sample, write_sample

MADE = 50_000
HEAD, TAIL = b'{"customers":[', b"]}"


def write_large(path: Path, gigabytes: float) -> int:
    """Write an export of about so many gigabytes; the number of its customers."""
    made = min(MADE, max(round(gigabytes * 1e6), 1))
    write_sample(Sample(made), {"customers": path})
    records = path.read_bytes().removeprefix(HEAD).rstrip().removesuffix(TAIL)
    times = max(round(gigabytes * 1e9 / len(records)), 1)
    with path.open("wb") as out:
        out.write(HEAD + records)
        for _ in range(times - 1):
            out.write(b",")
            out.write(records)
        out.write(TAIL)
    return made * times
