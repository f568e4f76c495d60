"""Shows a run while it goes: bars on a terminal, lines elsewhere, JSON if asked for, nothing if asked for quiet."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from streammig.report.document import iso
from streammig.report.watch import Watch
from streammig.telemetry import (
    CheckpointOpened,
    DeadLettered,
    Notice,
    Notify,
    Output,
    StageBegan,
    StageEnded,
    Waiting,
    ignore,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

EVERY = 60.0  # seconds between two lines of sums in a log
LOOK = 1.0  # seconds between two looks whether a line is due
REPEATED = 30.0  # seconds in which a wait of the same kind is told once
WITHOUT_BARS = ("dumb", "unknown")  # terminals that can't draw a line again
MARGIN = 3  # columns left free: a terminal that echoes ^C must not break a line


@contextmanager
def watching(stream: TextIO, output: Output) -> Iterator[Notify]:
    """A callable for the notices of one run, which shows them on `stream` as it can bear."""
    if output.log == "json":
        yield JsonLines(stream)
    elif output.quiet:
        yield ignore
    elif stream.isatty() and os.environ.get("TERM", "") not in WITHOUT_BARS:
        with _bars(stream) as bars:
            yield bars
    else:
        with _by_the_minute(Lines(stream)) as lines:
            yield lines


class JsonLines:
    """One JSON object a notice and a line, with its time and the id of the migration: for programs."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.time) -> None:
        self._stream = stream
        self._clock = clock
        self._run: str | None = None  # until a checkpoint is opened

    def __call__(self, notice: Notice) -> None:
        if isinstance(notice, CheckpointOpened):
            self._run = notice.run or None
        said = {name: round(it, 3) if isinstance(it, float) else it for name, it in notice.json().items()}
        line = {"time": iso(self._clock()), "run": self._run, **said}
        # Short: a run of many days writes some lines for each of its requests.
        print(json.dumps(line, ensure_ascii=False, separators=(",", ":")), file=self._stream, flush=True)


class Lines:
    """One line for what matters, and one a minute with the sums: for logs. Each begins with its time."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.time) -> None:
        self._stream = stream
        self._clock = clock
        self._watch = Watch(clock)
        self._said = clock()
        self._waits: dict[str, float] = {}  # when each was last said
        self._lock = threading.Lock()

    def __call__(self, notice: Notice) -> None:
        with self._lock:
            self._watch.hear(notice)
            if isinstance(notice, StageBegan):
                self._said = self._clock()
            self._sums(now=isinstance(notice, StageEnded))
            if isinstance(notice, DeadLettered) or (isinstance(notice, Waiting) and self._repeats(notice)):
                return  # dead letters are among the sums
            if text := notice.text():
                self._print(text)

    def look(self) -> None:
        """Print the sums where a minute is over, also while nothing happens: a wait may last for hours."""
        with self._lock:
            self._sums()

    def _sums(self, now: bool = False) -> None:
        if self._watch.stage and (now or self._clock() - self._said >= EVERY):
            self._said = self._clock()
            self._print(self._watch.line())

    def _print(self, text: str) -> None:
        print(f"{iso(self._clock())} {text}", file=self._stream, flush=True)

    def _repeats(self, waiting: Waiting) -> bool:
        """Whether a wait of this kind was told a moment ago, perhaps for another batch."""
        now = self._clock()
        if now - self._waits.get(waiting.code, -REPEATED) < REPEATED:
            return True
        self._waits[waiting.code] = now
        return False


@contextmanager
def _by_the_minute(lines: Lines) -> Iterator[Lines]:
    """The same lines, with a thread that looks whether the sums are due: between two notices nothing else would."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK):
            lines.look()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield lines
    finally:
        over.set()
        thread.join()


@contextmanager
def _bars(stream: TextIO) -> Iterator[Notify]:
    # Imported here: rich takes 40 ms and is of no use in a pipe.
    from rich.console import Console
    from rich.live import Live

    console, watch = Console(file=stream, highlight=False, markup=False), Watch()

    def show(notice: Notice) -> None:
        watch.hear(notice)
        # What the bars show already is not told above them.
        ended = isinstance(notice, StageEnded) and not notice.message
        if not ended and not isinstance(notice, StageBegan | DeadLettered | Waiting) and (text := notice.text()):
            console.print(text)

    with Live(Screen(watch), console=console, refresh_per_second=4):
        yield show


class Screen:
    """The screen of a watch, drawn again and again as of the moment."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def __rich_console__(self, console: object, options: object) -> Iterator[RenderableType]:
        from rich.text import Text

        width = getattr(console, "width", 80)
        for line in self._watch.screen(width - MARGIN) or [""]:
            yield Text(line, no_wrap=True, overflow="crop")
