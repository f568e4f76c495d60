"""Tells a command and a webhook what matters of a run: few events, each once, without personal data.

A thread tells them, so that neither delays the run.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from streammig.cli import STOPPED
from streammig.errors import Unusable
from streammig.model import BatchState, Kind
from streammig.ratelimit import parse_limits
from streammig.report.document import iso
from streammig.settings import Settings
from streammig.telemetry import (
    Advanced,
    Answered,
    Decided,
    Notice,
    Notify,
    RunBegan,
    RunEnded,
    StageBegan,
    StageEnded,
    Steered,
    Waiting,
    Warned,
    spoken,
)

WAITING = 100  # events that may wait to be told; any more are dropped, with a warning
LOOK = 0.5  # seconds between two looks for events that are due
COMMAND_TIME = 30.0  # seconds that a command gets before it is killed
WEBHOOK_TIME = 10.0  # seconds that the webhook gets to answer
TRIES = 5  # of the webhook; each pause between two is twice as long as the last
FIRST_PAUSE = 1.0
LAST_WORD = 10.0  # seconds that the end of a run waits for events still to be told


THROTTLED = 600.0  # seconds of being told to wait, before that is told
REQUESTS = 20  # without any progress for the time of so many, that is told
LEAST = 1.0  # seconds that a request is taken to last, at least
ASKED = ("throttled", "asked-to-wait", "held", "quota")  # waits that the target asked for
TROUBLE = ("unreachable", "no-connection")  # waits that are no plan, but the trouble itself
DONE = (0, 3, 10)  # exit codes of what came to its end


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


class Announcer:
    """A `Notify` in front of another one, which also tells the events among the notices.

    `environment` is that of the command to call; `about` is told with each event, and has the name of the streammig
    command. A failure becomes a warning at the next notice. `RunEnded` itself is passed on behind all that is told.
    """

    def __init__(
        self, on_event: str, url: str, environment: Mapping[str, str], about: Mapping[str, str], notify: Notify,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:  # fmt: skip
        self._on_event = on_event
        self._url = url
        self._environment = environment
        self._about = about
        self._notify = notify
        self._pause = pause
        self._events = Events(about["command"])
        self._lock = threading.Lock()
        self._queue: queue.Queue[Event | None] = queue.Queue(WAITING)
        self._failed: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._child: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._tell_all, daemon=True)
        self._thread.start()

    def __call__(self, notice: Notice) -> None:
        with self._lock:
            self._put(self._events.hear(notice))
        if isinstance(notice, RunEnded):
            self._end()
        with suppress(queue.Empty):
            while True:
                self._notify(Warned("event-not-told", self._failed.get_nowait()))
        self._notify(notice)

    def _end(self) -> None:
        """Wait a little until all is told."""
        with suppress(queue.Full):
            self._queue.put_nowait(None)
        self._thread.join(LAST_WORD)
        if self._thread.is_alive():
            self._failed.put(f"not all events could be told within {LAST_WORD:.0f} s of the end")
        _kill(self._child)

    def _put(self, events: list[Event]) -> None:
        for event in events:
            try:
                self._queue.put_nowait(event)
            except queue.Full:
                self._failed.put(f"an event was not told, because others wait: {event.name}")

    # -- in the thread -----------------------------------------------------------------------------------------------

    def _tell_all(self) -> None:
        while True:
            try:
                event = self._queue.get(timeout=LOOK)
            except queue.Empty:
                with self._lock:
                    self._put(self._events.due())
                continue
            if event is None:
                return
            said = json.dumps({**event.json(), **self._about}).encode()
            if self._on_event:
                self._call(event.name, said)
            if self._url:
                self._post(event.name, said)

    def _call(self, name: str, said: bytes) -> None:
        """Run the command with the event on its standard input. A command that hangs is killed with its children."""
        try:
            child = self._child = subprocess.Popen(
                self._on_event, shell=True, env={**self._environment, "STREAMMIG_EVENT": name}, start_new_session=True,
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            child.communicate(said, timeout=COMMAND_TIME)
        except OSError as error:
            self._failed.put(f"the command of --on-event can't be started for {name}: {error.strerror}")
        except subprocess.TimeoutExpired:
            _kill(child)
            child.wait()
            self._failed.put(f"the command of --on-event was killed after {COMMAND_TIME:.0f} s, for {name}")
        else:
            if child.returncode:
                self._failed.put(f"the command of --on-event ended with {child.returncode} for {name}")

    def _post(self, name: str, said: bytes) -> None:
        """Send the event to the webhook, up to five times. Its address may be a secret: only the host is told."""
        pause = FIRST_PAUSE
        for left in reversed(range(TRIES)):
            why, again = _posted(self._url, said)
            if why is None:
                return
            if not again or not left:
                self._failed.put(f"the webhook at {urlsplit(self._url).hostname} was not told of {name}: {why}")
                return
            self._pause(pause)
            pause *= 2


def _posted(url: str, said: bytes) -> tuple[str | None, bool]:
    """Why a POST failed, or None, and whether another try may succeed."""
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    request = Request(url, said, {"Content-Type": "application/json"}, method="POST")  # http(s) only
    try:
        with urlopen(request, timeout=WEBHOOK_TIME):
            return None, False
    except HTTPError as error:
        error.close()
        return f"it answered {error.code}", error.code >= 500 or error.code in (408, 429)
    except (OSError, HTTPException, ValueError) as error:
        return type(error).__name__, True


def _kill(child: subprocess.Popen[bytes] | None) -> None:
    if child is not None and child.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


def announcing(settings: Settings, key: str, checkpoint: Path, command: str, notify: Notify) -> Notify:
    """A `Notify` that also tells the events of a command, up to its `RunEnded`. Raises `Unusable` where the webhook's
    address is invalid."""
    if settings.notify_url and not _is_web(settings.notify_url):
        raise Unusable("notify-url-invalid", "notify_url is no http(s) address", "Write it like https://host/path.")
    if not settings.on_event and not settings.notify_url:
        return notify
    # The command gets no variable that holds the key, and may not speak to a service manager for the run.
    environment = {name: value for name, value in os.environ.items() if not key or key not in value}
    environment.pop("NOTIFY_SOCKET", None)
    about = {"command": command, "checkpoint": str(checkpoint)}
    return Announcer(settings.on_event, settings.notify_url, environment, about, notify)


def _is_web(url: str) -> bool:
    try:
        found = urlsplit(url)
    except ValueError:
        return False
    return found.scheme in ("http", "https") and bool(found.hostname)
