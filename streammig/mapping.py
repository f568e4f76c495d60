"""The user's mapping: a function, imported by its name, or a table in the settings."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from threading import local
from typing import Any

from streammig.children import begin
from streammig.errors import Unusable
from streammig.fields import FieldMapping
from streammig.grouping import OfRows
from streammig.settings import Settings
from streammig.stages import ONCE


def load_mapping(text: str, folder: Path) -> Callable[[Any], Any]:
    """Import the function that `module:function` names, from `folder` or `sys.path`. Raises `Unusable`."""
    module, colon, name = text.partition(":")
    if not (module and colon and name):
        raise Unusable("map-invalid", f"the mapping {text!r} is not of the form module:function")
    _make_exits_exceptions()
    where = str(folder.resolve())
    if where not in sys.path:
        sys.path.insert(0, where)
    if module not in sys.modules:
        _try(module)
    try:
        found = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        # Other messages may hold a secret: a module may raise an error with a value from the environment.
        words = f": {error}" if isinstance(error, ImportError | SyntaxError) else _place(error, module)
        raise Unusable(
            "map-not-importable",
            f"the mapping's module {module} can't be imported: {type(error).__name__}{words}",
            f"It is looked for in {where} and where Python looks.",
        ) from None
    mapping = getattr(found, name, None)
    if not callable(mapping):
        raise Unusable(
            "map-not-found", f"the module {module} has no function {name}", f"It was read from {found.__file__}."
        )
    return Function(mapping, module, name)


class Function:
    """A function from a user's module. It is pickled by its name, and can't end the process that calls it.

    Within a call, `os._exit` and `os.exec*` raise `SystemExit`, as `sys.exit` does. A signal, `os.abort` or a C library
    can still end the process.
    """

    def __init__(self, function: Callable[[Any], Any], module: str, name: str) -> None:
        self.__wrapped__ = function
        self._named = module, name

    def __call__(self, record: Any) -> Any:
        _calls.process = os.getpid()
        try:
            return self.__wrapped__(record)
        finally:
            _calls.process = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return _function, self._named


def _function(module: str, name: str) -> Function:
    _make_exits_exceptions()  # before the import: the module may do `from os import _exit`
    return Function(getattr(importlib.import_module(module), name), module, name)


_calls = local()  # `process`: id of this process during a call; a child that the mapping forks may end as it likes


def _make_exits_exceptions() -> None:
    """Replace the functions that end this process without an exception. They still work outside a mapping's call."""
    for name in ("_exit", "execv", "execve"):
        real = getattr(os, name)
        if not hasattr(real, "__wrapped__"):
            setattr(os, name, wraps(real)(partial(_end_or_raise, real)))


def _end_or_raise(real: Callable[..., Any], *arguments: Any) -> None:
    if getattr(_calls, "process", 0) == os.getpid():
        raise SystemExit
    real(*arguments)


# Writes a byte to standard output after the import, whether it worked or raised.
_TRIAL = """
import importlib, os
said = os.dup(1)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
try:
    importlib.import_module(sys.argv[1])
except BaseException:
    pass
os.write(said, b".")
os.kill(os.getpid(), 9)
"""


def _try(module: str) -> None:
    """Import a module in a child process first. Raises `Unusable` if that ends the child.

    Such a module would end the run with its own exit code, and nothing in this process could prevent it.
    """
    with begin(_TRIAL, module, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        try:
            said, _ = child.communicate()
        finally:
            child.kill()
    if not said:
        raise Unusable(
            "map-not-importable",
            f"the mapping's module {module} ended the process that imported it, with {child.returncode}",
            "A module must do nothing when it is imported but define its functions.",
        )


def _place(error: BaseException, module: str) -> str:
    """The line of the module at which its import failed."""
    lines = [it.lineno for it in traceback.extract_tb(error.__traceback__) if Path(it.filename).stem == module]
    return f" at line {lines[-1]}" if lines else ""


def stage_mapping(settings: Settings, name: str, folder: Path) -> Callable[[Any], Any] | None:
    """The mapping of a stage; None without one. Raises `Unusable`.

    If the stage groups rows by owner, the mapping is an `OfRows`, which maps them one by one.
    """
    found = _own_mapping(settings, name, folder)
    owner = settings.stage(name).owner
    return OfRows(name, owner, found) if owner and name in ONCE else found


def _own_mapping(settings: Settings, name: str, folder: Path) -> Callable[[Any], Any] | None:
    stage = settings.stage(name)
    if stage.map and stage.fields:
        said = f"[{name}]: map and fields are both given; a record goes through one mapping"
        raise Unusable("map-invalid", said, "Take one of them out.")
    if stage.fields:
        marks = [mark.partition("=")[0] for mark in stage.deleted]
        return FieldMapping(name, stage.fields, [mark for mark in marks if mark not in stage.fields])
    return load_mapping(stage.map, folder) if stage.map else None


def mapping_mark(mapping: Callable[[Any], Any] | None) -> str:
    """Hash of a mapping's module file or table. Returns "" without a mapping or without a file.

    A module's hash is cut to 16 digits, because each batch stores it.
    """
    if isinstance(mapping, OfRows):
        mapping = mapping.mapping
    if mapping is None:
        return ""
    if isinstance(mapping, FieldMapping):
        return mapping.mark
    try:
        source = Path(inspect.getsourcefile(inspect.unwrap(mapping)) or "").read_bytes()
    except (OSError, TypeError):
        return ""
    return hashlib.sha256(source).hexdigest()[:16]
