"""The outbox before a run: its room on the disk, and batches whose bodies are lost."""

from __future__ import annotations

from pathlib import Path

from streammig.batching import assemble
from streammig.checkpoint import Checkpoint, outbox_path
from streammig.context import Context
from streammig.delivery.sender import make_dead_letters
from streammig.errors import Unusable
from streammig.fingerprint import Marks
from streammig.inputs import Reading
from streammig.model import Batch, BatchState, DeadLetter, Draft, Position, Record, Tally
from streammig.reader import BEHIND, records_within
from streammig.settings import Settings
from streammig.stage import QUEUE_BYTES, REJECTED_BYTES
from streammig.telemetry import Warned

CODE = "body-lost"
WITH_TABLE = 1.25  # bytes on the disk for each byte of a body: its table of records lies beside it
WHY = "its batch was not sent, and the body is lost"


def room_of_outbox(settings: Settings, marks: Marks, checkpoint: Path) -> dict[str, int]:
    """Bytes that the outbox may still need on the disk.

    It holds bodies that are queued, in flight, unknown, parked or rejected. It never holds more than the longest stage.
    """
    ahead = BEHIND + 3  # bodies read ahead, and a margin: one more worker, and rejected bodies beyond their limit
    most = QUEUE_BYTES + REJECTED_BYTES + (2 * settings.concurrency + settings.most_parked + ahead) * settings.max_bytes
    longest = max(sum(mark["length"] for mark in files) for files in marks.values())
    there = outbox_path(checkpoint)
    held = sum(path.stat().st_size for path in there.iterdir()) if there.exists() else 0
    return {"the outbox": max(int(WITH_TABLE * min(most, longest)) - held, 0)}


def check_bodies(file: Checkpoint, given_up: bool) -> list[Batch]:
    """Return the batches whose bodies are missing or altered. Raises `Unusable` for any unless `given_up`."""
    lost = file.lost_bodies()
    if lost and not given_up:
        raise file.outbox.lost(lost)
    return lost


async def give_up(reading: Reading, context: Context, lost: list[Batch], given_up: bool) -> None:
    """Turn these batches into dead letters, by their places in the export. Parks those with an unknown outcome.

    If the newest copy of the checkpoint is lost, it had settled most of these and deleted their bodies. So each body
    is first made again from the export, and kept if its digest is the same. Raises `Unusable` if others remain and are
    not `given_up`. Raises it too if an unsent batch differs now: its places no longer mean the same records.
    """
    if lost and reading.lookup.lost() is not None:
        lost = [batch for batch in lost if not await _made_again(reading, batch)]
        if lost and not given_up:
            raise reading.lookup.outbox.lost(lost)
    for batch in lost:
        await _end(reading, context, batch)
    if lost:
        names = ", ".join(f"{it.seq} of {it.stage}" for it in lost[:20])
        context.notify(
            Warned("body-lost", f"bodies given up: {len(lost)} (batch {names}); see `streammig dead-letters`")
        )


async def _end(reading: Reading, context: Context, batch: Batch) -> None:
    store, at = reading.store, context.now()
    if batch.state is BatchState.UNKNOWN:
        parked = BatchState.PARKED
        await store.write(lambda file: file.move(batch, batch.state, parked, note="its body is lost"))
    elif batch.retried:
        letters = _by_places(batch)
        await store.write(lambda file: file.dead(batch, letters, at))
    else:
        await _bury(reading, context, batch)


def _by_places(batch: Batch) -> list[DeadLetter]:
    """One dead letter for each place of a retried batch. The first letter holds the sums of all."""
    tallies = [batch.tally] + [Tally()] * (len(batch.ranges) - 1)
    return [
        DeadLetter(Position(begin.source, begin.offset, 0, begin.ordinal), begin.unit, CODE, WHY, tally)
        for (begin, _), tally in zip(batch.ranges, tallies, strict=True)
    ]


async def _records(reading: Reading, batch: Batch) -> tuple[list[Record], Draft]:
    """Read a batch again from the export: its records, and the body that they make now."""
    rules = await reading.rules(batch.stage)
    records = await reading.read(records_within, reading.inputs[batch.stage].source, rules, batch.ranges)
    return records, assemble(records, rules.head, rules.tail)


async def _made_again(reading: Reading, batch: Batch) -> bool:
    _, draft = await _records(reading, batch)
    if draft.digest != batch.digest:
        return False
    await reading.store.write(lambda file: file.outbox.place(draft, batch.stage, batch.seq))
    return True


async def _bury(reading: Reading, context: Context, batch: Batch) -> None:
    records, draft = await _records(reading, batch)
    if draft.digest != batch.digest:
        raise Unusable(
            "batch-changed",
            f"batch {batch.seq} of {batch.stage} has lost its body, and the export gives another body now: its places"
            " mean other records",
            "Run the same command with the mapping, the version and the export of the run that made the batch.",
        )
    await make_dead_letters(reading.store, context.now(), batch, records, CODE, WHY)
