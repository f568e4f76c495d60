"""The child process of a census: does what it is told over its pipes, and ends when the other side is gone."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from queue import Queue
from typing import IO

import duckdb
import msgspec

from streammig.owners import wire
from streammig.owners.gathering import Changed, Gathering

ROOM = "Make room for it, then run the same command."
MEND = "Mend the disk, then run the same command."


def main() -> None:
    # Ctrl-C goes to every process of a terminal, but only the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.umask(0o077)
    with open(0, "rb") as requests, open(1, "wb") as answers:
        try:
            serve(requests, answers, lambda: os._exit(0))
        finally:
            os._exit(0)  # not by way of the interpreter's end, which would wait for the thread that reads


def serve(requests: IO[bytes], answers: IO[bytes], gone: Callable[[], object]) -> None:
    """Answer requests until one fails. `gone` is called, in another thread, as soon as there can be no more of them:
    also in the middle of a statement that would run for minutes yet."""
    queue: Queue[wire.Request | None] = Queue(maxsize=2)

    def read() -> None:
        decoder = msgspec.msgpack.Decoder(wire.Request)
        while (request := wire.receive(requests, decoder)) is not None:
            queue.put(request)
        gone()
        queue.put(None)

    threading.Thread(target=read, daemon=True).start()
    begin = queue.get()
    if begin is None:
        return
    assert isinstance(begin, wire.Begin)
    try:
        work = _Work(begin)
        while (request := queue.get()) is not None:
            answer = work.do(request)
            if answer is not None:
                wire.send(answers, answer)
    except Changed:
        wire.send(answers, wire.Fault("the export changed while its customers were read", "", changed=True))
    except (duckdb.Error, OSError) as error:
        wire.send(answers, _fault(begin, error))
    except Exception as error:  # a defect: its text may hold a key, its kind and place do not
        at = error.__traceback__
        while at is not None and at.tb_next is not None:
            at = at.tb_next
        where = f" in {Path(at.tb_frame.f_code.co_filename).name}, line {at.tb_lineno}" if at else ""
        what = f"the owner table can't be made: {type(error).__name__}{where}"
        wire.send(answers, wire.Fault(what, "This is a defect of streammig. Report it; the run can be resumed."))


class _Work:
    """One census, request by request."""

    def __init__(self, begin: wire.Begin) -> None:
        self._gathering = Gathering(
            Path(begin.folder), begin.key, begin.bits, begin.memory_bytes, begin.threads, begin.first_wins
        )

    def do(self, request: wire.Request) -> wire.Answer | None:
        match request:
            case wire.Add(entries):
                self._gathering.add(entries)
            case wire.Find():
                return wire.Found(self._gathering.find_candidates())
            case wire.More():
                return wire.Page(self._gathering.page())
            case wire.Keys(keys):
                self._gathering.keys(keys)
            case wire.Conclude(about):
                return wire.Done(self._gathering.conclude(about))
        return None


def _fault(begin: wire.Begin, error: duckdb.Error | OSError) -> wire.Fault:
    """What DuckDB or the machine said, as what the person who runs this can act on; never a value, never a query."""
    where = f"{begin.folder}: the owner table can't be kept there: "
    code = error.errno if isinstance(error, OSError) else None
    text = str(error)
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    # DuckDB gives the system's words, and its own where its temp directory may not grow any more.
    if code in full or any(os.strerror(it) in text for it in full) or "max_temp_directory_size" in text:
        return wire.Fault(where + "the disk is full", ROOM)
    if isinstance(error, OSError):
        return wire.Fault(where + os.strerror(error.errno or errno.EIO), MEND)
    if isinstance(error, duckdb.OutOfMemoryException):
        return wire.Fault(
            f"the owner table can't be made within {begin.memory_bytes >> 20} MB of memory",
            "Allow more of it, then run the same command.",
        )
    return wire.Fault(where + f"DuckDB reports {type(error).__name__}", MEND)


if __name__ == "__main__":
    main()
