"""`streammig sandbox`: a local stand-in for the target."""

from __future__ import annotations

from pathlib import Path

import click

from streammig.cli import options
from streammig.errors import Unusable

SCRIPT = """\
A script is a JSON list of rules, or one rule a line. The first rule that matches a request is played:

\b
  {"on": "events", "nth": 1, "do": "reset", "at": "done"}
      the first events are taken, and their answer is lost
  {"on": "customers", "every": 10, "do": "lose", "share": 0.1}
      taken, but the queue drops a tenth of them
  {"on": "events", "nth": 2,
   "do": "answer", "status": 207, "body": "list", "share": 0.75}
      three quarters are taken, and a list says which
  {"on": "migration", "chance": 0.05, "times": 3,
   "do": "answer", "status": 429, "retry_after": 2}

\b
on     customers, events, transactions, revert, migration (these four),
       auth, read or any (the default)
which  nth (a number or a list of them, from 1), every or chance (0 to 1);
       from and until (numbers of the kind); times (at most so often)
do     answer    status, done (the work is done first), location,
                 share (it is done for this share of them),
                 body (error, html, invalid-json, empty, count, list)
                 or json (any), retry_after, retry_after_date (seconds)
       revoke    every token issued so far ends
       reset     at (head, body, done): the connection is reset there
       hang      seconds, done: no answer
       slow      seconds: the answer comes late
       drip      seconds: it comes byte by byte
       truncate  at (head, body): it is cut there
       partial   bad (a number): 422, but the good part is taken
       lose      records (a list, from 0) or share (0 to 1)
       late      seconds: applied so much later
       missing   as (404, null, object, 204, 400): the answer to a
                 read of a customer who is not there"""


@click.command(epilog=SCRIPT)
@click.option("--port", type=click.IntRange(0, 65535), default=8787, show_default=True, help="0 takes a free one.")
@options.path("--store", "FILE", "Keep its records in FILE.")
@click.option("--limits", default="prod", show_default=True, metavar="LIMITS", help="Limits to enforce, as of run.")
@click.option("--latency", default="0", show_default=True, metavar="SECONDS", help="Before an answer: 0.2, or 0.1-0.5.")
@click.option("--queue-delay", default="0", show_default=True, metavar="SECONDS", help="Until a batch is applied: 1-5.")
@options.path("--script", "FILE", "Faults to play, as JSON or NDJSON.")
def command(port: int, store: Path | None, limits: str, latency: str, queue_delay: str, script: Path | None) -> None:
    """Serve a local Masivo on 127.0.0.1, with limits, a queue, rules and, with --script, faults.

    /_sandbox/ledger shows the records it holds, received twice, or dropped.
    """
    from streammig.sandbox import SandboxConfig, ScriptError, serve  # it imports aiohttp, which --help can do without

    try:
        config = SandboxConfig(store=store, limits=limits, latency=latency, queue_delay=queue_delay, script=script)
        serve(config, port=port, say=click.echo)
    except (ScriptError, ValueError) as error:
        raise Unusable("sandbox-usage", str(error)) from None
    except OSError as error:
        raise Unusable(
            "sandbox-port", f"the sandbox can't serve on port {port}: {error.strerror}", "Take another with --port."
        ) from None
