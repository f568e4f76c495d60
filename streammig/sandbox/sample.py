"""Write loyalty exports of any size, the same for the same seed, and count the records that must arrive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import BinaryIO, NamedTuple

from streammig.sandbox.making import (
    ENTRY,
    RECORD,
    REWARDS,
    Customers,
    Dice,
    Histories,
    Layout,
    Purchases,
    Spread,
    Wallet,
)
from streammig.sandbox.making import indented as line

STAGES = ("customers", "events", "transactions")
BUFFER = 1 << 20


@dataclass(frozen=True, slots=True)
class Sample:
    """The shape of an export.

    `events` and `transactions` are means: a customer has between none and twice as many. `size` is the mean size of a
    compact customer without history, in bytes. `deleted` and `bad` are shares of the customers, `reversed` is a share
    of the events. They are spread evenly, so 3 / customers makes 3 of them. A deleted customer has no history, as in
    systems that must forget people. `pretty` indents JSON; NDJSON stays one record a line.
    """

    customers: int = 1000
    events: float = 2.0
    transactions: float = 2.0
    size: int = 1000
    deleted: float = 0.0
    reversed: float = 0.0
    bad: float = 0.0
    unicode: bool = True
    pretty: bool = False
    seed: int = 0


class Part(NamedTuple):
    """Records and units of a stage, and their exact sums: by reward, or of the `purchases`."""

    records: int
    units: int
    sums: Mapping[str, Decimal]


@dataclass(frozen=True, slots=True)
class Written:
    """The content of the files. `good` is the part of each stage that must arrive.

    That is all but deleted, reversed and bad records, and records of bad customers.
    """

    customers: int
    deleted: int
    bad: int
    events: int
    reversed: int
    transactions: int
    bytes: int
    good: Mapping[str, Part]

    @property
    def units(self) -> dict[str, int]:
        """All units in the files, by stage."""
        return dict(zip(STAGES, (self.customers, self.events, self.transactions), strict=True))


def write_sample(sample: Sample, into: Path | Mapping[str, Path]) -> Written:
    """Write an export: one file (customers with `events` and `transactions` inside), or one file for each named stage.

    A file is NDJSON if its name ends in .ndjson, else JSON with the array under "customers". Memory stays flat.
    Raises OSError if a file can't be written.
    """
    together = isinstance(into, Path)
    paths = dict.fromkeys(STAGES, into) if isinstance(into, Path) else into
    with ExitStack() as stack:
        files = {
            path: _File(stack.enter_context(path.open("wb", BUFFER)), sample.pretty, path.suffix == ".ndjson")
            for path in {*paths.values()}
        }
        writing = _Writing(sample, {stage: files[path] for stage, path in paths.items()}, together)
        for number in range(1, sample.customers + 1):
            writing.customer(number)
        return writing.written(sum(file.end() for file in files.values()))


class _File:
    """One file of an export: records in an array, or one a line."""

    def __init__(self, out: BinaryIO, pretty: bool, lines: bool) -> None:
        self.layout = Layout(pretty and not lines)
        self._out = out
        head, self._next, self._between, self._tail = b'{"customers":[', b"", b",", b"]}"
        if lines:
            head, self._between, self._tail = b"", b"\n", b"\n"
        elif pretty:
            head, self._next, self._between = b'{\n  "customers": [', line(RECORD), b"," + line(RECORD)
            self._tail = b"\n  ]\n}\n"
        out.write(head)

    def add(self, record: bytes) -> None:
        self._out.write(self._next)
        self._out.write(record)
        self._next = self._between

    def end(self) -> int:
        """Finish the file and return its length in bytes."""
        self._out.write(self._tail)
        return self._out.tell()


class _Count:
    """A part under construction."""

    def __init__(self) -> None:
        self.records = self.units = 0
        self.sums = [0] * len(REWARDS)  # in smallest parts

    def part(self, *keys: tuple[str, int]) -> Part:
        """Return the part, with the sums under these keys (name, digits after the point) and without zeros."""
        found = zip(keys, self.sums, strict=False)
        sums = {key: Decimal(parts).scaleb(-digits) for (key, digits), parts in found if parts}
        return Part(self.records, self.units, sums)


class _Writing:
    """Writes customers with all their records, and counts them."""

    def __init__(self, sample: Sample, files: Mapping[str, _File], together: bool) -> None:
        self._files, self._together = files, together
        layouts = {stage: files[stage].layout if stage in files else Layout(False) for stage in STAGES}
        dice = Dice(sample.seed, sample.unicode)
        self._deleted, self._bad = Spread(sample.deleted, 0.5), Spread(sample.bad, 0.25)
        self._reversed = Spread(sample.reversed, 0.5)
        self._customers = Customers(dice, layouts["customers"], sample.size)
        self._purchases = Purchases(dice, layouts["events"], sample.events, self._reversed)
        self._histories = Histories(dice, layouts["transactions"], sample.transactions)
        self._layouts = layouts
        self._owners = {
            stage: layouts[stage].template(b'{"id":"%b","' + stage.encode() + b'":%b}', RECORD) for stage in STAGES[1:]
        }
        self._theirs = layouts["customers"].template(b',"events":%b,"transactions":%b', RECORD + 1)
        self._written = dict.fromkeys(STAGES, 0)
        self._good = {stage: _Count() for stage in STAGES}

    def customer(self, number: int) -> None:
        """Make and write the customer of this number, from 1."""
        deleted = self._deleted.next()
        bad = not deleted and self._bad.next()
        id_ = b"c-%09d" % number
        events: list[bytes] = []
        spent = live = 0
        if "events" in self._files and not deleted:
            events, spent, live = self._purchases.make(number)
        wallets, entries = self._histories.make("transactions" in self._files and not deleted)
        self._written["customers"] += 1
        self._written["events"] += len(events)
        self._written["transactions"] += len(entries)
        if not (deleted or bad):
            self._add_up(wallets, spent, live, len(entries))
        if "customers" in self._files:
            record = self._customers.make(number, id_, wallets, spent, live, bad)
            if deleted:
                record += self._customers.deleted()
            if self._together:
                record += self._theirs % (self._listed("events", events), self._listed("transactions", entries))
            self._files["customers"].add(record + self._customers.close)
        if not self._together:
            for stage, own in (("events", events), ("transactions", entries)):
                if own:
                    self._files[stage].add(self._owners[stage] % (id_, self._listed(stage, own)))

    def _listed(self, stage: str, entries: Sequence[bytes]) -> bytes:
        return self._layouts[stage].array(entries, ENTRY)

    def _add_up(self, wallets: Sequence[Wallet], spent: int, live: int, entries: int) -> None:
        customers, events, transactions = self._good["customers"], self._good["events"], self._good["transactions"]
        customers.records += 1
        customers.units += 1
        events.records += live > 0
        events.units += live
        events.sums[0] += spent
        transactions.records += entries > 0
        transactions.units += entries
        for reward, total in wallets:
            customers.sums[reward] += total
            if entries:  # the transactions of a customer add up to the balance
                transactions.sums[reward] += total

    def written(self, size: int) -> Written:
        rewards = [(reward.id.decode(), reward.digits) for reward in REWARDS]
        good = {
            "customers": self._good["customers"].part(*rewards),
            "events": self._good["events"].part(("purchases", 2)),
            "transactions": self._good["transactions"].part(*rewards),
        }
        return Written(
            **self._written, deleted=self._deleted.chosen, bad=self._bad.chosen, reversed=self._reversed.chosen,
            bytes=size, good=good,
        )  # fmt: skip
