"""Looks whether a newer copy of the checkpoint has gone on, where it was set back together with the state folder."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from streammig.checkpoint import Checkpoint
from streammig.delivery.verdict import spread
from streammig.errors import UnknownOutcome
from streammig.feed import first_records
from streammig.ports import Seen
from streammig.records import BatchState, Record

if TYPE_CHECKING:
    from streammig.migration.crew import Crew

# Records that are looked for: one read for a customer, one for each year of a customer's transactions.
SAMPLES = {"customers": 5, "transactions": 2}


async def expect_no_newer(crew: Crew) -> None:
    """Before a run goes on, raise `UnknownOutcome` if what it would send next is at the target already.

    A backup of the whole machine holds the account's file as it was, too, which then vouches for the checkpoint. A run
    that went on since has sent what comes next here. Only what is there as it would be sent counts, and where nothing
    can be seen the run goes on, so that a plain resume asks nobody. Events can't be looked for: before them it is the
    first transactions, which shows at least a run that came as far.
    """
    name = await crew.journal.read(lambda file: _stage(file, set(crew.sources)))
    if name is None:
        return
    records, seen = await _coming(crew, name), []
    for record in records:
        seen.append(await crew.readback.visible(name, record))
        if seen[-1] is Seen.CANT_TELL:
            break  # an outage, most likely: each further read would wait for its end
    # Unchecked, the export may hold a customer twice: one that is there proves nothing then.
    least = len(seen) // 2 + 1 if crew.owners is None else 1
    if seen.count(Seen.ALL) >= least:
        there = ", ".join(str(it.position.ordinal) for it, how in zip(records, seen, strict=False) if how is Seen.ALL)
        raise UnknownOutcome(
            f"the target holds {name} of record {there} already, as this run would send them, though by this checkpoint"
            " they were never sent: it is probably an older copy, set back together with the state folder",
            "Nothing was sent. Restore the newest copy of the checkpoint. If you know that no run has gone on from a"
            " newer copy, run the same command once with --checkpoint-is-current.",
        )


def _stage(file: Checkpoint, names: set[str]) -> str | None:
    """The stage that is to go on, or the one behind the events; None where nothing was sent yet, or nothing is left."""
    rows = file.stages()
    left = [row.name for row in rows if row.name in names and row.state != "complete"]
    if left[:1] == ["events"]:
        del left[0]
    return left[0] if left and any(file.counts(row.name)["requests"] for row in rows) else None


async def _coming(crew: Crew, name: str) -> list[Record]:
    """Some records of what is to be sent next: of the first batch that was never sent, or behind the frontier."""
    count = SAMPLES[name]
    sealed = await crew.journal.read(lambda file: file.batches(name, BatchState.SEALED))
    fresh = [batch for batch in sealed if not batch.attempts and batch.parent is None and not batch.retried]
    if fresh:
        (records,) = await crew.reread(name, fresh[:1])
        return spread(records, count)
    start = (await crew.journal.read(lambda file: file.progress(name))).frontier
    ahead = await crew.journal.read(lambda file: file.ahead_ranges(name))
    work = partial(first_records, crew.sources[name], await crew.judge(name), count, start, ahead)
    return await asyncio.get_running_loop().run_in_executor(crew.reader, work)
