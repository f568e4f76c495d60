"""How a run was taken back: the requests to revert it, and what that left at the target."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from streammig.checkpoint.fence import Mark
from streammig.checkpoint.units import REVERTED, Accepted, Beside, Units
from streammig.errors import Unusable
from streammig.model import BatchState

UNDECIDED = (BatchState.SENDING, BatchState.UNKNOWN, BatchState.PARKED)
# States of a request to revert. Behind `not-sent`, `refused` and `not-landed` it may be made again: the target did not
# do it, and of the last one a read-back has shown that.
SENDING, ACCEPTED, UNKNOWN, NOT_SENT, REFUSED, NOT_LANDED, DONE = (
    "sending", "accepted", "unknown", "not-sent", "refused", "not-landed", "done",
)  # fmt: skip
AGAIN = (NOT_SENT, REFUSED, NOT_LANDED)


class Window(NamedTuple):
    """The time of migration that a revert takes back, by the target's clock in seconds since the epoch: from `start`
    up to `end`; how many customers of this run fall in it; and when it is over by our clock."""

    start: float
    end: float
    customers: int
    over: float


class Reverting(NamedTuple):
    """A request to revert."""

    number: int
    state: str
    window: Window
    began: float
    summary: Mapping[str, Any]


class Reverts(Units):
    """The part of a checkpoint that knows of reverts."""

    def last_revert(self) -> Reverting | None:
        """The newest request to revert, None where there was none."""
        for row in self.rows("SELECT * FROM revert ORDER BY number DESC LIMIT 1"):
            window = Window(row["start"], row["end"], row["customers"], 0.0)
            return Reverting(row["number"], row["state"], window, row["began"], json.loads(row["summary"]))
        return None

    def is_reverted(self) -> bool:
        """Whether the run was taken back, as far as the target did."""
        last = self.last_revert()
        return last is not None and last.state == DONE

    def reverted_at(self) -> float:
        """When it was known what the revert has left at the target, in seconds since the epoch; 0 without a revert."""
        last = self.last_revert()
        return float(last.summary["at"]) if last is not None and last.state == DONE else 0.0

    def is_reverting(self) -> bool:
        """Whether a request to revert has left, or may have, and was not read back."""
        last = self.last_revert()
        return last is not None and last.state not in (*AGAIN, DONE)

    def refuse_reverted(self) -> None:
        """Raise `Unusable` where the run was reverted, or is about to be."""
        self.refuse_reverting()
        if self.is_reverted():
            raise Unusable(
                "checkpoint-reverted",
                f"{self.path} was reverted: it sends nothing any more",
                f"Migrate with a new --checkpoint, and leave out what stayed: --not-in {shlex.quote(str(self.path))}",
            )

    def refuse_reverting(self) -> None:
        """Raise `Unusable` where a revert is under way, so what of the run is at the target is not known."""
        if self.is_reverting():
            raise Unusable(
                "revert-unfinished",
                f"{self.path} is being reverted, and what became of that is not known yet",
                f"Read it back first: streammig revert {shlex.quote(str(self.path))}",
            )

    def window(self, owners: str, settle: float) -> Window:
        """What a revert of this run takes back. `owners` is the stage of the customers; `settle` in seconds is the time
        that the target's queue is given, and the margin.

        It begins with the first request, and ends a margin behind the last moment by which samples of all were seen, or
        else had their time. The target counts by its own clock: that is told by the `Date` of its answers. Raises
        `Unusable` where there is nothing to revert, or something is undecided.
        """
        last = self.last_revert()
        if last is not None and last.state == DONE:
            raise Unusable(
                "already-reverted",
                f"{self.path} was reverted already",
                f"Nothing was sent. See what stayed: streammig status {shlex.quote(str(self.path))}",
            )
        undecided = [batch for row in self.stages() for batch in self.batches(row.name, *UNDECIDED)]
        if undecided:
            names = ", ".join(f"{it.seq} of {it.stage}" for it in undecided[:20])
            raise Unusable(
                "revert-undecided",
                f"the outcome of {len(undecided)} batches is unknown: {names}",
                f"Nothing was sent. Decide about them first: streammig resolve {shlex.quote(str(self.path))}",
            )
        customers = sum(it.tally.records for it in self.accepted(owners))
        if not customers:
            raise Unusable(
                "nothing-to-revert",
                "no customer of this run was accepted: there is nothing that can be reverted",
                "Events and transactions can be reverted with their customers only, by the run that migrated these.",
            )
        (first,) = self.rows("SELECT min(started) FROM attempt WHERE stage = ? AND kind != 'not-sent'", owners)[0]
        ends = "SELECT max(settled), (SELECT seen FROM stage WHERE name = ?1) FROM batch WHERE stage = ?1"
        settled, seen = self.rows(f"{ends} AND state = 'accepted'", owners)[0]
        early, late = self._skew(owners)
        over = max(settled + settle, seen or 0.0) + settle
        return Window(first + early, over + late, customers, over)

    def _skew(self, stage: str) -> tuple[float, float]:
        """How far the target's clock is ahead of ours, at least and at most, in seconds."""
        lows, highs = [], []
        for started, latency, date in self.rows(
            "SELECT started, coalesce(latency, 0), date FROM attempt WHERE stage = ? AND date != ''", stage
        ):
            try:
                moment = parsedate_to_datetime(date)
            except (ValueError, OverflowError):
                continue
            ahead = moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - started
            lows.append(ahead - latency - 1)  # it was answered within that time, and a Date counts whole seconds
            highs.append(ahead + 1)
        if not lows:
            return -1.0, 1.0
        low, high = max(lows), min(highs)
        return (low, high) if low <= high else (min(lows), max(highs))  # the clocks did not keep step

    def begin_revert(self, window: Window, at: float) -> int:
        """Note that a request to revert is about to leave; returns its number. An older copy of the checkpoint is
        refused from now on."""
        with self.transaction():
            last = self.last_revert()
            if last is not None and last.state not in AGAIN:
                raise AssertionError(f"revert {last.number} is {last.state}: it must not be sent again")
            (tick,) = self._db.execute("UPDATE run SET tick = tick + 1 RETURNING tick").fetchone()
            mark = Mark(tick, parts=tick)
            self._mark = mark if self._mark is None else mark.joined(self._mark)
            number = last.number + 1 if last is not None else 1
            self._db.execute(
                "INSERT INTO revert (number, state, start, end, customers, began) VALUES (?, ?, ?, ?, ?, ?)",
                (number, SENDING, *window[:3], at),
            )
        return number

    def revert_is(self, number: int, state: str, message: str = "") -> None:
        """Keep the state of a request to revert, with what the target said, redacted by the caller."""
        self.change("UPDATE revert SET state = ?, message = ? WHERE number = ?", state, message, number)

    def reverted(self, number: int, summary: Mapping[str, Any], gone: Callable[[str, Accepted], Beside]) -> None:
        """What is `gone` of each accepted batch of a stage was taken back; in one transaction."""
        with self.transaction():
            self._db.execute("DELETE FROM unit_state WHERE state = 'missing'")
            for row in self.stages():
                for batch in self.accepted(row.name):
                    it = gone(row.name, batch)
                    if it.tally.units:
                        self._set(row.name, REVERTED, it)
            self._db.execute(
                "UPDATE revert SET state = ?, summary = ? WHERE number = ?", (DONE, json.dumps(summary), number)
            )
            self._db.execute("DELETE FROM verification")
            self._db.execute("DELETE FROM finding")
