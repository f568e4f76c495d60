"""An older run: whether what it sent can be told, and a pass over its accepted records."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from streammig.checkpoint import MISSED, UNDECIDED, Checkpoint
from streammig.errors import Unusable
from streammig.inputs import StageInput
from streammig.model import BatchState
from streammig.selection import WithOwners
from streammig.sources import comparable
from streammig.verify.accepted import Passage
from streammig.verify.work import Work


class Older(NamedTuple):
    """An older run: its checkpoint, opened to read, and its inputs with their rules."""

    file: Checkpoint
    inputs: Mapping[str, StageInput]

    def binding(self, newer: Mapping[str, StageInput]) -> str:
        """What a `Left` depends on: the run, what was accepted, and the files of the newer export."""
        found = {it: (self.file.accepted(it), self.file.beside(it, MISSED)) for it in self.inputs}
        held = {name: [[[it.seq, it.tally.units] for it in each] for each in both] for name, both in found.items()}
        return json.dumps(
            [self.file.run["id"], held, {name: comparable(it.source.fingerprints()) for name, it in newer.items()}]
        )

    def passage(self, stage: str, places: Work) -> Passage:
        """Its accepted records of a stage. What belongs to customers that were left out lies between them."""
        it = self.inputs[stage]
        rules = it.rules if self.file.owns(stage) else WithOwners(it.rules, self.file.filtered_owners)
        return Passage(stage, it.source, rules, places.ranges)

    def corrected(self, stage: str, places: Work) -> Iterator[bytes]:
        """The hashes of owners whose records its retries sent, and that are still at the target."""
        for row in self.file.rows("SELECT source, offset, unit, owner FROM replayed_key WHERE stage = ?", stage):
            place = row["source"], row["offset"], row["unit"]
            ranges, _ = places.ranges(stage, place[0], place[1], place[1] + 1)
            if any(begin[:3] <= place < end[:3] for begin, end in ranges):
                yield row["owner"]

    def check_units(self, stage: str, units: Mapping[int, int]) -> None:
        """Raise `Unusable` unless today's mapping makes as many units as each batch holds. `units` is by batch."""
        differs, made_by = False, set()
        for it in self.file.accepted(stage):
            if not it.letters:
                made_by.add(it.mapping)
                differs = differs or it.tally.units != units.get(it.seq, 0)
        if differs or (made_by and self.inputs[stage].mapping not in made_by):
            raise Unusable(
                "not-in-mapping-changed",
                f"{self.file.path}: the {stage} were sent by another mapping, so their owners can't be told",
                "Put back the mapping that the older run ended with.",
            )

    def check(self, binding: Mapping[str, Any], newer: Checkpoint | None) -> None:
        """Raise `Unusable` unless this run's records at the account of this binding can be told. `newer` is the
        checkpoint that is to go on, None where it is new or sends nothing."""
        path = self.file.path
        self.file.refuse_reverting()
        if newer is not None and self.file.reverted_at() > newer.run["started"]:
            raise Unusable(
                "not-in-reverted-since",
                f"{path} was reverted after {newer.path} had begun: what was left out until then is gone",
                "Nothing was sent. To send what is gone: a new --checkpoint, with --not-in"
                f" {shlex.quote(str(newer.path))}. Customers that the revert has listed as kept must not be in its"
                " export.",
            )
        if self.file.run["binding"] != dict(binding):
            raise Unusable(
                "not-in-of-another-account",
                f"{path} is the checkpoint of a run to another account",
                "Name the checkpoint of the run that sent to this account.",
            )
        states = (BatchState.SENDING, *UNDECIDED)  # sending: its process was killed
        undecided = [it for row in self.file.stages() for it in self.file.batches(row.name, *states)]
        if undecided:
            raise Unusable(
                "not-in-undecided",
                f"{path}: batches whose outcome is unknown: {len(undecided):,}",
                "Run its command again, which looks for them. Then decide about the others:"
                f" streammig resolve {shlex.quote(str(path))}",
            )
        for name, it in self.inputs.items():
            if comparable(self.file.fingerprints(name)) != comparable(it.source.fingerprints()):
                raise Unusable(
                    "not-in-export-changed",
                    f"{path}: the export of {name} has changed since, so what was sent can't be told from it",
                    "Put the old export back where it was.",
                )
