"""Read a stage once, piece by piece, in this process or in workers; give the findings in reading order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

from streammig.errors import BrokenExport
from streammig.model import START, Place, Span
from streammig.scan.pieces import PIECE_BYTES, Map, Part, Piece, of_piece, of_spans, packed, whole_part
from streammig.scan.tasks import Halted, Task, Tasks
from streammig.sources import FileSource

Spans = Callable[[Callable[[BrokenExport], None]], Iterator[Span]]
"""Begins to read spans. The argument is called with each file that breaks off."""

Tell = Callable[[Place], None]
"""Takes the place that the reading has reached."""


@dataclass(slots=True)
class Reading:
    """One reading of a stage by one map."""

    job: Map
    tasks: Tasks
    tell: Tell
    _recipe: bytes = field(init=False, default=b"")

    def parts(self, start: Place = START) -> Iterator[Part]:
        """Give the findings of each piece, in reading order. Raises `Halted`."""
        source = self.job.source
        self._pack()
        workers = self.tasks.workers
        if workers is None or (workers.remote and not isinstance(source, FileSource)):
            yield from self._here(partial(source.spans, start))
            return
        if not isinstance(source, FileSource):
            yield from self._handed_out(partial(source.spans, start))
            return
        for number, mark in list(enumerate(source.fingerprints()))[start.source :]:
            place = start if number == start.source else Place(number)
            workers = self.tasks.workers
            packed_there = mark["compression"] and (workers is None or workers.remote)
            if packed_there or mark["length"] - place.offset < 2 * self._piece():
                yield from self._here(partial(source.of_file, place))
            elif mark["compression"]:
                yield from self._handed_out(partial(source.of_file, place))
            else:
                yield from self._divided(source, place, mark["length"])

    # -- in this process -----------------------------------------------------------------------------------------------

    def _here(self, spans_of: Spans) -> Iterator[Part]:
        broken: list[BrokenExport] = []
        for group in self._groups(spans_of(broken.append)):
            yield self.job.part(group, broken=broken)
            broken.clear()

    def _groups(self, spans: Iterator[Span]) -> Iterator[Iterable[Span]]:
        """Group spans into pieces. Use up each group before the next one."""
        left = True

        def group() -> Iterator[Span]:
            nonlocal left
            size = 0
            for span in spans:
                if self.tasks.halt.is_set():
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
        """Frame the source here, and have workers map its spans: for sources that can't be divided (compressed)."""
        broken: list[BrokenExport] = []

        def tasks() -> Iterator[Task[Part]]:
            for group in self._groups(spans_of(broken.append)):
                spans = list(group)
                yield Task(of_spans, (self._recipe, spans), partial(self.job.part, spans))

        yield from self.tasks.results(tasks())
        yield self.job.part(broken=broken)

    def _divided(self, source: FileSource, place: Place, length: int) -> Iterator[Part]:
        """Divide a file into pieces whose beginnings are guessed.

        A guess is proven when the previous piece ends with the place of a record that begins there. An unproven piece
        is done again, from the end of the previous one.
        """
        at = self._first(source, place)
        cuts = self._cuts(source, place.source, at, length) if at is not None else iter(())
        under_way: deque[tuple[Piece, Task[Part]]] = deque()
        while at is not None:
            for piece in cuts:
                under_way.append((piece, self._begun(piece)))
                if len(under_way) > self.tasks.most:
                    break
            piece, task = under_way.popleft() if under_way else (Piece(at), None)
            if piece.stop is not None and piece.stop <= at.offset:
                continue
            if task is None or piece.begin.offset != at.offset:
                task = self._begun(Piece(at._replace(ordinal=1), piece.stop))
            part = self.tasks.result(task)
            part.counted = at.ordinal - 1
            if part.breaks:  # their messages name ordinals and the file, which only this process knows
                part = whole_part(self.job, Piece(at, piece.stop))
            yield part
            at = part.end._replace(ordinal=part.end.ordinal + part.counted) if part.end is not None else None
            self.tell(at or Place(place.source, length))
        for _, task in under_way:
            if task.future is not None:
                task.future.cancel()

    def _first(self, source: FileSource, place: Place) -> Place | None:
        """Find the place of the first record; the beginning of a file without one."""
        spans = source.of_file(place, lambda broken: None)
        try:
            first = next(spans, None)
        finally:
            getattr(spans, "close", int)()
        return first.position(0).begin if first is not None else place

    def _cuts(self, source: FileSource, number: int, at: Place, length: int) -> Iterator[Piece]:
        """Guess pieces from a place on. The first begins there, the others where a record seems to begin."""
        begin, offset = at.offset, at.offset + self._piece()
        while offset < length:
            found = source.next_record(number, offset)
            if found is None:
                break
            yield Piece(Place(number, begin, 0, 1), found)
            begin, offset = found, found + self._piece()
        yield Piece(Place(number, begin, 0, 1))

    def _begun(self, piece: Piece) -> Task[Part]:
        task = Task(of_piece, (self._recipe, piece), partial(whole_part, self.job, piece))
        self.tasks.begin(task)
        return task

    def _piece(self) -> int:
        return self.tasks.workers.piece if self.tasks.workers is not None else PIECE_BYTES

    def _pack(self) -> None:
        workers = self.tasks.workers
        if workers is None:
            return
        try:
            self._recipe = packed(self.job, remote=workers.remote)
        except Exception as error:  # the mapping is no function of a module: pickle raises many kinds
            self.tasks.give_up("worker-unfit", f"the rules can't be handed to another process: {type(error).__name__}")
