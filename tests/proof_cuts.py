"""Stages that are cut while they are read: what each reader after the first makes of the checkpoint."""

from __future__ import annotations

import datetime
import hashlib
import json
import traceback
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from streammig.batching import BatchLimits, assemble, select
from streammig.checkpoint import Checkpoint
from streammig.columns import Chunk
from streammig.masivo.rules import RuleOptions, rules
from streammig.model import START, Batch, BatchState, Examined, Range, Tally, add_up
from streammig.reader import Reader
from streammig.sources import open_source, parse_input
from streammig.sources.source import Source
from streammig.target import Rules
from tests.proof_report import Found, scratch
from tests.world import write_export

NOW = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
LIMITS = BatchLimits(units=23, bytes=9_000, bins=6, age=4)


def write_mixed(folder: Path, stage: str, dice: Random) -> Source:
    """An export of one stage, with records among the others that are filtered, dead, or both in part."""
    write_export(folder, 60, dice)
    path = folder / f"{stage}.json"
    records: list[Any] = json.loads(path.read_text())["data"]
    for record in records:
        fate = dice.random()
        if fate < 0.1:
            record["id"] = ""  # a dead letter
        elif stage == "events":
            for event in record["events"]:
                if dice.random() < 0.2:
                    event["reversed"] = True
        elif stage == "transactions" and fate < 0.2:
            record["transactions"][0]["amount"] = "much"
    path.write_text(json.dumps({"data": records}, indent=dice.choice([None, 1])))
    return open_source([parse_input(str(path))])


def cut_stages(stage: str, seeds: Iterable[int]) -> Found:
    """Read a stage in pieces, once for each seed, cut at random."""
    found = Found()
    for seed in seeds:
        script = f"cut_and_go_on(folder, '{stage}', Random('{stage} {seed}'))"
        with scratch() as folder:
            try:
                found.points += cut_and_go_on(folder, stage, Random(f"{stage} {seed}"))
            except AssertionError:
                found.violations.append(f"seed {seed}: {traceback.format_exc(limit=-1)}  shown by: {script}")
    return found


def cut_and_go_on(folder: Path, stage: str, dice: Random) -> int:
    """Read a stage in several pieces, each by a reader that knows no more than the file; then all must be there.
    Returns how often it was cut."""
    source, judged = write_mixed(folder, stage, dice), rules(stage, RuleOptions(now=NOW))
    oracle = [it for span in source.spans() for it in Chunk(span, judged.columns(span)).all()]
    bodies: dict[int, bytes] = {}
    file = Checkpoint.create(folder / "c", binding={}, version="1", started=1.0)
    file.add_stage(stage, 0, {}, [{}])
    cuts = [dice.randrange(12) for _ in range(dice.randrange(1, 5))]
    for steps in [*cuts, 10_000]:
        file.close()
        file = Checkpoint.open(folder / "c")
        look(file, stage, bodies)
        read_some(file, stage, source, judged, bodies, steps)
        check_counters(file, stage, oracle)
    everything = add_up(tally for it in oracle for tally in _tallies(it))
    totals = file.totals(stage)
    assert totals.balanced
    assert totals.taken == everything
    wanted = sorted((it.position, it.unit) for examined in oracle for it in examined.dead)
    assert sorted((letter.position, letter.unit) for _, letter in file.dead_letters(stage)) == wanted
    file.close()
    return len(cuts)


def look(file: Checkpoint, stage: str, bodies: dict[int, bytes]) -> None:
    """Every batch that was sealed lies in the outbox as it was, and its records make it again."""
    batches = file.batches(stage, BatchState.SEALED)
    assert {batch.seq for batch in batches} == set(bodies)
    for batch in batches:
        contents = file.outbox.contents(batch)
        assert file.outbox.body(batch) == bodies[batch.seq]
        draft = assemble(contents.records, contents.head, contents.tail)
        assert draft.body == bodies[batch.seq]
        assert batch.digest == hashlib.sha256(bodies[batch.seq]).digest()
        assert batch.tally == draft.tally


def read_some(
    file: Checkpoint, stage: str, source: Source, judged: Rules, bodies: dict[int, bytes], steps: int
) -> None:
    feed = Reader(
        source, judged, LIMITS, file.progress(stage), file.ahead_ranges(stage), buried=partial(file.was_dead, stage)
    )
    for _ in range(steps):
        sealing = feed.next()
        if sealing is None:
            break
        if sealing.draft is None:
            file.advance(stage, sealing.progress)
        else:
            batch: Batch = file.seal(stage, sealing.draft, sealing.progress, 1.0)
            bodies[batch.seq] = sealing.draft.body
        assert file.totals(stage).balanced
    feed.close()


def check_counters(file: Checkpoint, stage: str, oracle: list[Examined]) -> None:
    """What is read, counted again from the export: all before the frontier, and what batches hold beyond it."""
    progress = file.progress(stage)
    frontier = progress.frontier
    closed = [it for it in oracle if (it.position.source, it.position.offset) < frontier[:2]]
    begun = [it for it in oracle if (it.position.source, it.position.offset) == frontier[:2] and frontier.unit]
    ahead = file.ahead_ranges(stage)
    later = [it for it in oracle if (it.position.source, it.position.offset) >= frontier[:2]]
    read = [tally for it in closed for tally in _tallies(it)]
    read += [record.tally for it in begun for record in select(it.records, [Range(START, frontier)])]
    read += [record.tally for it in later for record in select(it.records, ahead)]
    if not ahead:
        assert progress.read.units == add_up(read).units
    if not begun and not ahead:
        assert progress.read == add_up(read)
        filtered: dict[str, Tally] = {}
        for reason, tally in (pair for it in closed for pair in it.filtered):
            filtered[reason] = filtered.get(reason, Tally()) + tally
        assert progress.filtered == filtered
        assert progress.source_records == len(closed)


def _tallies(examined: Examined) -> list[Tally]:
    return [
        *(record.tally for record in examined.records),
        *(tally for _, tally in examined.filtered),
        *(letter.tally for letter in examined.dead),
    ]
