"""Where the pieces of a scan are done: in worker processes of this machine, or on a Dask cluster."""

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

LARGE = 64 << 20  # bytes of an export that are worth the start of processes: a second of reading
ANSWERS = 10.0  # seconds that a cluster is given to answer


class Workers(ABC):
    """Processes that do tasks. A task is a function of a module with arguments fit to be pickled.

    `remote` ones are on other machines: they are sent places of records, and never records. A task is for `piece` bytes
    of an export.
    """

    remote = False

    def __init__(self, count: int, *, piece: int = PIECE_BYTES) -> None:
        self.count, self.piece = count, piece
        self.generation = 0
        self._executor: Executor | None = None

    def submit(self, work: Callable[..., T], *given: Any) -> Future[T]:
        """Begin a task. Raises where there are no workers any more."""
        if self._executor is None:
            self._executor = self._started()
        return self._executor.submit(work, *given)

    def restart(self, generation: int) -> None:
        """Start other processes, unless that was done since a task of this generation began."""
        if generation == self.generation:
            self.generation += 1
            self.close()

    def close(self) -> None:
        """End the processes with whatever they do."""
        executor, self._executor = self._executor, None
        if executor is not None:
            self._end(executor)

    def leave(self) -> None:
        """Have done with them."""
        self.close()

    @abstractmethod
    def _started(self) -> Executor:
        """Start the processes."""

    @abstractmethod
    def _end(self, executor: Executor) -> None:
        """End them with whatever they do."""


class Processes(Workers):
    """Processes of this machine. They end with this one, however it ends, and Ctrl-C is this one's to answer."""

    def _started(self) -> Executor:
        with _without_key():  # what they all descend from is started here, once
            forkserver.ensure_running()
        self._made = _Made()
        context: Any = self._made
        return ProcessPoolExecutor(self.count, mp_context=context, initializer=_begin)

    def _end(self, executor: Executor) -> None:
        executor.shutdown(wait=False, cancel_futures=True)
        for process in self._made.processes:
            if process.pid is not None:  # else it could not be started
                process.terminate()
                process.join()


class Cluster(Workers):
    """The workers of a Dask cluster that is there already."""

    remote = True

    def __init__(self, address: str, *, piece: int = PIECE_BYTES, answers: float = ANSWERS) -> None:
        """Raises `Unusable` where no cluster answers, or none has a worker."""
        try:
            from distributed import Client

            logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what goes wrong is told by our own words
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
        with suppress(Exception):  # the cluster may be gone: there is nothing to be ended then
            executor.shutdown(wait=False, cancel_futures=True)

    def leave(self) -> None:
        self.close()
        with suppress(Exception):
            self._client.close()


def hired(count: int | None, cluster: str, size: int) -> Workers | None:
    """The workers for an export of so many bytes; None where this process does it alone. `count` is how many processes
    there may be, None: one for each core, if it is worth it. With the address of a `cluster`, that has them.

    Raises `Unusable` for a cluster that is not there.
    """
    if cluster:
        return Cluster(cluster)
    if count is None:
        count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        count = count if size >= LARGE else 1
    return Processes(count) if count > 1 else None


class _Made:
    """Makes processes as `multiprocessing` does, and keeps them: an executor tells nobody which it has."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self.processes: list[Any] = []

    def Process(self, *parts: Any, **more: Any) -> Any:  # noqa: N802  # as it is called there
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
