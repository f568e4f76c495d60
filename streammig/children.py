"""How a Python process of ours is begun: with our modules, without the API key, and not for Ctrl-C to end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

KEY_VARIABLE = "MASIVO_API_KEY"
GC_THRESHOLD = 200_000  # records hold no cycles: looking for some among thousands of them took a tenth of all
# What the parent found its modules by comes first, so that the child finds the same.
_MODULES = "import json, sys\nsys.path[:] = json.loads(sys.argv.pop(1))\n"


def environment() -> dict[str, str]:
    """The environment for a child that needs no key."""
    return {name: value for name, value in os.environ.items() if name != KEY_VARIABLE}


def begin(
    program: str, *arguments: str, stdout: int, stderr: int | None = None, kept_open: Sequence[int] = (),
    environ: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:  # fmt: skip
    """Run a Python program with a pipe as its standard input, in a session of its own: Ctrl-C is ours to answer. By
    default it gets our `environment`. Raises `OSError` where it can't be started."""
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _MODULES + program, json.dumps(sys.path), *arguments], stdin=subprocess.PIPE,
        stdout=stdout, stderr=stderr, pass_fds=kept_open, start_new_session=True,
        env=environment() if environ is None else environ,
    )  # fmt: skip


def ending(code: int) -> str:
    """How a process ended, in words."""
    return f"by signal {-code}" if code < 0 else f"with code {code}"
