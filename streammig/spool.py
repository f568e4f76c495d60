"""Copies standard input to an owner-only work file, so that a run from a pipe can be resumed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from streammig.checkpoint import locked
from streammig.disk import disk_fault, refuse_foreign, whole_file
from streammig.errors import Unusable
from streammig.settings import Settings, check_folder


def spool_path(checkpoint: Path) -> Path:
    return checkpoint.with_name(checkpoint.name + ".stdin")


def reads_stdin(settings: Settings) -> bool:
    return any(_is_stdin(text) for name in settings.stages for text in settings.stage(name).files)


def is_gone(settings: Settings) -> bool:
    """Whether a run from standard input has no work file any more: deleted after a complete run, or lost."""
    checkpoint = Path(settings.checkpoint)
    return reads_stdin(settings) and checkpoint.exists() and not spool_path(checkpoint).exists()


@contextmanager
def stdin_spooled(settings: Settings, stdin: BinaryIO, command: str) -> Iterator[Settings]:
    """Copy standard input to the work file, and yield the settings with that file in place of `-`.

    If the checkpoint exists, the work file of its first run is used, and standard input is not read. `forget` deletes
    the work file once no run needs it. Holds the checkpoint's lock meanwhile, so that no other process writes the file.
    Raises `Held` if another process has the lock.
    """
    checkpoint = Path(settings.checkpoint)
    check_folder(checkpoint)
    with locked(checkpoint, command):
        path = spool_path(checkpoint)
        refuse_foreign(path)
        if is_gone(settings):
            raise Unusable(
                "stdin-lost",
                f"{path}, the copy of the export from standard input, is gone",
                "Restore it. A new checkpoint would send again what this one has delivered.",
            )
        if not checkpoint.exists():
            if stdin.isatty():
                raise Unusable(
                    "stdin-terminal",
                    "standard input is a terminal, not an export",
                    "Pipe the export into it.",
                )
            _write(path, stdin)
        yield _with(settings, str(path))


def _with(settings: Settings, path: str) -> Settings:
    changed = {}
    for name in settings.stages:
        stage = settings.stage(name)
        files = tuple(f"{path}{text[1:]}" if _is_stdin(text) else text for text in stage.files)
        changed[name] = msgspec.structs.replace(stage, files=files)
    return msgspec.structs.replace(settings, **changed)


def forget(checkpoint: Path) -> None:
    """Delete the work file: it holds the whole export."""
    spool_path(checkpoint).unlink(missing_ok=True)


def _is_stdin(text: str) -> bool:
    return text == "-" or text.startswith("-#")


def _write(path: Path, stdin: BinaryIO) -> None:
    try:
        with whole_file(path) as part, part.open("wb") as file:
            shutil.copyfileobj(stdin, file, 1 << 20)
    except OSError as error:
        what = f"{path}: standard input can't be kept there"
        raise disk_fault("stdin-io", what, "Make its folder writable.", error) from None
