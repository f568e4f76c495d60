"""Reverts of a run in its checkpoint: the requests to the target, and their result."""

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
# States of a request to revert. After `not-sent`, `refused` and `not-landed` another may be made: the target has done
# nothing (for `not-landed`, a read-back has shown that).
SENDING, ACCEPTED, UNKNOWN, NOT_SENT, REFUSED, NOT_LANDED, DONE = (
    "sending", "accepted", "unknown", "not-sent", "refused", "not-landed", "done",
)  # fmt: skip
AGAIN = (NOT_SENT, REFUSED, NOT_LANDED)


class Window(NamedTuple):
    """The migration times that a revert takes back: from `start` up to `end`, in seconds since the epoch.

    These two are by the target's clock; `over` is the end by our clock. `customers` of this run fall in the window.
    """

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
    """The part of a checkpoint that keeps reverts."""

    def last_revert(self) -> Reverting | None:
        """Return the newest request to revert; None without one."""
        for row in self.rows("SELECT * FROM revert ORDER BY number DESC LIMIT 1"):
            window = Window(row["start"], row["end"], row["customers"], 0.0)
            return Reverting(row["number"], row["state"], window, row["began"], json.loads(row["summary"]))
        return None

    def is_reverted(self) -> bool:
        """Tell whether the run was reverted, as far as the target did it."""
        last = self.last_revert()
        return last is not None and last.state == DONE

    def reverted_at(self) -> float:
        """Return when the result of the revert was read back, in seconds since the epoch; 0 without a revert."""
        last = self.last_revert()
        return float(last.summary["at"]) if last is not None and last.state == DONE else 0.0

    def is_reverting(self) -> bool:
        """Tell whether a request to revert may have left, and its result was not read back yet."""
        last = self.last_revert()
        return last is not None and last.state not in (*AGAIN, DONE)

    def refuse_reverted(self) -> None:
        """Raise `Unusable` if the run was reverted, or is being reverted."""
        self.refuse_reverting()
        if self.is_reverted():
            raise Unusable(
                "checkpoint-reverted",
                f"{self.path} was reverted: it sends nothing any more",
                f"Migrate with a new --checkpoint, and leave out what stayed: --not-in {shlex.quote(str(self.path))}",
            )

    def refuse_reverting(self) -> None:
        """Raise `Unusable` if a revert has no result yet: then it is not known which records are at the target."""
        if self.is_reverting():
            raise Unusable(
                "revert-unfinished",
                f"{self.path} is being reverted, and the outcome is not known yet",
                f"Read it back first: streammig revert {shlex.quote(str(self.path))}",
            )

    def window(self, owners: str, settle: float) -> Window:
        """Return the window of a revert of this run. `owners` is the stage of the customers.

        `settle`, in seconds, is both the time that the target's queue gets and the margin at the end. The window begins
        with the first request. It ends a margin after samples were seen, or after the queue had its time, whichever is
        later. The `Date` of answers gives the target's clock. Raises `Unusable` if nothing was accepted or an outcome
        is unknown.
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
                "no customer of this run was accepted, so nothing can be reverted",
                "Events and transactions can be reverted only with their customers, by the run that migrated them.",
            )
        (first,) = self.rows("SELECT min(started) FROM attempt WHERE stage = ? AND kind != 'not-sent'", owners)[0]
        ends = "SELECT max(settled), (SELECT seen FROM stage WHERE name = ?1) FROM batch WHERE stage = ?1"
        settled, seen = self.rows(f"{ends} AND state = 'accepted'", owners)[0]
        early, late = self._skew(owners)
        over = max(settled + settle, seen or 0.0) + settle
        return Window(first + early, over + late, customers, over)

    def _skew(self, stage: str) -> tuple[float, float]:
        """Return by how many seconds the target's clock is ahead of ours, at least and at most."""
        lows, highs = [], []
        for started, latency, date in self.rows(
            "SELECT started, coalesce(latency, 0), date FROM attempt WHERE stage = ? AND date != ''", stage
        ):
            try:
                moment = parsedate_to_datetime(date)
            except (ValueError, OverflowError):
                continue
            ahead = moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - started
            lows.append(ahead - latency - 1)  # the answer came within the latency, and a Date has whole seconds
            highs.append(ahead + 1)
        if not lows:
            return -1.0, 1.0
        low, high = max(lows), min(highs)
        return (low, high) if low <= high else (min(lows), max(highs))  # the clocks drifted during the run

    def begin_revert(self, window: Window, at: float) -> int:
        """Add a request to revert before it leaves, and return its number.

        It gets a tick, so the fence refuses older copies of the checkpoint from now on.
        """
        with self.transaction():
            last = self.last_revert()
            if last is not None and last.state not in AGAIN:
                raise AssertionError(f"revert {last.number} is {last.state}: it must not be sent again")
            (tick,) = self.rows("UPDATE run SET tick = tick + 1 RETURNING tick")[0]
            self._add_mark(Mark(tick, parts=tick))
            number = last.number + 1 if last is not None else 1
            columns = "number, state, start, end, customers, began"
            row = number, SENDING, *window[:3], at
            self.change(f"INSERT INTO revert ({columns}) VALUES (?, ?, ?, ?, ?, ?)", *row)
        return number

    def revert_is(self, number: int, state: str, message: str = "") -> None:
        """Set the state of a request to revert, with the target's message, redacted by the caller."""
        self.change("UPDATE revert SET state = ?, message = ? WHERE number = ?", state, message, number)

    def reverted(self, number: int, summary: Mapping[str, Any], gone: Callable[[str, Accepted], Beside]) -> None:
        """End a revert in one transaction: the units that `gone` returns for a stage and an accepted batch are undone.

        The results of the last verify are deleted: they are out of date.
        """
        with self.transaction():
            self.change("DELETE FROM unit_state WHERE state = 'missing'")
            for row in self.stages():
                for batch in self.accepted(row.name):
                    it = gone(row.name, batch)
                    if it.tally.units:
                        self._set(row.name, REVERTED, it)
            self.change("UPDATE revert SET state = ?, summary = ? WHERE number = ?", DONE, json.dumps(summary), number)
            self.change("DELETE FROM verification")
            self.change("DELETE FROM finding")
