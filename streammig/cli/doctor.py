"""`streammig doctor`: whether this machine and the way to the target are fit for a migration."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import click

from streammig.cli import options, say
from streammig.doctor import WRONG, Finding, wrong
from streammig.errors import Problem, Unusable
from streammig.settings import load

MARKS = {"ok": "ok   ", "note": "note ", "wrong": "WRONG"}
MISFIT = 2  # the exit code where something has to be changed first


@click.command()
@click.argument("migration", required=False, type=click.Path(path_type=Path), metavar="[MIGRATION.toml]")
@click.option("--live", is_flag=True, help="Put open questions to a Dev account, with made-up customers.")
@click.option("--yes-live", "host", metavar="HOST", help="The answer to the question that --live asks first.")
@options.as_json()
def command(migration: Path | None, live: bool, host: str | None, as_json: bool) -> None:
    """Look at this machine and at the way to the target, before a migration.

    It makes two requests that only read. Exits with 2 where something has to be changed first. --live makes at most ten
    migration requests, of the account's limits, and leaves some made-up customers there.
    """
    found: list[Finding] = []

    def tell(finding: Finding) -> None:
        found.append(finding)
        if not as_json:
            _show(finding)

    async def hear(findings: AsyncIterator[Finding]) -> None:
        async for finding in findings:
            tell(finding)

    # These import aiohttp, which --help can do without.
    from streammig.doctor.live import check_live, examine_answers
    from streammig.doctor.machine import examine_machine
    from streammig.doctor.way import examine_way

    settings = load(migration, {})
    if live:
        _agreed(check_live(settings), host)
    for finding in examine_machine(settings, os.environ):
        tell(finding)
    if all(it.state != WRONG for it in found if it.name == "key"):  # else the network is of no use
        asyncio.run(hear(examine_way(settings, os.environ)))
    if live and all(it.state != WRONG for it in found):
        try:
            asyncio.run(hear(examine_answers(settings, os.environ, say)))
        except Problem as problem:
            tell(wrong("live", problem))
    misfit = any(it.state == WRONG for it in found)
    if as_json:
        click.echo(json.dumps({"fit": not misfit, "findings": [it._asdict() for it in found]}, indent=2))
    sys.exit(MISFIT if misfit else 0)


def _agreed(host: str, answer: str | None) -> None:
    """Raise `Unusable` unless the person agrees by typing the host."""
    if answer is None and sys.stdin.isatty():
        say(f"This makes up to 10 migration requests with made-up customers at {host}, and leaves them there.")
        answer = click.prompt("Type the host to go on", default="", show_default=False, err=True)
    if answer != host:
        said = f"--live sends made-up customers to {host}, and that was not agreed to"
        raise Unusable("live-not-agreed", said, f"Type the host when asked, or add --yes-live {host}.")


def _show(finding: Finding) -> None:
    say(f"{MARKS[finding.state]}  {finding.name}: {finding.found}", sys.stdout)
    if finding.do:
        say(f"       {finding.do}", sys.stdout)
