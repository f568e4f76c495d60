"""Reads a stage once, piece by piece, in this process or in workers, and gives what was found in reading order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from functools import partial
from threading import Event
from typing import Any

from streammig.errors import BrokenExport, Problem
from streammig.model import START, Place, Span
from streammig.scan.pieces import PIECE_BYTES, Map, Part, Piece, of_piece, of_spans, packed, whole_part
from streammig.scan.workers import Workers
from streammig.sources import FileSource
from streammig.telemetry import Notify, Warned

TRIES = 3  # that a piece is given to workers, if they are lost over it
AHEAD = 2  # pieces for each worker that are under way or done before they are asked for
LOOK = 0.1  # seconds between two looks at whether to stop

Spans = Callable[[Callable[[BrokenExport], None]], Iterator[Span]]
"""Begins to read spans; it tells where a file can't be read on."""

Tell = Callable[[Place], None]
"""Takes the place up to which a stage is read."""


class Halted(Exception):
    """A scan was stopped, and its partial result is of no use."""


@dataclass(slots=True)
class Task:
    """A piece of work in a worker: the same again in this process is `here`."""

    work: Callable[..., Part]
    given: Any
    here: Callable[[], Part]
    future: Future[Part] | None = None
    generation: int = 0
    tries: int = 0


@dataclass(slots=True)
class Reading:
    """One reading of a stage by one map. Without `workers` all is done in this process, in the calling thread."""

    job: Map
    halt: Event
    tell: Tell
    warn: Notify
    workers: Workers | None = None
    _recipe: bytes = field(init=False, default=b"")

    def parts(self, start: Place = START) -> Iterator[Part]:
        """What is found in each piece, in reading order. Raises `Halted` as soon as `halt` is set."""
        source = self.job.source
        if self.workers is not None:
            self._pack(self.workers)
        if self.workers is None or (self.workers.remote and not isinstance(source, FileSource)):
            yield from self._here(partial(source.spans, start))
            return
        if not isinstance(source, FileSource):
            yield from self._handed_out(partial(source.spans, start))
            return
        for number, mark in list(enumerate(source.fingerprints()))[start.source :]:
            place = start if number == start.source else Place(number)
            packed_there = mark["compression"] and (self.workers is None or self.workers.remote)
            if packed_there or mark["length"] - place.offset < 2 * self._piece():
                yield from self._here(partial(source.of_file, place))
            elif mark["compression"]:
                yield from self._handed_out(partial(source.of_file, place))
            else:
                yield from self._divided(source, place, mark["length"])

    # -- in this process -----------------------------------------------------------------------------------------------

    def _here(self, spans_of: Spans) -> Iterator[Part]:
        told: list[BrokenExport] = []
        for group in self._groups(spans_of(told.append)):
            yield self.job.part(group, told=told)
            told.clear()

    def _groups(self, spans: Iterator[Span]) -> Iterator[Iterable[Span]]:
        """The spans, as many at once as make a piece; each group is to be used up before the next one."""
        left = True

        def group() -> Iterator[Span]:
            nonlocal left
            size = 0
            for span in spans:
                if self.halt.is_set():
                    raise Halted
                size += len(span.data)
                yield span
                self.tell(span.end)
                if size >= self._piece():
                    return
            left = False

        try:
            while left:
                yield group()
        finally:
            getattr(spans, "close", int)()  # a generator closes its file

    # -- in workers ----------------------------------------------------------------------------------------------------

    def _handed_out(self, spans_of: Spans) -> Iterator[Part]:
        """What can't be divided, such as a compressed file, is framed here, and its spans are handed out."""
        told: list[BrokenExport] = []

        def tasks() -> Iterator[Task]:
            for group in self._groups(spans_of(told.append)):
                spans = list(group)
                yield Task(of_spans, spans, partial(self.job.part, spans))

        under_way: deque[Task] = deque()
        for task in tasks():
            under_way.append(self._begun(task))
            if len(under_way) > self._most():
                yield self._done(under_way.popleft())
        for task in under_way:
            yield self._done(task)
        yield self.job.part(told=told)

    def _divided(self, source: FileSource, place: Place, length: int) -> Iterator[Part]:
        """A file in pieces whose beginnings are guessed. A guess is proven where the piece before it comes to a record
        that begins there; a piece that is not proven is done again, from where the one before it ended."""
        at = self._first(source, place)
        cuts = self._cuts(source, place.source, at, length) if at is not None else iter(())
        under_way: deque[tuple[Piece, Task]] = deque()
        while at is not None:
            for piece in cuts:
                under_way.append((piece, self._begun(self._task(piece))))
                if len(under_way) > self._most():
                    break
            piece, task = under_way.popleft() if under_way else (Piece(at), None)
            if piece.stop is not None and piece.stop <= at.offset:
                continue
            if task is None or piece.begin.offset != at.offset:
                task = self._begun(self._task(Piece(at._replace(ordinal=1), piece.stop)))
            part = self._done(task)
            part.counted = at.ordinal - 1
            if part.breaks:  # their words count records, and name the file
                part = whole_part(self.job, Piece(at, piece.stop))
            yield part
            at = part.end._replace(ordinal=part.end.ordinal + part.counted) if part.end is not None else None
            self.tell(at or Place(place.source, length))
        for _, task in under_way:
            if task.future is not None:
                task.future.cancel()

    def _first(self, source: FileSource, place: Place) -> Place | None:
        """The place of the first record; of a file without one, too, its beginning."""
        spans = source.of_file(place, lambda broken: None)
        try:
            first = next(spans, None)
        finally:
            getattr(spans, "close", int)()
        return first.position(0).begin if first is not None else place

    def _cuts(self, source: FileSource, number: int, at: Place, length: int) -> Iterator[Piece]:
        """Pieces from a place on. The first begins there; the others where records seem to."""
        begin, offset = at.offset, at.offset + self._piece()
        while offset < length:
            found = source.next_record(number, offset)
            if found is None:
                break
            yield Piece(Place(number, begin, 0, 1), found)
            begin, offset = found, found + self._piece()
        yield Piece(Place(number, begin, 0, 1))

    def _task(self, piece: Piece) -> Task:
        return Task(of_piece, piece, partial(whole_part, self.job, piece))

    def _piece(self) -> int:
        return self.workers.piece if self.workers is not None else PIECE_BYTES

    def _most(self) -> int:
        return AHEAD * self.workers.count if self.workers is not None else 0

    def _pack(self, workers: Workers) -> None:
        try:
            self._recipe = packed(self.job, remote=workers.remote)
        except Exception as error:  # a mapping that is no function of a module: pickle raises many kinds
            self._give_up("worker-unfit", f"the rules can't be handed to another process: {type(error).__name__}")

    def _begun(self, task: Task) -> Task:
        """The task, begun in a worker; if there are none left it is done when it is asked for."""
        workers = self.workers
        if workers is None:
            return task
        try:
            task.generation = workers.generation
            task.future = workers.submit(task.work, self._recipe, task.given)
        except Exception as error:  # whatever an executor raises that is broken
            self._lost(task, error)
        return task

    def _done(self, task: Task) -> Part:
        """The result of a task. One that was lost with its worker is done again."""
        while task.future is not None:
            while not task.future.done():
                wait([task.future], LOOK)
                if self.halt.is_set():
                    raise Halted
            try:
                return task.future.result()
            except Problem as problem:
                # If this process finds the same, that is what is wrong, and is raised. Else workers are of no use.
                part = task.here()
                self._give_up(problem.code, problem.what)
                return part
            except Exception as error:
                self._lost(task, error)
        if self.halt.is_set():
            raise Halted
        return task.here()

    def _lost(self, task: Task, error: Exception) -> None:
        task.future = None
        task.tries += 1
        if self.workers is None:
            return
        if task.tries >= TRIES:
            self._give_up("workers-lost", f"a worker ended {TRIES} times over the same piece: {type(error).__name__}")
            return
        self.workers.restart(task.generation)
        self._begun(task)

    def _give_up(self, code: str, what: str) -> None:
        if self.workers is not None:
            self.workers.close()
            self.workers = None
            self.warn(Warned(code, f"{what}; this process does the rest"))
