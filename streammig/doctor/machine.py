"""Looks at this machine before a migration: reader, database, disk, folders, permissions, export, key."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from streammig.checkpoint import outbox_path
from streammig.checkpoint.sqlite import refuse_network_file_system
from streammig.doctor import NOTE, OK, WRONG, Finding, wrong
from streammig.errors import Problem
from streammig.masivo.rules.compiled import at_work
from streammig.settings import Settings, api_key, state_folder
from streammig.sources import parse_input
from streammig.sources.locate import check_backend

OLDEST_SQLITE = (3, 35, 0)  # the first one with RETURNING
# Room for the outbox with 256 MB of rejected batches, the checkpoint, and the smallest index of customers; and for what
# grows with the export, as a share of it.
LEAST_ROOM, SHARE_OF_EXPORT = 600_000_000, 0.05


def examine_machine(settings: Settings, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Everything but what needs the network, one after the other."""
    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("reader", _reader),
        ("judge", lambda: Finding("judge", OK, at_work(settings.judge))),
        ("sqlite", _sqlite),
        ("disk", lambda: _disk(settings)),
        ("checkpoint folder", lambda: _folder("checkpoint folder", Path(settings.checkpoint).absolute().parent)),
        ("state folder", lambda: _folder("state folder", state_folder(settings, environment, sys.platform))),
        ("permissions", lambda: _permissions(settings, environment)),
        ("export", lambda: _export(settings)),
        ("key", lambda: _key(settings, environment)),
    ]
    for name, check in checks:
        try:
            yield check()
        except Problem as problem:
            yield wrong(name, problem)


def _reader() -> Finding:
    check_backend()
    return Finding("reader", OK, "ijson with its C backend")


def _sqlite() -> Finding:
    found = sqlite3.sqlite_version
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        return Finding("sqlite", WRONG, f"SQLite {found}; 3.35 is needed", "Use a Python that brings a newer SQLite.")
    return Finding("sqlite", OK, f"SQLite {found}")


def _disk(settings: Settings) -> Finding:
    folder = _nearest(Path(settings.checkpoint).absolute().parent)
    size = sum(os.stat(file).st_size for file in _files(settings) if os.path.exists(file))
    needed, free = LEAST_ROOM + int(size * SHARE_OF_EXPORT), shutil.disk_usage(folder).free
    said = f"{free / 1e6:,.0f} MB are free at {folder}, and about {needed / 1e6:,.0f} MB are needed"
    if free < needed:
        return Finding("disk", WRONG, said, "Make room, or name a checkpoint on a larger disk.")
    return Finding("disk", OK, said)


def _folder(name: str, folder: Path) -> Finding:
    """Whether a folder is on a local disk and may be written; one that is not there yet is made by a run."""
    there = _nearest(folder)
    refuse_network_file_system(there / "file")
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Finding(name, WRONG, f"{there} can't be written", "Make it writable, or name another one.")
    return Finding(name, OK, f"{folder} is on a local disk" + ("" if there == folder else "; a run makes it"))


def _nearest(path: Path) -> Path:
    """The path itself, or what there is above it."""
    return next(it for it in (path, *path.parents) if it.exists())


def _permissions(settings: Settings, environment: Mapping[str, str]) -> Finding:
    """Whether others may read what holds the key or customers' data."""
    folder = state_folder(settings, environment, sys.platform)
    checkpoint = Path(settings.checkpoint)
    ours = [checkpoint, outbox_path(checkpoint), *(sorted(folder.iterdir()) if folder.is_dir() else ())]
    ours += [Path(settings.api_key_file)] if settings.api_key_file else []
    readable = [path for path in ours if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077]
    if readable:
        names = " ".join(map(str, readable))
        return Finding("permissions", WRONG, f"others may read {names}", f"chmod go-rwx {names}")
    return Finding("permissions", OK, "no file of a run can be read by others")


def _files(settings: Settings) -> list[str]:
    texts = [text for name in settings.stages for text in settings.stage(name).files]
    return [parse_input(text).file for text in texts if text != "-" and not text.startswith("-#")]


def _export(settings: Settings) -> Finding:
    files = _files(settings)
    for file in files:
        if not os.access(file, os.R_OK):
            return Finding("export", WRONG, f"{file} can't be read", "Name the file as it is called, or allow reading.")
    if not files:
        return Finding("export", NOTE, "no file of an export is named", "Name the settings: streammig doctor FILE.toml")
    return Finding("export", OK, f"{len(files):,} of {len(files):,} files can be read")


def _key(settings: Settings, environment: Mapping[str, str]) -> Finding:
    api_key(settings, environment)
    return Finding("key", OK, "there is an API key")
