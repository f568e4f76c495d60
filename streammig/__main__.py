"""The process: Ctrl-C, SIGTERM and SIGHUP end it in order and with exit code 130, from the first line to the last."""

from __future__ import annotations

import os
import signal
import sys
import threading

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AGAIN = 0.05  # seconds


class Stopped(KeyboardInterrupt):
    """Ctrl-C, SIGTERM or SIGHUP.

    A plain KeyboardInterrupt will not do. If one passes through the `exec` of a string, which imports are full of,
    CPython remembers it and ends with -2, even if it was caught.
    """


def main() -> None:
    """The entry point."""
    for number in SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # which is what nohup asks for
            signal.signal(number, _stop)
    sys.unraisablehook = _unheard
    try:
        from streammig.cli import main as cli  # this takes 0.2 s, and a signal must already count

        cli()
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        # The end of the interpreter must not change the exit code.
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def _stop(*_: object) -> None:
    raise Stopped


def _unheard(it: sys.UnraisableHookArgs) -> None:
    """A signal that came where Python hears no exception, as within a finalizer, comes again a moment later."""
    if isinstance(it.exc_value, Stopped):
        threading.Timer(AGAIN, os.kill, (os.getpid(), signal.SIGTERM)).start()
    else:
        sys.__unraisablehook__(it)


if __name__ == "__main__":
    main()
