"""Workers for the pieces of a scan: processes of this machine, or a Dask cluster."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from typing import Any, TypeVar

from streammig.children import GC_THRESHOLD, KEY_VARIABLE
from streammig.errors import Unusable
from streammig.scan.pieces import PIECE_BYTES

T = TypeVar("T")

LARGE = 64 << 20  # bytes; reading a smaller export takes less than a second, so processes don't pay
ANSWERS = 10.0  # seconds that a cluster has to answer


class Workers(ABC):
    """Processes that do tasks. A task is a function of a module, with arguments that can be pickled.

    `remote` workers are on other machines: they are sent places of records, never records. A task covers `piece` bytes
    of an export.
    """

    remote = False

    def __init__(self, count: int, *, piece: int = PIECE_BYTES) -> None:
        self.count, self.piece = count, piece
        self.generation = 0
        self._executor: Executor | None = None

    def submit(self, work: Callable[..., T], *given: Any) -> Future[T]:
        """Begin a task; start the processes first if none run. Raises if they are broken."""
        if self._executor is None:
            self._executor = self._started()
        return self._executor.submit(work, *given)

    def restart(self, generation: int) -> None:
        """Drop the processes, so that the next task starts others. Only the first call of a generation counts."""
        if generation == self.generation:
            self.generation += 1
            self.close()

    def close(self) -> None:
        """End the processes, in the middle of their tasks."""
        executor, self._executor = self._executor, None
        if executor is not None:
            self._end(executor)

    def leave(self) -> None:
        """End the processes for good."""
        self.close()

    @abstractmethod
    def _started(self) -> Executor:
        """Start the processes."""

    @abstractmethod
    def _end(self, executor: Executor) -> None:
        """End the processes, in the middle of their tasks."""


class Processes(Workers):
    """Processes of this machine. They end when this process ends in any way, and ignore Ctrl-C."""

    def _started(self) -> Executor:
        with _without_key():  # the fork server keeps its environment, and all workers get it
            forkserver.ensure_running()
        context: Any = _Context()
        self._processes: list[Any] = context.processes
        return ProcessPoolExecutor(self.count, mp_context=context, initializer=_begin)

    def _end(self, executor: Executor) -> None:
        executor.shutdown(wait=False, cancel_futures=True)
        for process in self._processes:
            if process.pid is not None:  # else it could not be started
                process.terminate()
                process.join()


class Cluster(Workers):
    """The workers of a running Dask cluster."""

    remote = True

    def __init__(self, address: str, *, piece: int = PIECE_BYTES, answers: float = ANSWERS) -> None:
        """Raises `Unusable` if no cluster answers, or it has no workers."""
        try:
            from distributed import Client

            logging.getLogger("distributed").setLevel(logging.CRITICAL)  # our own messages say what failed
        except ImportError:
            said, hint = "Dask is not installed", "Install it: pip install 'streammig[dask]'."
            raise Unusable("dask-missing", said, hint) from None
        try:
            make: Any = Client
            self._client: Any = make(address, timeout=answers, set_as_default=False)
        except (OSError, ValueError) as error:
            said = f"{address}: no Dask scheduler answered: {type(error).__name__}"
            raise Unusable("dask-unreachable", said, "Name the scheduler like tcp://host:8786.") from None
        count = sum(self._client.nthreads().values())
        if not count:
            self._client.close()
            raise Unusable("dask-unreachable", f"{address}: the cluster has no workers", "Start some, and check again.")
        super().__init__(count, piece=piece)

    def _started(self) -> Executor:
        executor: Executor = self._client.get_executor(pure=False)
        return executor

    def _end(self, executor: Executor) -> None:
        with suppress(Exception):  # the cluster may be gone
            executor.shutdown(wait=False, cancel_futures=True)

    def leave(self) -> None:
        self.close()
        with suppress(Exception):
            self._client.close()


def hired(count: int | None, cluster: str, size: int) -> Workers | None:
    """Return workers for an export of `size` bytes: those of the `cluster` at an address, else `count` processes.

    A `count` of None means one process a core for a large export. Returns None if this process does all the work.
    Raises `Unusable` if the cluster does not answer.
    """
    if cluster:
        return Cluster(cluster)
    if count is None:
        count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        count = count if size >= LARGE else 1
    return Processes(count) if count > 1 else None


class _Context:
    """A context of `multiprocessing` that remembers its processes, to terminate them: an executor hides its own."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self.processes: list[Any] = []

    def Process(self, *parts: Any, **more: Any) -> Any:  # noqa: N802  # overrides that of the context
        self.processes.append(self._context.Process(*parts, **more))
        return self.processes[-1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


@contextmanager
def _without_key() -> Iterator[None]:
    held = {name: os.environ.pop(name) for name in [KEY_VARIABLE] if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(held)


def _begin() -> None:
    gc.set_threshold(GC_THRESHOLD)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
