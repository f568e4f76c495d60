"""What a checkpoint tells of the past of a run: when requests were made, what they were answered, what was decided."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from streammig.checkpoint.codec import first_place, unpack_ranges
from streammig.checkpoint.sqlite import SqliteFile
from streammig.model import Range


class Slot(NamedTuple):
    """A stretch of time in a stage: units and batches accepted in it, requests begun, those not accepted, and all by
    outcome and status, like `throttled 429`, `unknown` or `no answer` (so far)."""

    number: int
    units: int = 0
    batches: int = 0
    requests: int = 0
    refused: int = 0
    answers: Mapping[str, int] = {}


class Timeline:
    """Reads the past out of an open checkpoint. Times are seconds since the epoch."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file

    def between(self) -> tuple[float, float] | None:
        """When the first request was made, and when the last was made or a batch was settled; None before any."""
        (row,) = self._file.rows(
            "SELECT min(started), max(started), (SELECT max(settled) FROM batch WHERE state = 'accepted') FROM attempt"
        )
        return None if row[0] is None else (row[0], max(row[1], row[2] or row[1]))

    def slots(self, stage: str, begin: float, width: float) -> dict[int, Slot]:
        """What happened in each stretch of `width` seconds from `begin` on, by its number from 0; those without
        anything are left out."""
        found: dict[int, Slot] = {}
        for number, batches, units in self._file.rows(
            "SELECT CAST((settled - ?) / ? AS INTEGER), count(*), sum(json_extract(tally, '$[1]'))"
            " FROM batch WHERE stage = ? AND state = 'accepted' GROUP BY 1",
            begin, width, stage,
        ):  # fmt: skip
            found[number] = Slot(number, units, batches)
        for number, answer, accepted, count in self._file.rows(
            "SELECT CAST((started - ?) / ? AS INTEGER), coalesce(kind || coalesce(' ' || status, ''), 'no answer'),"
            " kind IS 'accepted', count(*) FROM attempt WHERE stage = ? GROUP BY 1, 2",
            begin, width, stage,
        ):  # fmt: skip
            slot = found.get(number, Slot(number))
            requests, refused = slot.requests + count, slot.refused + (0 if accepted else count)
            found[number] = slot._replace(requests=requests, refused=refused, answers={**slot.answers, answer: count})
        return found

    def answers(self, stage: str) -> list[dict[str, Any]]:
        """How many requests got which answer: kind, status, code, count. The kind is empty where no receipt came."""
        rows = self._file.rows(
            "SELECT coalesce(kind, '') AS kind, status, code, count(*) AS count FROM attempt WHERE stage = ?"
            " GROUP BY 1, 2, 3 ORDER BY count DESC, kind",
            stage,
        )
        return [dict(row) for row in rows]

    def latencies(self, stage: str, begin: float, width: float) -> list[tuple[int, float]]:
        """How long each answer took, in seconds, from the fastest, with the stretch in which its request began."""
        rows = self._file.rows(
            "SELECT CAST((started - ?) / ? AS INTEGER), latency FROM attempt"
            " WHERE stage = ? AND latency > 0 AND status IS NOT NULL ORDER BY latency",
            begin, width, stage,
        )  # fmt: skip
        return [(row[0], row[1]) for row in rows]

    def requests_a_batch(self, stage: str) -> dict[int, int]:
        """How many batches took how many requests."""
        rows = self._file.rows(
            "SELECT attempts, count(*) FROM batch WHERE stage = ? AND attempts GROUP BY 1 ORDER BY 1", stage
        )
        return {row[0]: row[1] for row in rows}

    def decided(self) -> list[dict[str, Any]]:
        """The batches that the operator decided about, or a read-back: stage, batch, state, ruling, note, units."""
        rows = self._file.rows(
            "SELECT stage, seq AS batch, state, ruling, note, json_extract(tally, '$[1]') AS units FROM batch"
            " WHERE ruling != '' OR note != '' ORDER BY stage, seq"
        )
        return [dict(row) for row in rows]

    def everything(self, stage: str) -> Iterator[tuple[Any, ...]]:
        """All that is kept of a stage's batches, in order, then of its requests, dead letters, and units that are not
        where their batch is: the links of a chain."""
        for query in (
            "SELECT seq, state, parent, ranges, tally, size, digest, sealed, settled, attempts, retried, note,"
            " ruling, rejects, mapping FROM batch WHERE stage = ? ORDER BY seq",
            "SELECT seq, number, started, kind, status, latency, date, message, began, ended, code, stopped,"
            " in_part FROM attempt WHERE stage = ? ORDER BY seq, number",
            "SELECT * FROM dead_letter WHERE stage = ? ORDER BY source, offset, unit",
            "SELECT seq, state, ranges, tally FROM unit_state WHERE stage = ? ORDER BY seq, state",
        ):
            yield from map(tuple, self._file.each(query, stage))

    def sent(self, stage: str) -> dict[int, tuple[float, str]]:
        """When the last request for each batch was made, and what came back: the status, else the answer's code."""
        rows = self._file.rows(
            "SELECT seq, started, coalesce(CAST(status AS TEXT), nullif(code, ''), kind, '') FROM attempt"
            " WHERE stage = ? ORDER BY seq, number",
            stage,
        )
        return {row[0]: (row[1], row[2]) for row in rows}

    def carried(self, stage: str) -> Iterator[tuple[Range, int, str]]:
        """The ranges of a stage's batches in reading order, each with the batch's number and state.

        Batches are sealed out of order, and a replay may carry what stands anywhere. So only their first places are
        held, and the ranges of those that reading has come to.
        """
        wanted = "SELECT seq, ranges FROM batch WHERE stage = ? AND state != 'split'"
        firsts = [(first_place(packed), seq) for seq, packed in self._file.each(wanted, stage)]
        open_ones: list[tuple[Range, int, str, Iterator[Range]]] = []
        for first, seq in [*sorted(firsts), (None, 0)]:
            while open_ones and (first is None or open_ones[0][0].begin < first):
                found, number, state, more = open_ones[0]
                yield found, number, state
                if (following := next(more, None)) is not None:
                    heapq.heapreplace(open_ones, (following, number, state, more))
                else:
                    heapq.heappop(open_ones)
            if first is not None:
                ((packed, state),) = self._file.rows(
                    "SELECT ranges, state FROM batch WHERE stage = ? AND seq = ?", stage, seq
                )
                ranges = iter(unpack_ranges(packed))
                heapq.heappush(open_ones, (next(ranges), seq, state, ranges))

    def mappings(self, stage: str) -> set[str]:
        """The hashes of the mappings that made the batches of a stage; "" of none."""
        return {row[0] for row in self._file.rows("SELECT DISTINCT mapping FROM batch WHERE stage = ?", stage)}
