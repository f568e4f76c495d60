"""Work for workers, and its results in order: what is lost with a worker is done again, at last in this process."""

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

TRIES = 3  # that a task is given to workers, if they are lost over it
AHEAD = 2  # tasks for each worker that are under way or done before they are asked for
LOOK = 0.1  # seconds between two looks at whether to stop


class Halted(Exception):
    """A scan was stopped, and its partial result is of no use."""


@dataclass(slots=True)
class Task(Generic[T]):
    """A function of a module with its arguments, for a worker. `here` does the same in this process."""

    work: Callable[..., T]
    given: tuple[Any, ...]
    here: Callable[[], T]
    future: Future[T] | None = None
    generation: int = 0
    tries: int = 0


@dataclass(slots=True)
class Tasks:
    """Tasks of one piece of work, which ends early once `halt` is set. Without `workers` all is done in this process,
    in the calling thread, and only when it is asked for."""

    workers: Workers | None
    halt: Event
    warn: Notify

    @property
    def most(self) -> int:
        """How many tasks may be under way before one is asked for."""
        return AHEAD * self.workers.count if self.workers is not None else 0

    def each(self, work: Callable[..., T], arguments: Iterable[tuple[Any, ...]]) -> Iterator[T]:
        """The results of a function of a module for each of these arguments, in their order."""
        return self.results(Task(work, given, partial(work, *given)) for given in arguments)

    def results(self, tasks: Iterable[Task[T]]) -> Iterator[T]:
        """The results of tasks, in their order. Raises `Halted`."""
        under_way: deque[Task[T]] = deque()
        for task in tasks:
            self.begin(task)
            under_way.append(task)
            if len(under_way) > self.most:
                yield self.result(under_way.popleft())
        for task in under_way:
            yield self.result(task)

    def begin(self, task: Task[T]) -> None:
        """Begin a task in a worker; if there are none left it is done when it is asked for."""
        if self.workers is None:
            return
        try:
            task.generation = self.workers.generation
            task.future = self.workers.submit(task.work, *task.given)
        except Exception as error:  # whatever an executor raises that is broken
            self._lost(task, error)

    def result(self, task: Task[T]) -> T:
        """The result of a task that was begun. Raises `Halted`."""
        while task.future is not None:
            while not task.future.done():
                wait([task.future], LOOK)
                if self.halt.is_set():
                    raise Halted
            try:
                return task.future.result()
            except Problem as problem:
                # If this process finds the same, that is what is wrong, and is raised. Else workers are of no use.
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
        """Do without workers from now on, and say why."""
        if self.workers is not None:
            self.workers.close()
            self.workers = None
            self.warn(Warned(code, f"{what}; this process does the rest"))
