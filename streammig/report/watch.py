"""How a run is now, by its notices, as lines of text for a terminal and for a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from streammig.errors import Problem, counted
from streammig.model import Kind
from streammig.ratelimit import OFF, Hours, Limits, Starts, parse_hours, parse_limits, starts_of
from streammig.report.progress import Outlook, Pace, fill, heard, outlook, share_settled, stage_of
from streammig.report.text import aligned, shared
from streammig.telemetry import (
    Account,
    Answered,
    Notice,
    RunBegan,
    Sending,
    StageBegan,
    StageEnded,
    Steered,
    Stopping,
    Verifying,
    Waiting,
    lasting,
    spoken,
)

FRESH = 2.0  # seconds for which an outlook is taken as it is
BARS = {100: 24, 76: 10}  # columns of a bar in a terminal so wide; below that there is none
LEAST = 50  # columns below which only shares are shown
FILLED, EMPTY = "━", "─"


class Watch:
    """How a run is doing, as its notices tell it. `clock` gives seconds since the epoch."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._began: RunBegan | None = None
        self.accounts: dict[str, Account] = {}
        self.stage = ""
        self._since = clock(), 0, 0  # when the stage began in this process, with the units and requests made before
        self._latency = 0.0
        self._flying: set[tuple[str, int]] = set()
        self._last = ""
        self._waiting: tuple[str, float] | None = None
        self._verified_by: float | None = None  # when the verify under way ends
        self._stopping: float | None = None
        self._limits: str | None = None  # the operator's limits, in place of the settings'
        self._hours: Hours | None = None
        self._ahead: tuple[float, Outlook] | None = None

    def hear(self, notice: Notice) -> None:
        now = self._clock()
        if isinstance(notice, RunBegan):
            self._began, self.accounts = notice, {**notice.accounts}
            self._hours = parse_hours(notice.hours, notice.hours_zone)
        stage = stage_of(notice)
        if stage is not None and (stage in self.accounts or isinstance(notice, StageBegan)):
            self.accounts[stage] = heard(self.accounts.get(stage, Account()), notice, now)
        match notice:
            case StageBegan(name, account):
                self.stage, self._since, self._ahead = name, (now, account.accepted, account.requests), None
            case Sending(batch):
                self._flying.add((batch.stage, batch.seq))
                self._waiting = None
            case Answered(batch, receipt):
                self._flying.discard((batch.stage, batch.seq))
                said = receipt.kind if receipt.status is None else f"{receipt.status}"
                self._last = f"{said} after {spoken(receipt.latency)}"
                if receipt.kind is Kind.ACCEPTED:
                    self._latency += (receipt.latency - self._latency) * (0.1 if self._latency else 1.0)
            case Waiting(_, reason, seconds):
                self._waiting = reason, now + (seconds or 0.0)
                if isinstance(notice, Verifying) and seconds is not None:
                    self._verified_by = now + seconds
            case Steered(change, limits):
                self._waiting = self._ahead = None
                self._limits = self._limits if change == "hours" else limits
            case Stopping(seconds):
                self._stopping = now + seconds
            case StageEnded():
                self._waiting = self._ahead = None

    # -- what lies ahead ---------------------------------------------------------------------------------------------

    def ahead(self) -> Outlook | None:
        """What lies ahead as of now; None before the run has begun."""
        now, began = self._clock(), self._began
        if began is None:
            return None
        if self._verified_by is not None:
            left = max(self._verified_by - now, 0.0)
            return Outlook(0.0, dict.fromkeys(self.accounts, left), left, 0.0)
        if self._ahead is None or not 0 <= now - self._ahead[0] < FRESH:
            limits = parse_limits(self._limits or began.limits, {})
            latency = self._latency if limits != OFF else self._each(now) * began.lanes
            self._ahead = (
                now,
                outlook(
                    self.accounts,
                    Pace(limits, self._starts(limits, now), began.settle, began.lanes, latency, hours=self._hours),
                    now,
                ),
            )
        at, found = self._ahead
        return found.after(now - at)

    def _starts(self, limits: Limits, now: float) -> Starts:
        if self._began is None or not self._began.account_file:
            return Starts()
        with suppress(Problem):  # what is shown never stops a run
            return starts_of(Path(self._began.account_file), limits, now)
        return Starts()

    def _each(self, now: float) -> float:
        """Seconds from one request to the next in this process."""
        at, _, requests = self._since
        made = self.accounts[self.stage].requests - requests if self.stage else 0
        return (now - at) / made if made > 0 else 0.0

    # -- as text -----------------------------------------------------------------------------------------------------

    def line(self) -> str:
        """The totals of the stage under way in one line, for a log."""
        account = self.accounts.get(self.stage, Account())
        share, ahead = share_settled(account), self.ahead()
        begun, done = f"{self.stage}: ", "written" if self._began is not None and self._began.dry_run else "accepted"
        begun += "" if share is None else f"{shared(share)} done, "
        parts = [f"{begun}{_units(self.stage, account)} {done}"]
        parts += [f"{account.dead:,} dead"] if account.dead else []
        parts += [f"{account.unknown:,} unknown"] if account.unknown else []
        parts.append(counted(account.requests, "request"))
        if ahead is not None:
            parts += [f"next in {spoken(ahead.next)}"] if ahead.next >= FRESH else []
            parts += [_left(ahead.stages.get(self.stage))]
            parts += [f"all: {_left(ahead.whole)}"] if len(self.accounts) > 1 and ahead.whole else []
        return ", ".join(part for part in parts if part)

    def screen(self, width: int) -> list[str]:
        """A bar for each stage and one for all, then what the run does and waits for. No line is wider than `width`."""
        ahead = self.ahead()
        left = dict(ahead.stages) if ahead is not None else {}
        accounts = list(self.accounts.items())
        rows = [
            _row(name, share_settled(it), _units(name, it), "done" if it.complete else _left(left.get(name)), width)
            for name, it in accounts
        ]
        if len(rows) > 1 and ahead is not None:
            made = sum(it.sent for it in self.accounts.values())
            to_make = ahead.requests
            share = made / (made + to_make) if to_make is not None and made + to_make else None
            done = not ahead.whole and all(it.complete for _, it in accounts)
            rows.append(_row("all", share, counted(sum(it.requests for _, it in accounts), "request"),
                             "done" if done else _left(ahead.whole), width))  # fmt: skip
        lines = aligned(rows).splitlines() if rows else []
        lines += _joined(self._doing(ahead), width) if self.stage else []
        return [line if len(line) <= width else f"{line[: width - 1]}…" for line in lines + self.waits()]

    def waits(self) -> list[str]:
        """Lines of what the run waits for, and how long at most: that comes first, for a line may be cut."""
        lines = []
        if self._waiting is not None:
            reason, until = self._waiting
            lines.append(f"waiting{lasting(until - self._clock())}: {reason}")
        if self._stopping is not None:
            flying = len(self._flying)
            most = f", at most {spoken(max(self._stopping - self._clock(), 0.0))}" if flying else ""
            lines.append(f"Stopping: {counted(flying, 'request')} under way{most}")
        return lines

    def _doing(self, ahead: Outlook | None) -> list[str]:
        account, now = self.accounts[self.stage], self._clock()
        at, units, _ = self._since
        parts = [f"{(account.accepted - units) / (now - at):,.1f} {self.stage}/s"] if now > at else []
        parts += [f"fill {shared(full)}"] if (full := fill(account)) is not None else []
        parts += [f"next request in {spoken(ahead.next)}"] if ahead is not None and ahead.next >= 1 else []
        parts += [f"last answer {self._last}"] if self._last else []
        parts += [f"dead {counted(sum(it.dead for it in self.accounts.values()), 'unit')}"]
        parts += [f"unknown {sum(it.unknown for it in self.accounts.values()):,}"]
        return parts


def _joined(parts: Sequence[str], width: int) -> list[str]:
    """The parts, joined into as few lines of this width as possible."""
    lines = [""]
    for part in parts:
        line = f"{lines[-1]} · {part}" if lines[-1] else part
        if len(line) <= width or not lines[-1]:
            lines[-1] = line
        else:
            lines.append(part)
    return lines


def _units(stage: str, account: Account) -> str:
    return counted(account.accepted, stage.removesuffix("s"))


def _left(seconds: float | None) -> str:
    return "" if seconds is None else f"{spoken(seconds)} left"


def _row(name: str, share: float | None, units: str, left: str, width: int) -> list[str]:
    """The cells of a stage, as many as fit the width."""
    percent = "" if share is None else shared(share)
    if width < LEAST:
        return [name, percent, left]
    size = next((size for least, size in BARS.items() if width >= least), 0)
    full = int(size * (share or 0.0))
    return [name, *([FILLED * full + EMPTY * (size - full)] if size else []), percent, units, left]
