"""A file for its owner alone that is written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from streammig.errors import MachineFault, Unusable


@contextmanager
def new_file(path: Path, may_replace: Callable[[Path], bool] = lambda _: False) -> Iterator[BinaryIO]:
    """Open a file to write; it takes its name, durably, when the block ends without an error.

    A file that is there already is left as it is, unless `may_replace` says yes to it: it may be the export. Raises
    `Unusable` for that, and `MachineFault` where the file can't be written.
    """
    if path.exists() and not may_replace(path):
        raise Unusable("output-exists", f"{path} is there already", "Name another file, or move that one away.")
    part = path.with_name(path.name + ".part")
    try:
        part.unlink(missing_ok=True)
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException as error:
        with suppress(OSError):
            part.unlink()
        if isinstance(error, OSError):
            hint = "Name a file that can be written, on a disk with room."
            raise MachineFault("output-failed", f"{path}: {error.strerror}", hint) from None
        raise
