"""Exports of customers for benchmarks: large ones in little time, and small customers.

In a large one 50,000 customers of about 1 KB are made, then repeated. So ids repeat, and `streammig run` needs
`--unchecked`. Otherwise the file is like a real one.
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


def write_small(path: Path, megabytes: float) -> int:
    """Write an export of about so many megabytes of customers of some 330 bytes; the number of its customers."""
    made = max(round(megabytes * 1e6 / len(_small(1_000_000))), 1)
    with path.open("wb") as out:
        out.write(HEAD)
        for number in range(made):
            out.write((b"," if number else b"") + _small(number))
        out.write(TAIL)
    return made


def _small(number: int) -> bytes:
    """A customer with what Masivo requires and one lot."""
    return (
        b'{"id":"customer-%07d","name":"Ren\xc3\xa9e %d Example","email":"customer-%d@example.com",'
        b'"registration_date":"20%02d-0%d-1%dT08:30:00Z","gender":"FEMALE","country":"DE",'
        b'"balance":[{"reward_id":"5f0c1f0a-6f8e-4a57-9d55-0c8f1a2b3c4d",'
        b'"amount":%d.%02d,"expiration_date":null,"brand_id":null,"issued_at":"2024-05-1%dT10:00:00Z"}]}'
    ) % (number, number, number, number % 24, number % 9 + 1, number % 10, number % 9000, number % 100, number % 10)
