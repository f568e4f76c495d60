"""Shows a run while it goes: bars on a terminal, lines elsewhere, nothing if asked for quiet."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from streammig.errors import counted
from streammig.model import Kind, Tally
from streammig.report.progress import StageProgress
from streammig.telemetry import (
    Advanced,
    Answered,
    DeadLettered,
    Notice,
    Notify,
    Sealed,
    StageBegan,
    StageEnded,
    Waiting,
    ignore,
    lasting,
    spoken,
)

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from rich.text import Text

EVERY = 100  # accepted batches between two lines where there is no terminal
SECONDS = 30.0  # between them at most; also between two that say the same


@contextmanager
def watching(stream: TextIO, *, quiet: bool) -> Iterator[Notify]:
    """A callable for the notices of one run, which shows them on `stream` as it can bear."""
    if quiet:
        yield ignore
    elif stream.isatty():
        with _bars(stream) as bars:
            yield Gathered(bars)
    else:
        yield Gathered(Lines(stream))


class Gathered:
    """Passes notices on, the dead letters of a while and a stage as one: there may be some in every batch."""

    def __init__(self, notify: Notify, clock: Callable[[], float] = time.monotonic) -> None:
        self._notify = notify
        self._clock = clock
        self._said = -SECONDS
        self._dead: DeadLettered | None = None

    def __call__(self, notice: Notice) -> None:
        if isinstance(notice, DeadLettered):
            before = self._dead.tally if self._dead is not None else Tally()
            self._dead = DeadLettered(notice.stage, before + notice.tally)
        ended = isinstance(notice, StageEnded)
        if self._dead is not None and (ended or self._clock() - self._said >= SECONDS):
            self._notify(self._dead)
            self._dead, self._said = None, self._clock()
        if not isinstance(notice, DeadLettered):
            self._notify(notice)


class Lines:
    """One line for what matters, and one for every hundred batches: for logs."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._batches = 0
        self._clock = clock
        self._said = clock()
        self._waits: dict[str, float] = {}  # when each was last said
        self._progress = StageProgress()
        self._began = self._said, 0.0  # when, and with which share settled

    def __call__(self, notice: Notice) -> None:
        self._progress.hear(notice)
        if isinstance(notice, StageBegan):
            self._batches = 0
            self._began = self._clock(), self._progress.share or 0.0
        if isinstance(notice, Waiting) and self._repeats(notice):
            return
        if text := notice.text():
            print(text, file=self._stream, flush=True)
        elif isinstance(notice, Answered):
            self._batches += 1
            if self._batches % EVERY == 0 or self._clock() - self._said >= SECONDS:
                self._said = self._clock()
                done = f"{counted(self._batches, 'batch', 'es')}, {counted(self._progress.accepted, 'unit')} accepted"
                print(f"{notice.batch.stage}: {done}{self._rest()}", file=self._stream, flush=True)

    def _rest(self) -> str:
        """How much of the stage is done, and how long the rest will take at the rate so far."""
        share, (at, before) = self._progress.share, self._began
        if share is None or share <= before:
            return ""
        seconds = (self._clock() - at) * (1 - share) / (share - before)
        return f", {share:.0%} done" + f", {spoken(seconds)} left"

    def _repeats(self, waiting: Waiting) -> bool:
        """Whether a wait of this kind was told a moment ago, perhaps for another batch."""
        now = self._clock()
        if now - self._waits.get(waiting.code, -SECONDS) < SECONDS:
            return True
        self._waits[waiting.code] = now
        return False


@contextmanager
def _bars(stream: TextIO) -> Iterator[Notify]:
    # Imported here: rich takes 40 ms and is of no use in a pipe.
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(file=stream)
    narrow = console.width < 100
    progress = Progress(
        TextColumn("{task.description:<12}"), BarColumn(12 if narrow else 30), TextColumn("{task.fields[share]:>5}"),
        TextColumn("{task.fields[units]:>11,} units"), TimeElapsedColumn(), TimeRemainingColumn(),
        TextColumn("left"),
        console=console, auto_refresh=False,
    )  # fmt: skip
    doing = Doing()
    with Live(Group(progress, doing), console=console, refresh_per_second=8):
        yield Bars(progress, doing)


class Doing:
    """What the run is waiting for, and for how long yet, as of the moment that it is drawn."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._why, self._until = "", 0.0

    def say(self, why: str, seconds: float | None = None) -> None:
        self._why, self._until = why, self._clock() + (seconds or 0.0)

    def __rich__(self) -> Text:
        from rich.text import Text

        text = self._why + lasting(self._until - self._clock())
        return Text(text, no_wrap=True, overflow="ellipsis", style="dim")


class Bars:
    """A bar for each stage and, below them, what the run is waiting for; anything more is written above."""

    def __init__(self, progress: Progress, doing: Doing) -> None:
        self._progress = progress
        self._doing = doing
        self._task: TaskID | None = None
        self._account = StageProgress()

    def __call__(self, notice: Notice) -> None:
        self._account.hear(notice)
        match notice:
            case StageBegan(stage):
                whole = 1.0 if self._account.share is not None else None
                self._task = self._progress.add_task(stage, total=whole, units=0, share="")
                self._show()
            case Sealed() | Advanced():
                self._show()
                return
            case Answered(_, receipt) if receipt.kind is Kind.ACCEPTED:
                self._doing.say("")
                self._show()
                return
            case Waiting(_, reason, seconds):
                self._doing.say(reason, seconds)
                return
            case StageEnded(_, state, message):
                if self._task is not None and state == "complete":
                    done = self._progress.tasks[self._task].total or 1
                    self._progress.update(self._task, total=done, completed=done, share="100%")
                    self._progress.stop_task(self._task)
                self._doing.say("")
                if not message:
                    return
        if (text := notice.text()) and not isinstance(notice, StageBegan):
            self._progress.console.print(text, markup=False, highlight=False)

    def _show(self) -> None:
        if self._task is not None:
            share, units = self._account.share, self._account.accepted
            said = "" if share is None else f"{share:.0%}"
            self._progress.update(self._task, completed=share or 0.0, units=units, share=said)
