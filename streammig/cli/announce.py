"""Tells the events of a run to a command and to a webhook. A thread does that, so that neither delays the run."""

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
from urllib.parse import urlsplit

from streammig.errors import Unusable
from streammig.report.events import Event, Events
from streammig.settings import Settings
from streammig.telemetry import Notice, Notify, RunEnded, Warned

WAITING = 100  # events that may wait to be told; any more are dropped, with a warning
LOOK = 0.5  # seconds between two looks for events that are due
COMMAND_TIME = 30.0  # seconds that a command gets before it is killed
WEBHOOK_TIME = 10.0  # seconds that the webhook gets to answer
TRIES = 5  # of the webhook; each pause between two is twice as long as the last
FIRST_PAUSE = 1.0
LAST_WORD = 10.0  # seconds that the end of a run waits for events still to be told


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
