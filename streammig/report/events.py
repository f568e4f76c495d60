"""What a run tells somebody who does not look at it: few things, each once, without personal data."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from streammig.model import BatchState, Kind
from streammig.ratelimit import parse_limits
from streammig.report.document import iso
from streammig.telemetry import (
    Advanced,
    Answered,
    Decided,
    Notice,
    RunBegan,
    RunEnded,
    StageBegan,
    StageEnded,
    Steered,
    Waiting,
    spoken,
)

THROTTLED = 600.0  # seconds of being told to wait, before that is told
REQUESTS = 20  # without any progress for the time of so many, that is told
LEAST = 1.0  # seconds that a request is taken to last, at least
ASKED = ("throttled", "asked-to-wait", "held", "quota")  # waits that the target asked for
TROUBLE = ("unreachable", "no-connection")  # waits that are no plan, but the trouble itself
DONE = (0, 3, 10)  # exit codes of what came to its end
STOPPED = 130


class Event(NamedTuple):
    """Something to be told: a stable name, when, and a line for people."""

    name: str
    at: float  # seconds since the epoch
    text: str
    more: dict[str, Any]

    def json(self) -> dict[str, Any]:
        return {"event": self.name, "time": iso(self.at), "text": self.text, **self.more}


class Events:
    """The events of one command, out of its notices. `clock` gives seconds since the epoch.

    A wait whose end is known, and a pause, are no lack of progress. Only a run tells how often it makes a request, so
    of another command no lack of progress is told.
    """

    def __init__(self, command: str = "run", clock: Callable[[], float] = time.time) -> None:
        self._command = command
        self._clock = clock
        self._each = LEAST
        self._gap: float | None = None  # seconds from one request to the next, by the slowest window, once told
        self._throttled: float | None = None  # since when the target lets the account wait
        self._said_throttled = False
        self._due: float | None = None  # when a lack of progress is to be told

    def hear(self, notice: Notice) -> list[Event]:
        """What a notice is to be told as."""
        now = self._clock()
        match notice:
            case RunBegan(limits=limits) | Steered(limits=limits):
                windows = parse_limits(limits, {}).migration
                self._gap = max((it.seconds / it.count for it in windows), default=0.0)
                self._progress(now)
            case StageBegan() | Advanced():
                self._progress(now)
            case StageEnded(stage, "complete"):
                self._progress(now)
                return [self._event("stage-done", f"{stage} is done", stage=stage)]
            case Answered(receipt=receipt):
                self._each = max(self._each, receipt.latency)
                if receipt.kind is Kind.ACCEPTED:
                    self._throttled, self._said_throttled = None, False
                    self._progress(now)
            case Decided(batch, BatchState.PARKED):
                text = f"batch {batch.seq} of {batch.stage} waits for you to decide: its outcome is unknown"
                return [self._event("parked", text, stage=batch.stage, batch=batch.seq)]
            case Decided():
                self._progress(now)
            case Waiting(code, _, seconds):
                return self._waits(code, seconds, now)
            case RunEnded(exit_code, error):
                return self._ended(exit_code, str(error["code"]) if error is not None else "")
        return []

    def _waits(self, code: str, seconds: float | None, now: float) -> list[Event]:
        if code not in TROUBLE and self._due is not None:
            self._due = max(self._due, now + seconds + REQUESTS * self._time) if seconds is not None else None
        if code not in ASKED:
            return []
        self._throttled = now if self._throttled is None else self._throttled
        lasting = now + (seconds or 0.0) - self._throttled
        if self._said_throttled or lasting <= THROTTLED:
            return []
        self._said_throttled = True
        return [
            self._event("throttled", f"the target lets the run wait, for {spoken(lasting)} in all", seconds=lasting)
        ]

    def due(self) -> list[Event]:
        """What is to be told because nothing happened; to be asked now and then."""
        now = self._clock()
        if self._due is None or now < self._due:
            return []
        self._due = None  # once, until there is progress again
        lasting = REQUESTS * self._time
        return [self._event("no-progress", f"nothing was settled for {spoken(lasting)}", seconds=lasting)]

    def _ended(self, exit_code: int, code: str) -> list[Event]:
        """How the command ended; nothing of one that was stopped on request. `code` is that of the problem, or ""."""
        if exit_code == STOPPED:
            return []
        if exit_code in DONE and not code:
            text = f"the {self._command} has finished with exit code {exit_code}"
            return [self._event("finished", text, exit_code=exit_code)]
        text = f"the {self._command} has failed with exit code {exit_code}" + (f" ({code})" if code else "")
        return [self._event("failed", text, exit_code=exit_code, code=code)]

    @property
    def _time(self) -> float:
        return max(self._each, self._gap or 0.0)

    def _progress(self, now: float) -> None:
        if self._gap is not None:
            self._due = now + REQUESTS * self._time

    def _event(self, name: str, text: str, **more: Any) -> Event:
        return Event(name, self._clock(), text, more)
