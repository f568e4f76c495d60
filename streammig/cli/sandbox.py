"""`streammig sandbox`: a local stand-in for the target."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Serve a local stand-in for the target, to try things out.")
@click.option("--port", type=click.IntRange(0, 65535), default=8787, show_default=True, help="0 takes a free one.")
@click.option(
    "--store", type=click.Path(path_type=Path), metavar="FILE", help="Keep what it holds; else it is forgotten."
)
@click.option("--limits", default="prod", show_default=True, metavar="LIMITS", help="What it enforces; like run's.")
@click.option("--latency", default="0", show_default=True, metavar="SECONDS", help="Of an answer: 0.2, or 0.1-0.5.")
@click.option(
    "--queue-delay", default="0", show_default=True, metavar="SECONDS", help="Until it is applied: 2, or 1-5."
)
@click.option("--script", type=click.Path(path_type=Path), metavar="FILE", help="Faults to play, as JSON or NDJSON.")
def command(port: int, store: Path | None, limits: str, latency: str, queue_delay: str, script: Path | None) -> None:
    """Serve a local Masivo on 127.0.0.1: its limits, its queue, its rules and, with --script, its bad days.

    It says what it holds, what came twice and what its queue dropped at /_sandbox/ledger.
    """
    from streammig.errors import Unusable
    from streammig.sandbox import SandboxConfig, ScriptError, serve

    try:
        config = SandboxConfig(store=store, limits=limits, latency=latency, queue_delay=queue_delay, script=script)
        serve(config, port=port, say=click.echo)
    except (ScriptError, ValueError) as error:
        raise Unusable(str(error)) from None
    except OSError as error:
        raise Unusable(
            f"the sandbox can't serve on port {port}: {error.strerror}", "Take another with --port."
        ) from None
