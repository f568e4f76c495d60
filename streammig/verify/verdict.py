"""Judges records by two looks each, and sums up a verify."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

from streammig.batching import ranges_of
from streammig.checkpoint import Beside, Finding
from streammig.model import Place, Record, add_up
from streammig.target import MISSING, UNREADABLE, Difference
from streammig.verify.sample import CONFIDENCE, at_most
from streammig.verify.work import Suspect

NOT_VISIBLE = "not-visible-yet"


class Told(NamedTuple):
    """A difference with its values, for the operator. It holds personal data."""

    stage: str
    place: Place
    owner: str
    difference: Difference

    def json(self, file: str) -> dict[str, Any]:
        return {
            "stage": self.stage, "file": file, "record": self.place.ordinal, "byte": self.place.offset,
            "unit": self.place.unit, "owner": self.owner, **self.difference._asdict(),
        }  # fmt: skip


@dataclass(slots=True)
class Verdict:
    """Judges suspects, in their order, one after the other.

    A record is missing if neither look found it, and the target's queue had passed its batch. The queue had passed it
    if a record was seen that was accepted no earlier: `seen` is the latest such moment. `settled` is when each batch of
    a stage was accepted. `proves` tells whether a look at a stage can prove that a record is missing.
    """

    settled: Callable[[str, int], float]
    seen: float
    proves: Callable[[str], bool]

    def missing(self, suspects: Iterable[Suspect]) -> Iterator[tuple[str, Beside]]:
        """The missing records, batch by batch."""
        lost = (it for it in suspects if self._reason(it) == MISSING and self.proves(it.stage))
        for (stage, seq), group in groupby(lost, lambda it: (it.stage, it.item.seq)):
            records: list[Record] = [it.item.record for it in group]
            yield stage, Beside(seq, ranges_of(records), add_up(it.tally for it in records))

    def findings(self, suspects: Iterable[Suspect]) -> Iterator[Finding]:
        """Every difference, without its values."""
        for it in suspects:
            place = it.item.place
            for found in self._differences(it):
                yield Finding(it.stage, it.item.seq, *place[:3], place.ordinal, found.field, found.reason)

    def counts(self, suspects: Iterable[Suspect], tell: Callable[[Told], None]) -> dict[str, Counter[str]]:
        """How many records there are by stage and by what is wrong; `tell` gets each difference with its values."""
        counts: dict[str, Counter[str]] = {}
        for it in suspects:
            if reason := self._reason(it):
                named = reason in (MISSING, NOT_VISIBLE, UNREADABLE)
                counts.setdefault(it.stage, Counter())[reason if named else "different"] += 1
            for found in self._differences(it):
                tell(Told(it.stage, it.item.place, it.item.record.owner, found))
        return counts

    def _differences(self, it: Suspect) -> Iterator[Difference]:
        """Those of the second look: what is not found is missing, or not visible yet."""
        reason = self._reason(it)
        for found in it.second or ():
            yield found._replace(reason=reason) if found.reason == MISSING else found

    def _reason(self, it: Suspect) -> str:
        """The code of what is wrong with a suspect; "" where the second look found nothing wrong."""
        if not it.second:
            return ""
        reason = it.second[0].reason
        if reason != MISSING:
            return reason
        passed = self.settled(it.stage, it.item.seq) <= self.seen
        return MISSING if passed and it.first[0].reason == MISSING else NOT_VISIBLE


def summary(
    looked: Mapping[str, int], counts: Mapping[str, Counter[str]], left: Mapping[str, Mapping[str, int]], sample: bool
) -> dict[str, Any]:
    """The summary of a verify, JSON-ready. Its counts are records.

    Only what was `left` aside counts units: `not_readable` are those that the target does not show, `not_comparable`
    those that another mapping made or a retry sent.
    """
    stages = {}
    for stage, number in looked.items():
        found = counts.get(stage, Counter())
        stages[stage] = {
            "looked": number, "same": number - found.total(), "missing": found[MISSING],
            "different": found["different"], "not_visible_yet": found[NOT_VISIBLE], "unreadable": found[UNREADABLE],
            **left.get(stage, {}),
        }  # fmt: skip
    bounds = {
        stage: {name: round(at_most(it[name], it["looked"]), 6) for name in ("missing", "different")}
        for stage, it in stages.items()
        if sample and it["looked"]
    }
    return {
        "kind": "sample" if sample else "all",
        "same": all(it["looked"] == it["same"] for it in stages.values()),
        "stages": stages,
        "confidence": CONFIDENCE if bounds else None,
        "at_most": bounds,
    }
