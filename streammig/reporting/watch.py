"""Shows a run while it goes: bars on a terminal, lines elsewhere, nothing if asked for quiet."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from streammig.errors import counted
from streammig.notices import Answered, Buried, Notice, Sealed, StageBegan, StageEnded, Tell, Waiting, tell_nobody
from streammig.records import START, Kind, Place, Tally
from streammig.reporting.words import lasting, line, spoken

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from rich.text import Text

EVERY = 100  # accepted batches between two lines where there is no terminal
SECONDS = 30.0  # between them at most; also between two that say the same
ALMOST = 0.99
_DIGITS = re.compile(r"\d+")


@contextmanager
def watching(stream: TextIO, *, quiet: bool) -> Iterator[Tell]:
    """A callable for the notices of one run, which shows them on `stream` as it can bear."""
    if quiet:
        yield tell_nobody
    elif stream.isatty():
        with _bars(stream) as bars:
            yield Gathered(bars)
    else:
        yield Gathered(Lines(stream))


def _share(sizes: Sequence[int] | None, source: int, offset: float) -> float:
    """How far a place is in files of these sizes, which may be estimates: all is done when the stage has ended."""
    whole = sum(sizes or ())
    return min((sum((sizes or ())[:source]) + offset) / whole, ALMOST) if whole else 0.0


class Gathered:
    """Passes notices on, the dead letters of a while and a stage as one: there may be some in every batch."""

    def __init__(self, tell: Tell, clock: Callable[[], float] = time.monotonic) -> None:
        self._tell = tell
        self._clock = clock
        self._said = -SECONDS
        self._buried: Buried | None = None

    def __call__(self, notice: Notice) -> None:
        if isinstance(notice, Buried):
            before = self._buried.tally if self._buried is not None else Tally()
            self._buried = Buried(notice.stage, before + notice.tally)
        ended = isinstance(notice, StageEnded)
        if self._buried is not None and (ended or self._clock() - self._said >= SECONDS):
            self._tell(self._buried)
            self._buried, self._said = None, self._clock()
        if not isinstance(notice, Buried):
            self._tell(notice)


class Lines:
    """One line for what matters, and one for every hundred batches: for logs."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._batches = self._units = 0
        self._clock = clock
        self._said = clock()
        self._waits: dict[str, float] = {}  # when each was last said
        self._sizes: tuple[int, ...] | None = None
        self._done = START
        self._sealed: dict[int, Place] = {}
        self._began = self._said, 0.0  # when, and with which share read

    def __call__(self, notice: Notice) -> None:
        if isinstance(notice, StageBegan):
            self._batches, self._units = 0, notice.accepted
            self._sizes, self._done = notice.sizes, notice.frontier
            self._sealed.clear()
            self._began = self._clock(), self._share()
        if isinstance(notice, Sealed):
            self._sealed[notice.batch.seq] = notice.frontier
        if isinstance(notice, Answered) and notice.receipt.kind is Kind.ACCEPTED:
            # How far it is read runs ahead of what is accepted by a full queue: what is accepted is told.
            self._done = max(self._done, self._sealed.pop(notice.batch.seq, START))
        if isinstance(notice, Waiting) and self._repeats(notice):
            return
        if text := line(notice):
            print(text, file=self._stream, flush=True)
        elif isinstance(notice, Answered):
            self._batches += 1
            self._units += notice.batch.tally.units
            if self._batches % EVERY == 0 or self._clock() - self._said >= SECONDS:
                self._said = self._clock()
                done = f"{counted(self._batches, 'batch', 'es')}, {counted(self._units, 'unit')} accepted"
                print(f"{notice.batch.stage}: {done}{self._rest()}", file=self._stream, flush=True)

    def _share(self) -> float:
        return _share(self._sizes, self._done.source, self._done.offset)

    def _rest(self) -> str:
        """How much of the stage is done, and how long the rest will take at the rate so far."""
        share, (at, before) = self._share(), self._began
        if share <= before:
            return ""
        seconds = (self._clock() - at) * (1 - share) / (share - before)
        return f", {share:.0%} done" + f", {spoken(seconds)} left"

    def _repeats(self, waiting: Waiting) -> bool:
        """Whether the same was said a moment ago, perhaps of another batch."""
        why, now = _DIGITS.sub("", waiting.why), self._clock()
        if now - self._waits.get(why, -SECONDS) < SECONDS:
            return True
        self._waits[why] = now
        return False


@contextmanager
def _bars(stream: TextIO) -> Iterator[Tell]:
    # Imported here: rich takes 40 ms and is of no use in a pipe.
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(file=stream)
    narrow = console.width < 100
    progress = Progress(
        TextColumn("{task.description:<12}"), BarColumn(12 if narrow else 30), TextColumn("{task.fields[share]:>5}"),
        TextColumn("{task.fields[units]:>11,} units"), TimeElapsedColumn(), TimeRemainingColumn(),
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
        self._sizes: tuple[int, ...] | None = None
        self._units = 0
        self._sealed: dict[int, Place] = {}

    def __call__(self, notice: Notice) -> None:
        match notice:
            case StageBegan(stage, frontier, sizes, accepted, pending):
                self._sizes, self._units = sizes, accepted
                self._sealed.clear()
                total = sum(sizes) if sizes is not None else None
                self._task = self._progress.add_task(
                    stage, total=total, units=accepted, share="" if total is None else "0%"
                )
                if not pending:
                    self._advance(frontier.source, frontier.offset)
            case Sealed(_, batch, frontier):
                self._sealed[batch.seq] = frontier
                return
            case Answered(batch, receipt) if receipt.kind is Kind.ACCEPTED:
                self._units += batch.tally.units
                self._doing.say("")
                # How far it is read runs ahead of what is accepted by a full queue: the bar shows what is accepted.
                if reached := self._sealed.pop(batch.seq, None):
                    self._advance(reached.source, reached.offset)
                if self._task is not None:
                    self._progress.update(self._task, units=self._units)
                return
            case Waiting(why, seconds):
                self._doing.say(why, seconds)
                return
            case StageEnded(_, state, message):
                if self._task is not None and state == "complete":
                    done = self._progress.tasks[self._task].total or 1
                    self._progress.update(self._task, total=done, completed=done, share="100%")
                    self._progress.stop_task(self._task)
                self._doing.say("")
                if not message:
                    return
        if (text := line(notice)) and not isinstance(notice, StageBegan):
            self._progress.console.print(text, markup=False, highlight=False)

    def _advance(self, source: int, offset: int) -> None:
        if self._task is not None and self._sizes is not None:
            done = max(self._progress.tasks[self._task].completed, sum(self._sizes[:source]) + offset)
            self._progress.update(self._task, completed=done, share=f"{_share(self._sizes, 0, done):.0%}")
