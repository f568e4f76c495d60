"""A `Reader` in a child process, which reads, judges and packs on another core.

The child gets the arguments of a `Reader` and sends the results of its `next`. Bodies go through the outbox. The child
runs ahead by a few results: the parent writes one byte for each result that it may send.
"""

from __future__ import annotations

import gc
import os
import pickle
import select
import signal
import sys
from contextlib import suppress
from struct import Struct
from typing import IO, Any

from streammig.batching import Sealing
from streammig.children import GC_THRESHOLD, begin, ending, environment
from streammig.errors import BrokenExport, MachineFault, Problem, defect
from streammig.reader import Reader

AHEAD = 4  # results that the child may send before the parent asks
_LENGTH = Struct("!I")  # of a message's pickle
_PROGRAM = "from streammig.reader_process import main; main()"
STDERR = 2  # for a mapping's print(): stdout may carry a document
# Keep freed memory: for each body the kernel would clear new pages, which costs a tenth of the CPU time.
MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(16 << 20), "MALLOC_TRIM_THRESHOLD_": str(16 << 20)}


class ReaderProcess:
    """A `Reader` in a child process. Takes the arguments of `Reader`, which must be picklable.

    Raises the errors of `pickle`, and `MachineFault` if the child can't be started or dies. The child has a session of
    its own, so that Ctrl-C does not reach it. It ends when this process ends.
    """

    def __init__(self, *parts: Any, **more: Any) -> None:
        recipe = pickle.dumps((parts, more))
        self.broken: BrokenExport | None = None
        self.paused = ""
        ours, theirs = os.pipe()
        try:
            child = begin(_PROGRAM, str(theirs), stdout=STDERR, kept_open=[theirs], environ=MEMORY | environment())
        except OSError as error:
            os.close(ours)
            raise MachineFault(
                "reader-not-started", f"the process that reads the export can't be started: {error.strerror}"
            ) from None
        finally:
            os.close(theirs)
        self._child = child
        self._answers = open(ours, "rb", buffering=0)  # noqa: SIM115  # until `close`
        self._poll = select.poll()
        self._poll.register(ours, select.POLLIN)
        self._ask(recipe + b"." * AHEAD)

    @property
    def ready(self) -> bool:
        """Whether a result of the child is waiting."""
        return not self._answers.closed and bool(self._poll.poll(0))

    def next(self) -> Sealing | None:
        """As `Reader.next`. Raises the child's `Problem`."""
        if self._answers.closed:
            return None
        (size,) = _LENGTH.unpack(self._hear(_LENGTH.size))
        said = self._hear(size)
        self._ask(b".")
        match pickle.loads(said):
            case Sealing() as sealing:
                return sealing
            case "end", broken, paused:
                self.broken, self.paused = broken, paused
                self.close()
                return None
            case Problem() as problem:
                self.close()
                raise problem
        raise AssertionError("unknown answer of the reader's process")

    def _hear(self, size: int) -> bytes:
        said = bytearray()
        while len(said) < size:
            if not (part := self._answers.read(size - len(said))):
                raise self._died()
            said += part
        return bytes(said)

    def _ask(self, what: bytes) -> None:
        assert self._child.stdin is not None
        with suppress(BrokenPipeError):  # the child has died: the next read raises
            self._child.stdin.write(what)
            self._child.stdin.flush()

    def close(self) -> None:
        """End the child; may be called twice."""
        self._hang_up()
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait()

    def _hang_up(self) -> None:
        self._answers.close()
        assert self._child.stdin is not None
        with suppress(BrokenPipeError):
            self._child.stdin.close()

    def _died(self) -> MachineFault:
        self._hang_up()
        return MachineFault(
            "reader-died",
            f"the process that reads the export ended {ending(self._child.wait())}",
            "If it was killed because memory was full, free some. Then run the same command: it goes on from here.",
        )


# -- the child ---------------------------------------------------------------------------------------------------------


def main() -> None:
    # Ctrl-C does not reach this session, but `kill -INT` may. Only the parent acts on a signal.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.set_threshold(GC_THRESHOLD)
    with suppress(BrokenPipeError), open(int(sys.argv[-1]), "wb") as answers:
        try:
            parts, more = pickle.load(sys.stdin.buffer)
            tell_all(Reader(*parts, **more), sys.stdin.buffer, answers)
        except BrokenPipeError:
            raise
        except Problem as problem:
            tell(answers, problem)
        except Exception as error:
            tell(answers, defect(error))


def tell_all(feed: Reader, asked: IO[bytes], answers: IO[bytes]) -> None:
    """Send each result of the reader when the parent asks for it, then how the reading ended."""
    while asked.read(1) and (sealing := feed.next()) is not None:
        tell(answers, sealing)
    tell(answers, ("end", feed.broken, feed.paused))


def tell(answers: IO[bytes], what: Any) -> None:
    said = pickle.dumps(what)
    answers.write(_LENGTH.pack(len(said)) + said)
    answers.flush()
