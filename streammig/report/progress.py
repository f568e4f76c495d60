"""The one account of how much of a stage is settled, for bar, log and `status`, and of what is left to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from math import inf
from typing import Any, NamedTuple

from streammig.checkpoint import Checkpoint
from streammig.model import BatchState, Kind, Record
from streammig.ratelimit import OFF, Hours, Limits, Starts
from streammig.report.forecast import READ, Leg, forecast
from streammig.telemetry import (
    Account,
    Advanced,
    Answered,
    DeadLettered,
    Decided,
    Expected,
    Notice,
    Sealed,
    StageBegan,
    StageEnded,
)

ALMOST = 0.999
UNITS = 1_000  # what a full batch holds
SAMPLES = 100  # requests that a look at a stage takes at most


def heard(it: Account, notice: Notice, now: float) -> Account:
    """How far a stage is after a notice about it.

    `status` reads these numbers from the checkpoint, a run is told them by its notices: bar, log and `status` agree.
    """
    match notice:
        case StageBegan(_, account):
            return account
        case Advanced(_, frontier, read, filtered):
            return it._replace(frontier=frontier, read=read, filtered=filtered, complete=False)
        case Sealed(_, batch):
            return it._replace(made=it.made + 1, bytes=it.bytes + batch.size, waiting=it.waiting + 1)
        case DeadLettered(_, tally):
            return it._replace(dead=it.dead + tally.units)
        case StageEnded(_, "complete"):
            return it._replace(complete=True, waiting=0)
        case Answered(batch, receipt):
            it = it._replace(requests=it.requests + (receipt.kind is not Kind.NOT_SENT))
            return _answered(it, receipt.kind, batch.tally.units, now)
        case Decided(batch, state) if state is not BatchState.PARKED:  # which is unknown as before
            units = batch.tally.units
            it = it._replace(unknown=max(it.unknown - units, 0), waiting=it.waiting + 1)
            return _accepted(it, units, now) if state is BatchState.ACCEPTED else it
    return it


def _answered(it: Account, kind: Kind, units: int, now: float) -> Account:
    match kind:
        case Kind.ACCEPTED:
            return _accepted(it, units, now)
        case Kind.UNKNOWN:
            return it._replace(unknown=it.unknown + units, waiting=max(it.waiting - 1, 0))
        case Kind.TOO_LARGE:  # two parts are sent instead
            return it._replace(waiting=it.waiting + 1)
    return it


def _accepted(it: Account, units: int, now: float) -> Account:
    return it._replace(accepted=it.accepted + units, sent=it.sent + 1, waiting=max(it.waiting - 1, 0), settled=now)


def stage_of(notice: Notice) -> str | None:
    """The stage that a notice is about; None where it is about none."""
    batch = getattr(notice, "batch", None)
    found: str | None = getattr(notice, "stage", None) or (batch.stage if batch is not None else None)
    return found


def account_of(checkpoint: Checkpoint, stage: str, counts: Mapping[str, Any] | None = None) -> Account:
    """How far a stage is, as the checkpoint knows it. Its `counts` may be given: they take a scan of all batches."""
    totals, counts = checkpoint.totals(stage), counts or checkpoint.counts(stage)
    (row,) = [row for row in checkpoint.stages() if row.name == stage]
    return Account(
        frontier=checkpoint.progress(stage).frontier, sizes=checkpoint.lengths(stage), read=totals.taken.units,
        accepted=totals.accepted.units, dead=totals.dead.units, filtered=totals.filtered.units,
        pending=totals.pending.units, unknown=totals.unknown.units, complete=row.state == "complete",
        sent=counts["accepted"], waiting=counts["waiting"], made=counts["made"], bytes=counts["bytes"],
        requests=counts["requests"] - counts["not_sent"], settled=counts["settled"], seen=row.seen,
        expected=Expected(*checkpoint.run["context"].get("expected", {}).get(stage, ())),
    )  # fmt: skip


def share_settled(account: Account) -> float | None:
    """The share of a stage's units that is settled, from 0 to 1; None where that can't be told.

    How many units the unread part of the export holds is estimated by its bytes.
    """
    settled = account.accepted + account.dead + account.filtered
    of_read = min(max(settled / account.read, 0.0), 1.0) if account.read else 1.0
    if account.complete:
        return of_read
    if account.expected.units:
        return min(account.read / account.expected.units, ALMOST) * of_read
    sizes = account.sizes
    if not sizes or not sum(sizes):
        return None
    # Of a compressed file the length is an estimate: only the end of the stage is the end.
    return min(_bytes_read(account) / sum(sizes), ALMOST) * of_read


def fill(account: Account) -> float | None:
    """How full the accepted batches are, from 0 to 1; None where there are none, or all of them were reverted."""
    return round(account.accepted / (account.sent * UNITS), 4) if account.sent and account.accepted else None


def _bytes_read(account: Account) -> int:
    sizes, frontier = account.sizes or (), account.frontier
    return sum(sizes[: frontier.source]) + frontier.offset


def requests_left(account: Account) -> float | None:
    """How many requests a stage still takes; None where that can't be told.

    The unread part of the export takes as many for its bytes as the part that was read: the last request of that may be
    a short one, and within this range its first records tell.
    Bins are sealed out of order: where the frontier is held back by open ones, the bytes of bodies tell what was read.
    """
    if account.complete:
        return account.waiting
    if account.expected.units:
        unread = max(1 - account.read / account.expected.units, 0.0)
        return account.waiting + account.expected.requests * unread
    whole = sum(account.sizes or ())
    read = min(max(_bytes_read(account), account.bytes / account.expected.ratio), whole)
    if read and account.made:
        known = account.expected.requests * read / whole
        made = min(max(known, account.made - 1), account.made) if known else account.made
        return account.waiting + made * (whole - read) / read
    return account.expected.requests or None


def legs(accounts: Mapping[str, Account], settle: float, now: float) -> list[tuple[str, Leg | None]]:
    """What is left of each stage, in order; None where that can't be told. A stage is over, but
    for requests, once a later one has begun."""
    found: list[tuple[str, Leg | None]] = []
    names = list(accounts)
    for at, name in enumerate(names):
        it, later = accounts[name], [accounts[each] for each in names[at + 1 :]]
        left = requests_left(it)
        looks = it.expected.readable
        over = it.complete and (it.seen or any(each.made for each in later))
        waits = settle if (looks or later) and not over and settle else 0.0
        reads = min(SAMPLES, 2 * round(it.made + (left or 0))) if looks and waits else 0
        if it.complete and not left and it.settled and it.settled + waits + reads * READ < now:
            waits, reads = 0.0, 0  # what was to be seen by now takes longer: nobody knows how long
        leg = Leg(left, waits, reads, it.settled or -inf) if left is not None else None
        found.append((name, leg))
    return found


def expected(
    records: Sequence[Record], size: int, units: int, most: int, readable: bool, share: float | None = None
) -> Expected:
    """What a stage of `size` bytes will take, told by its first records; a request holds at most so many `units`, and
    `most` bytes. Where records are not one behind the other in the export, these are a known `share` of all."""
    if not records:
        return Expected(readable=readable)
    first, last = records[0].position, records[-1].position
    read = last.offset + last.length - first.offset if share is None else max(share * size, 1)
    body, known = sum(len(it.body) for it in records), sum(it.units for it in records)
    requests = max(known / units, body / most)
    in_all = known / share if share else 0.0
    return Expected(max(requests * size / read, 1.0) if size else 0.0, body / read, readable, in_all)


class Pace(NamedTuple):
    """What paces the requests that are left."""

    limits: Limits = OFF
    starts: Starts = Starts()
    settle: float = 0.0
    lanes: int = 1  # requests under way at once
    latency: float = 0.0  # seconds that each of them takes
    paused: bool = False  # by the operator
    hours: Hours | None = None


class Outlook(NamedTuple):
    """Seconds from now: until the next request may start, until each stage is done, and until all are. None where that
    can't be told yet."""

    next: float
    stages: Mapping[str, float | None]
    whole: float | None
    requests: float | None  # that are left in all

    def after(self, seconds: float) -> Outlook:
        """The same, so many seconds later."""
        stages = {name: None if it is None else max(it - seconds, 0.0) for name, it in self.stages.items()}
        whole = None if self.whole is None else max(self.whole - seconds, 0.0)
        return Outlook(max(self.next - seconds, 0.0), stages, whole, self.requests)


def outlook(accounts: Mapping[str, Account], pace: Pace, now: float) -> Outlook:
    """What lies ahead of a migration, stage after stage."""
    every = legs(accounts, pace.settle, now)
    told = [leg for _, leg in takewhile(lambda it: it[1] is not None, every) if leg is not None]
    found = forecast(told, pace.limits, pace.starts, now, pace.latency, pace.lanes, pace.hours)
    left: list[float | None] = [end - now for end in found.ends]
    left += [None] * (len(every) - len(left))
    whole = left[-1] if left else None
    requests = None if whole is None else sum(leg.requests for leg in told)
    return Outlook(found.next - now, dict(zip(accounts, left, strict=True)), whole, requests)


def drift(
    plan: Mapping[str, Any] | None, accounts: Mapping[str, Account], ahead: Outlook, now: float, ended: float | None
) -> dict[str, Any] | None:
    """The plan beside what it comes to now, JSON-ready; None without a plan. `ended` is when the run was done, None of
    one that is not. Times are seconds since the plan was made, breaks between two calls included."""
    if plan is None:
        return None
    used = {name: it.requests for name, it in accounts.items()}
    requests_left, seconds_left = (0.0, 0.0) if ended is not None else (ahead.requests, ahead.whole)
    is_known = requests_left is not None and seconds_left is not None
    taken = (ended or now) - plan["at"]
    return {
        "exact": plan["exact"],
        "requests": sum(plan["requests"].values()),
        "requests_now": round(sum(used.values()) + (requests_left or 0.0)) if is_known else None,
        "seconds": round(plan["seconds"], 1),
        "seconds_now": round(taken + (seconds_left or 0.0), 1) if is_known else None,
        "stages": {name: {"planned": plan["requests"].get(name, 0), "used": count} for name, count in used.items()},
    }
