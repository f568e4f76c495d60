"""Starts our Python child processes: with our modules, without the API key, out of reach of Ctrl-C."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

KEY_VARIABLE = "MASIVO_API_KEY"
GC_THRESHOLD = 200_000  # records hold no cycles; the default threshold costs a tenth of the CPU time
# The child takes over the parent's sys.path, so that it finds the same modules.
_MODULES = "import json, sys\nsys.path[:] = json.loads(sys.argv.pop(1))\n"


def environment() -> dict[str, str]:
    """The environment of this process without the API key."""
    return {name: value for name, value in os.environ.items() if name != KEY_VARIABLE}


def begin(
    program: str, *arguments: str, stdout: int, stderr: int | None = None, kept_open: Sequence[int] = (),
    environ: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:  # fmt: skip
    """Start a Python program with a pipe as its standard input. Raises `OSError` if it can't be started.

    It has a session of its own, so that Ctrl-C reaches only this process. `environ` is `environment()` by default.
    """
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _MODULES + program, json.dumps(sys.path), *arguments], stdin=subprocess.PIPE,
        stdout=stdout, stderr=stderr, pass_fds=kept_open, start_new_session=True,
        env=environment() if environ is None else environ,
    )  # fmt: skip


def ending(code: int) -> str:
    """How a process ended, in words."""
    return f"by signal {-code}" if code < 0 else f"with code {code}"
