"""Give tasks to workers, and their results in order. A task lost with its worker is tried again, at last here."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import Any, Generic, TypeVar

from streammig.errors import Problem
from streammig.scan.workers import Workers
from streammig.telemetry import Notify, Warned

T = TypeVar("T")

TRIES = 3  # after so many lost workers a task is done in this process
AHEAD = 2  # tasks for each worker that begin before their result is asked for
LOOK = 0.1  # seconds between two looks at `halt`


class Halted(Exception):
    """A scan was stopped; its partial result is of no use."""


@dataclass(slots=True)
class Task(Generic[T]):
    """A function of a module with its arguments, for a worker; `here` does the same in this process."""

    work: Callable[..., T]
    given: tuple[Any, ...]
    here: Callable[[], T]
    future: Future[T] | None = None
    generation: int = 0
    tries: int = 0


@dataclass(slots=True)
class Tasks:
    """The tasks of one job, which ends early once `halt` is set.

    Without `workers`, the calling thread does each task when its result is asked for.
    """

    workers: Workers | None
    halt: Event
    warn: Notify

    @property
    def most(self) -> int:
        """How many tasks may be under way at once."""
        return AHEAD * self.workers.count if self.workers is not None else 0

    def each(self, work: Callable[..., T], arguments: Iterable[tuple[Any, ...]]) -> Iterator[T]:
        """Call a function of a module with each of these arguments; give the results in order."""
        return self.results(Task(work, given, partial(work, *given)) for given in arguments)

    def results(self, tasks: Iterable[Task[T]]) -> Iterator[T]:
        """Give the results of tasks, in order. Raises `Halted`."""
        under_way: deque[Task[T]] = deque()
        for task in tasks:
            self.begin(task)
            under_way.append(task)
            if len(under_way) > self.most:
                yield self.result(under_way.popleft())
        for task in under_way:
            yield self.result(task)

    def begin(self, task: Task[T]) -> None:
        """Begin a task in a worker. Without workers it is done when its result is asked for."""
        if self.workers is None:
            return
        try:
            task.generation = self.workers.generation
            task.future = self.workers.submit(task.work, *task.given)
        except Exception as error:  # a broken executor raises many kinds
            self._lost(task, error)

    def result(self, task: Task[T]) -> T:
        """Wait for the result of a task that was begun. Raises `Halted`."""
        while task.future is not None:
            while not task.future.done():
                wait([task.future], LOOK)
                if self.halt.is_set():
                    raise Halted
            try:
                return task.future.result()
            except Problem as problem:
                # If this process meets the problem too, it is raised here. Else the workers are at fault.
                found = task.here()
                self.give_up(problem.code, problem.what)
                return found
            except Exception as error:
                self._lost(task, error)
        if self.halt.is_set():
            raise Halted
        return task.here()

    def _lost(self, task: Task[T], error: Exception) -> None:
        task.future = None
        task.tries += 1
        if self.workers is None:
            return
        if task.tries >= TRIES:
            self.give_up("workers-lost", f"a worker ended {TRIES} times over the same piece: {type(error).__name__}")
            return
        self.workers.restart(task.generation)
        self.begin(task)

    def give_up(self, code: str, what: str) -> None:
        """Go on without workers, and warn why."""
        if self.workers is not None:
            self.workers.close()
            self.workers = None
            self.warn(Warned(code, f"{what}; this process does the rest"))
