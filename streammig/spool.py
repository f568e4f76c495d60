"""Standard input as a file: spooled to an owner-only work file, so that a run from a pipe resumes too."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import BinaryIO

import msgspec

from streammig.errors import MachineFault, Unusable
from streammig.settings import Settings, check_folder


def spool_path(checkpoint: Path) -> Path:
    return checkpoint.with_name(checkpoint.name + ".stdin")


def with_stdin_spooled(settings: Settings, stdin: BinaryIO) -> Settings:
    """The settings with `-` replaced by the work file beside the checkpoint.

    Where the checkpoint exists the work file of its first run is used and standard input is left alone; it belongs to
    that run, and is deleted with `forget` when nothing needs it any more.
    """
    inputs = {name: settings.stage(name).files for name in settings.stages}
    if not any(_is_stdin(text) for files in inputs.values() for text in files):
        return settings
    checkpoint = Path(settings.checkpoint)
    check_folder(checkpoint)
    path = spool_path(checkpoint)
    if not checkpoint.exists():
        if stdin.isatty():
            raise Unusable(
                "the export is to come from standard input, but that is a terminal", "Pipe the export into it."
            )
        _write(path, stdin)
    elif not path.exists():
        raise Unusable(f"{path} is gone: the export that came from standard input", "Restore it, or start anew.")
    changed = {
        name: msgspec.structs.replace(
            settings.stage(name), files=tuple(f"{path}{text[1:]}" if _is_stdin(text) else text for text in files)
        )
        for name, files in inputs.items()
    }
    return msgspec.structs.replace(settings, **changed)


def forget(checkpoint: Path) -> None:
    """Delete the work file: it holds the whole export."""
    spool_path(checkpoint).unlink(missing_ok=True)


def _is_stdin(text: str) -> bool:
    return text == "-" or text.startswith("-#")


def _write(path: Path, stdin: BinaryIO) -> None:
    part = path.with_name(path.name + ".part")
    try:
        part.unlink(missing_ok=True)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            shutil.copyfileobj(stdin, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise MachineFault(
            f"{path}: standard input can't be kept there: {error.strerror}", "Make room for it."
        ) from None
