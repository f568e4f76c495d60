"""Passes over the customers once, before anything is sent, and leaves a finished owner table."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import IO, TypeVar

import msgspec

from streammig.errors import MachineFault, Problem, Unusable
from streammig.owners import wire
from streammig.owners.layout import OTHER, About, Policy, binding, write_about
from streammig.owners.table import OwnerTable, open_table
from streammig.owners.wire import Entry
from streammig.records import Examined, Place

KeysAt = Callable[[Iterator[Place]], Iterable[tuple[str, str]]]
"""Places of records in, in reading order; the owner and twin of the record at each, read again, out, in that order."""

T = TypeVar("T", wire.Found, wire.Page, wire.Done)

MEMORY_BYTES = 512 << 20
SEND = 2_000  # entries to a message: 200 KB
CHANGED = "Run it again on an export that nobody writes to any more."
PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR", "LANG", "LC_ALL")


class Census:
    """A pass over the customers that is under way: give it every examined record in order, then `finish`.

    A child process, with a session of its own so that Ctrl-C does not reach it, sorts what is found in DuckDB; this
    process keeps nothing but the entries of one message. Synchronous, for one thread; `close` may come from another
    and makes a call that is under way fail. The child ends with this process, however that ends.
    """

    def __init__(
        self,
        folder: Path,
        token: str,
        *,
        policy: Policy = "first",
        memory_bytes: int = MEMORY_BYTES,
        threads: int = 1,
        dice: Callable[[int], bytes] = os.urandom,
        bits: int = 64,
    ) -> None:
        """Begin anew in `folder` (made, and emptied of an older table), for a table bound to `token`.

        `memory_bytes` is DuckDB's cap; the child takes some 80 MB beside it. `dice` gives so many random bytes, for
        the key of the hashes, whose length is `bits` (for tests; 64 otherwise).
        """
        self._folder, self._token, self._policy, self._bits = folder, token, policy, bits
        key = dice(32)
        self._about = About(binding(token, policy, bits), key.hex(), 0, 0, (), "", "")
        self._entries: list[Entry] = []
        self._decoder = msgspec.msgpack.Decoder(wire.Answer)
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", "streammig.owners.child"], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_environment(), start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise MachineFault(f"the process that makes the owner table can't be started: {error.strerror}") from None
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._requests: IO[bytes] = self._child.stdin
        self._answers: IO[bytes] = self._child.stdout
        self._send(wire.Begin(str(folder.absolute()), key, bits, memory_bytes, threads, policy == "first"))

    def add(self, examined: Iterable[Examined]) -> None:
        """The next examined records of the customers stage, in reading order. Raises MachineFault."""
        append = self._entries.append
        for it in examined:
            source, offset, _, ordinal = msgspec.structs.astuple(it.position)
            for record in it.records:
                append((source, offset, record.unit, ordinal, record.owner, record.twin, ""))
            for owner, reason in it.absent:
                append((source, offset, 0, ordinal, owner, "", reason or OTHER))
        if len(self._entries) >= SEND:
            self._send_entries()

    def finish(self, keys_at: KeysAt) -> OwnerTable:
        """The finished table. Ends the child.

        A record is a duplicate if an earlier one that is kept has its id, or its e-mail. `keys_at` is called once if
        any two records share the hash of an id or e-mail, to read their real keys again: so that a collision of
        hashes never counts. Raises MachineFault, Unusable if the export is not what it was, and what `keys_at` does.
        """
        self._send_entries()
        if self._ask(wire.Find(), wire.Found).candidates:
            for keys in _batches(keys_at(self._candidates())):
                self._send(wire.Keys(keys))
        about = self._ask(wire.Conclude(self._about), wire.Done).about
        self.close()
        return self._opened(about)

    def _candidates(self) -> Iterator[Place]:
        while places := self._ask(wire.More(), wire.Page).places:
            yield from places

    def _opened(self, about: About) -> OwnerTable:
        try:
            write_about(self._folder, about)
        except OSError as error:
            raise MachineFault(
                f"{self._folder}: the owner table can't be kept there: {error.strerror}",
                "Make room or mend the disk, then run the same command.",
            ) from None
        table = open_table(self._folder, self._token, policy=self._policy, bits=self._bits)
        if table is None:
            raise MachineFault(
                f"{self._folder}: the owner table reads back as something else than was written",
                "Check the disk, then run the same command.",
            )
        return table

    def close(self) -> None:
        """End the child, whatever it does; may be called twice, and from another thread."""
        self._child.kill()
        self._child.wait()
        for pipe in (self._requests, self._answers):
            with suppress(OSError):  # what stands in a buffer can't be written any more, and need not be
                pipe.close()

    def __enter__(self) -> Census:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    # -- the child ---------------------------------------------------------------------------------------------------

    def _send_entries(self) -> None:
        if self._entries:
            self._send(wire.Add(self._entries))
            self._entries.clear()

    def _send(self, message: wire.Request) -> None:
        try:
            wire.send(self._requests, message)
        except (OSError, ValueError):  # ValueError: closed from another thread
            raise self._failure(self._answer()) from None

    def _ask(self, request: wire.Request, kind: type[T]) -> T:
        self._send(request)
        answer = self._answer()
        if not isinstance(answer, kind):
            raise self._failure(answer)
        return answer

    def _answer(self) -> wire.Answer | None:
        try:
            return wire.receive(self._answers, self._decoder)
        except (OSError, ValueError):  # ValueError: closed from another thread
            return None

    def _failure(self, answer: wire.Answer | None) -> Problem:
        """Why the child gave up, by its last words or by how it ended."""
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(5)  # its pipe ends a moment before it does, and how it ended is what we want to know
        self.close()
        if isinstance(answer, wire.Fault):
            return Unusable(answer.what, CHANGED) if answer.changed else MachineFault(answer.what, answer.hint)
        code = self._child.returncode
        ended = f"by signal {-code}" if code < 0 else f"with code {code}"
        return MachineFault(
            f"the process that makes the owner table in {self._folder} ended {ended}",
            "If the machine was short of memory, make room; then run the same command.",
        )


def _batches(keys: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    keys = iter(keys)
    while batch := list(islice(keys, SEND)):
        yield batch


def _environment() -> dict[str, str]:
    """What the child's environment holds: not the API key, nor anything that was put there for us."""
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return passed | {"PYTHONPATH": os.pathsep.join(str(Path(it).absolute()) for it in sys.path)}
