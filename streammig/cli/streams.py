"""Standard streams that are closed, full or gone: what people would have read is lost, and no run stops for that."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from textwrap import indent
from typing import Any, TextIO

import click


class Forgiving:
    """A stream that drops text once it can't be written any more, for one of these reasons."""

    def __init__(self, stream: TextIO, reason: type[OSError]) -> None:
        self._stream = stream
        self._reason = reason

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except self._reason:
            drop(self._stream)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except self._reason:
            drop(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def drop(stream: TextIO) -> None:
    """Send what is left in the buffer, and all that follows, to nowhere: it would fail again at the exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def echo_json(document: Mapping[str, Any], name: str, items: Iterable[Any]) -> None:
    """Print a document one of whose members is a list of any length: its items are printed one by one."""
    head, empty, tail = json.dumps({**document, name: []}, indent=2).partition(f'"{name}": []')
    click.echo(f"{head}{empty[:-1]}", nl=False)
    end = ""
    for item in items:
        click.echo(f"{',' if end else ''}\n{indent(json.dumps(item, indent=2), '    ')}", nl=False)
        end = "\n  "
    click.echo(f"{end}]{tail}")


def open_closed() -> None:
    """Open standard streams that are closed: else the next file that is opened would take their place."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it takes the lowest number that is free
            setattr(sys, name, open(descriptor, "w" if descriptor else "r"))  # noqa: SIM115  # open to the end
