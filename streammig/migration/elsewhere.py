"""The customers of a run that has no such stage itself, as another run of this program has delivered them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from streammig.checkpoint import UNDECIDED, Checkpoint
from streammig.errors import Unusable
from streammig.feed import Judge, otherwise
from streammig.ports import Rules, Source
from streammig.records import BatchState
from streammig.settings import Settings, from_checkpoint
from streammig.sources import comparable, open_source, parse_input, touched

OPEN = (BatchState.SEALED, BatchState.SENDING, BatchState.REFUSED)


class Delivered(NamedTuple):
    """A checkpoint that knows which customers were delivered: as it was when our run began, by which all of the run
    judges, or its batches could not be rebuilt; and as it is now, which a retry asks."""

    then: Checkpoint
    now: Checkpoint


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Another run's customers: its checkpoint, and what its dedup index is built of."""

    file: Checkpoint
    settings: Settings
    folder: Path  # where its mapping is looked for
    source: Source
    shape: Mapping[str, Any]

    def check_export(self, stopped: Callable[[], bool]) -> None:
        """Raise `Unusable` unless the customers' export is the one that was delivered; may read it wholly."""
        now, then = self.source.fingerprints(), self.file.fingerprints("customers")
        if comparable(now) != comparable(then) or touched(now, then, stopped):
            raise Unusable(
                f"the customers' export of {self.file.path} is not what it was when they were delivered",
                "Put it back in its place: by it the run tells whose customers there are.",
            )

    def check_mapping(self, rules: Rules, stopped: Callable[[], bool]) -> None:
        """Raise `Unusable` if a mapping makes other customers now than were delivered; reads the export wholly then."""
        if not self.settings.customers.map:
            return
        batches = [batch for batch in self.file.batches("customers", BatchState.ACCEPTED) if not batch.retried]
        changed = otherwise(
            self.source, rules, Judge(rules), batches, lambda it: self.file.unpacked("customers", it.ranges), stopped
        )
        if changed:
            numbers = ", ".join(str(batch.seq) for batch in changed[:20])
            raise Unusable(
                f"the mapping {self.settings.customers.map} of {self.file.path} makes other customers now than it"
                f" delivered: batch {numbers} comes out otherwise, and whose customers there are can't be told",
                "Put the mapping back as it was for that run, and run the same command.",
            )

    def check_delivered(self, target: str | None) -> None:
        """Raise `Unusable` unless all customers are delivered there, or known not to be; None: wherever they were."""
        path, run = self.file.path, self.file.run
        there = run["binding"].get("target")
        if target is not None and there != target:
            where = f"to {there}" if there else "nowhere: it is that of a dry run"
            raise Unusable(
                f"{path} delivered its customers {where}, and this run goes to {target}",
                "Name the checkpoint of the run that delivered the customers to the same target.",
            )
        (state,) = [row.state for row in self.file.stages() if row.name == "customers"]
        if state != "complete":
            raise Unusable(
                f"the customers of {path} are not all delivered: their stage is {state}",
                f"Finish that run first: {run['context'].get('command', 'streammig run')}",
            )
        if undecided := self.file.batches("customers", *UNDECIDED):
            numbers = ", ".join(str(batch.seq) for batch in undecided[:20])
            raise Unusable(
                f"nobody can say whether the customers of batch {numbers} of {path} landed",
                f"Decide that first, with: streammig resolve {path}",
            )
        if self.file.batches("customers", *OPEN):
            raise Unusable(
                f"some customers of {path} were to be sent again, and are not yet",
                f"Finish that first, with: streammig retry {path}",
            )

    def keep(self, checkpoint: Path) -> None:
        """Keep for our checkpoint what is known now."""
        self.file.copy_to(kept_path(checkpoint))

    def delivered(self, checkpoint: Path) -> Delivered:
        """What was kept when our checkpoint was made, and what is known now."""
        then = Checkpoint.open(kept_path(checkpoint), read_only=True)
        then.verify()
        return Delivered(then, self.file)


def kept_path(checkpoint: Path) -> Path:
    return checkpoint.with_name(checkpoint.name + ".customers")


def open_elsewhere(path: Path, stages: tuple[str, ...]) -> Elsewhere:
    """The customers that another checkpoint delivered; whoever opens it closes its file. Raises `Unusable`."""
    if "customers" in stages:
        raise Unusable(
            f"the run has customers of its own, and is to take them from {path} too",
            "Leave out the customers' files, or --customers-from.",
        )
    file = Checkpoint.open(path, read_only=True)
    try:
        file.verify()
        context = file.run["context"]
        shape = next((row.shape for row in file.stages() if row.name == "customers"), None)
        if shape is None:
            raise Unusable(
                f"{path} is the checkpoint of a run without customers",
                "Name the checkpoint of the run that delivered them.",
            )
        settings, folder = from_checkpoint(path, context, None)
        inputs = [parse_input(text) for text in context["inputs"]["customers"]]
        try:
            source = open_source(inputs, max_record_bytes=context["max_record_bytes"])
        except Unusable as missing:
            raise Unusable(
                f"the customers' export of {path} is needed to tell whose customers there are; {missing.what}",
                "Put it back in its place.",
            ) from None
    except BaseException:
        file.close()
        raise
    if shape.get("unchecked"):
        shape = {**shape, "duplicates": "none"}  # those that stand twice were sent
    return Elsewhere(file, settings, folder, source, shape)
