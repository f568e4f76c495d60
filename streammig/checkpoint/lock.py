"""The lock that lets one run at a time use a checkpoint: it names its holder and ends with it."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from streammig.disk import disk_fault, own
from streammig.errors import Held, MachineFault


def lock_path(checkpoint: Path) -> Path:
    return checkpoint.with_name(checkpoint.name + ".lock")


@contextmanager
def locked(checkpoint: Path, command: str) -> Iterator[None]:
    """Hold a checkpoint's lock for this process, or raise `Held` and name the holder.

    The lock is a file of its own: closing any descriptor of the checkpoint would drop SQLite's locks on it.
    """
    hint = f"Wait for it, stop it, or look at it with: streammig status {shlex.quote(str(checkpoint))}"
    with holding(lock_path(checkpoint), command, f"{checkpoint} is held", hint):
        yield


@contextmanager
def holding(path: Path, command: str, said: str, hint: str) -> Iterator[None]:
    """Hold a lock file, or raise `Held` with the message `said` and the holder.

    The kernel drops the lock when its holder ends, however it ends; a dead process leaves only its name in the file.
    """
    try:
        descriptor = own(path, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise _failed(path, error) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = _read(descriptor)
            by = f"by process {holder.get('pid', '?')} on {holder.get('host', '?')}"
            raise Held("checkpoint-held", f"{said} {by} ({holder.get('command', 'unknown command')})", hint) from None
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "command": command}
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        except OSError as error:
            raise _failed(path, error) from None
        try:
            yield
        finally:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _failed(path: Path, error: OSError) -> MachineFault:
    return disk_fault("lock-failed", f"{path}: can't lock the checkpoint", "Make it and its folder writable.", error)


def is_held(checkpoint: Path) -> bool:
    """Tell whether a process holds this checkpoint now."""
    return is_locked(lock_path(checkpoint))


def is_locked(path: Path) -> bool:
    """Tell whether a process holds this lock file now."""
    try:
        descriptor = own(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _read(descriptor: int) -> dict[str, Any]:
    try:
        found = json.loads(os.pread(descriptor, 1 << 16, 0))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
