"""Passes over the customers once before anything is sent: who stands twice, and who will not be in the target."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any

from streammig.notices import Tell, Waiting
from streammig.owners import Census, OwnerTable, Policy, check_space, forget, most_customers, open_table, take
from streammig.ports import Rules, Source

EVERY = 200_000  # source records between two words about how far the pass is


def owners_folder(checkpoint: Path) -> Path:
    """Where the owner table lies: hashes of ids and e-mails under a random key, owner-only, deleted after use."""
    return checkpoint.with_name(checkpoint.name + ".owners")


async def owner_table(
    folder: Path, source: Source, rules: Rules, shape: Mapping[str, Any], reader: Executor, tell: Tell, *,
    anew: bool,
) -> OwnerTable:  # fmt: skip
    """The table of these customers: from an earlier call, unless it is to be made `anew`, or made now.

    Raises `MachineFault` before it begins if there is too little disk for it."""
    loop = asyncio.get_running_loop()
    marks = source.fingerprints()
    token = json.dumps([list(marks), dict(shape)], sort_keys=True)
    policy: Policy = shape["duplicates"]
    if not anew:
        found = await loop.run_in_executor(reader, partial(open_table, folder, token, policy=policy))
        if found is not None:
            return found
    check_space(folder, sum(most_customers(mark["size"], bool(mark.get("compression"))) for mark in marks))
    tell(Waiting("passing over the customers once, for those that stand twice"))
    with Census(folder, token, policy=policy) as census:
        work = loop.run_in_executor(reader, take, census, source, rules, _teller(loop, tell))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            census.close()  # makes the pass fail, so that its thread ends
            await asyncio.gather(work, return_exceptions=True)
            raise


def _teller(loop: asyncio.AbstractEventLoop, tell: Tell) -> Callable[[int], None]:
    said = 0

    def passed(records: int) -> None:
        nonlocal said
        if records - said >= EVERY:
            said = records
            loop.call_soon_threadsafe(tell, Waiting(f"passing over the customers once: {records:,} so far"))

    return passed


def clear(checkpoint: Path) -> None:
    """Delete the owner table of a run that needs it no more."""
    folder = owners_folder(checkpoint)
    if folder.exists():
        forget(folder)


__all__: Sequence[str] = ("clear", "owner_table", "owners_folder")
