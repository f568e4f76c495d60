"""Entry point of the process: at any moment, Ctrl-C, SIGTERM and SIGHUP end it cleanly with exit code 130."""

from __future__ import annotations

import os
import signal
import sys
import threading

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
RETRY_DELAY = 0.05  # seconds until a signal is raised again


class Stopped(KeyboardInterrupt):
    """Ctrl-C, SIGTERM or SIGHUP.

    A plain KeyboardInterrupt is not enough. Imports run `exec` on strings. If a KeyboardInterrupt passes through one,
    CPython remembers it and ends with -2, even if it was caught.
    """


def main() -> None:
    for number in SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, _stop)
    sys.unraisablehook = _raise_again
    try:
        from streammig.cli import main as cli  # takes 0.2 s; signals are handled before it

        cli()
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        # The end of the interpreter must not change the exit code.
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def _stop(*_: object) -> None:
    raise Stopped


def _raise_again(it: sys.UnraisableHookArgs) -> None:
    """Send the signal again if Python dropped its exception, as it does in a finalizer."""
    if isinstance(it.exc_value, Stopped):
        threading.Timer(RETRY_DELAY, os.kill, (os.getpid(), signal.SIGTERM)).start()
    else:
        sys.__unraisablehook__(it)


if __name__ == "__main__":
    main()
