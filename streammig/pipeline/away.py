"""A feed in a process of its own: reading, judging and packing on another core, away from the event loop.

The child is given what a `Feed` is made of and sends what its `next` returns. It runs ahead by what fits into the pipe.
"""

from __future__ import annotations

import fcntl
import gc
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from struct import Struct
from typing import IO, Any

from streammig.errors import BrokenExport, MachineFault, Problem
from streammig.feed import Feed
from streammig.packing import Sealing
from streammig.records import Draft

AHEAD = 1 << 20  # bytes that the pipe holds: with the default of 64 KB the two took turns sixteen times a body
GC_THRESHOLD = 200_000  # records hold no cycles: looking for some among thousands of them took a tenth of all
_LENGTHS = Struct("!IQ")  # of a message's pickle and of the body behind it
# What the parent found its modules by comes first, so that the child finds the same.
_BEGIN = """import pickle, sys
sys.path[:] = pickle.load(sys.stdin.buffer)
from streammig.pipeline.away import main
main()"""
_SECRET = "MASIVO_API_KEY"  # a reader needs no key
# Bodies come and go: memory that is given back to the kernel each time is cleared again page by page, a tenth of all.
MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(16 << 20), "MALLOC_TRIM_THRESHOLD_": str(16 << 20)}


class Away:
    """As `Feed`, in a child process; takes what that takes, all of which must be fit to be pickled.

    Raises what pickling raises for what is not, and `MachineFault` if the child can't be started or dies. The child
    has a session of its own, so that Ctrl-C does not reach it, and ends with this process, however that ends.
    """

    def __init__(self, *parts: Any, **more: Any) -> None:
        recipe = pickle.dumps(sys.path) + pickle.dumps((parts, more))
        self.broken: BrokenExport | None = None
        self.paused = ""
        ours, theirs = os.pipe()
        try:
            if hasattr(fcntl, "F_SETPIPE_SZ"):  # Linux; refused where the user's pipes hold too much already
                with suppress(OSError):
                    fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, AHEAD)
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-c", _BEGIN, str(theirs)], stdin=subprocess.PIPE, pass_fds=[theirs],
                env=_environment(), start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            os.close(ours)
            raise MachineFault(
                "reader-not-started", f"the process that reads the export can't be started: {error.strerror}"
            ) from None
        finally:
            os.close(theirs)
        self._answers: IO[bytes] = open(ours, "rb")  # noqa: SIM115  # until `close`
        assert self._child.stdin is not None
        with suppress(BrokenPipeError):  # it is gone already: reading will tell
            self._child.stdin.write(recipe)
            self._child.stdin.close()

    def next(self) -> Sealing | None:
        """As `Feed.next`; raises the `Problem` that ended the child's."""
        if self._answers.closed:
            return None
        lengths = self._answers.read(_LENGTHS.size)
        if len(lengths) < _LENGTHS.size:
            raise self._died()
        size, rest = _LENGTHS.unpack(lengths)
        said = self._answers.read(size)
        body = self._answers.read(rest)
        if len(said) < size or len(body) < rest:
            raise self._died()
        match pickle.loads(said):
            case "batch", ranges, tally, digest, progress:
                return Sealing(Draft(ranges, tally, body, digest), progress)
            case "progress", progress:
                return Sealing(None, progress)
            case "end", broken, paused:
                self.broken = _problem(*broken) if broken else None
                self.paused = paused
                self.close()
                return None
            case "problem", kind, fields:
                self.close()
                raise _problem(kind, fields)
        raise AssertionError("the reader said what it can't say")

    def close(self) -> None:
        """End the child; may be called twice."""
        self._answers.close()
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait()

    def _died(self) -> MachineFault:
        self._answers.close()
        code = self._child.wait()
        how = f"signal {-code}" if code < 0 else f"code {code}"
        return MachineFault(
            "reader-died",
            f"the process that reads the export ended with {how} and said no more",
            "If it was killed for want of memory, make room for it. Then run the same command: it goes on from here.",
        )


def _problem(kind: type[Problem], fields: dict[str, Any]) -> Any:
    made = Problem.__new__(kind, fields["what"])  # by `__init__` some kinds take other things than they hold
    vars(made).update(fields)
    return made


def _environment() -> dict[str, str]:
    return MEMORY | {name: value for name, value in os.environ.items() if name != _SECRET}


# -- the child ---------------------------------------------------------------------------------------------------------


def main() -> None:
    # Ctrl-C does not reach this session, but `kill -INT` may: only the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.set_threshold(GC_THRESHOLD)
    with suppress(BrokenPipeError), open(int(sys.argv[-1]), "wb") as answers:
        try:
            parts, more = pickle.load(sys.stdin.buffer)
            tell_all(Feed(*parts, **more), answers)
        except BrokenPipeError:
            raise
        except Problem as problem:
            tell(answers, ("problem", type(problem), vars(problem)))
        except Exception as error:
            tell(answers, ("problem", MachineFault, vars(_defect(error))))


def tell_all(feed: Feed, answers: IO[bytes]) -> None:
    """Say everything that there is of a feed, and how it ended."""
    while (sealing := feed.next()) is not None:
        draft, progress = sealing.draft, sealing.progress
        if draft is None:
            tell(answers, ("progress", progress))
        else:
            tell(answers, ("batch", draft.ranges, draft.tally, draft.digest, progress), draft.body)
    broken = (type(feed.broken), vars(feed.broken)) if feed.broken is not None else None
    tell(answers, ("end", broken, feed.paused))


def tell(answers: IO[bytes], what: Sequence[Any], body: bytes = b"") -> None:
    said = pickle.dumps(what)
    answers.write(_LENGTHS.pack(len(said), len(body)) + said)
    answers.write(body)
    answers.flush()


def _defect(error: Exception) -> MachineFault:
    # Only the place: the message of an exception nobody expected may hold a value of a record.
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "an unknown place"
    return MachineFault(
        "defect",
        f"a defect of streammig while reading the export: {type(error).__name__} at {where}",
        "Please report this line. The checkpoint is as it was: the same command goes on.",
    )
