"""The history of a run in its checkpoint: requests by time, answers, latencies, decisions."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from streammig.checkpoint.codec import first_place, unpack_ranges
from streammig.checkpoint.sqlite import SqliteFile
from streammig.model import Range


class Slot(NamedTuple):
    """A time slot of a stage: units and batches accepted in it, requests begun in it, and `refused` ones of these.

    `answers` counts requests by outcome and status, such as `throttled 429`, `unknown` or `no answer` (so far).
    """

    number: int
    units: int = 0
    batches: int = 0
    requests: int = 0
    refused: int = 0
    answers: Mapping[str, int] = {}


class Timeline:
    """Queries about the history of a run. Times are seconds since the epoch."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file

    def between(self) -> tuple[float, float] | None:
        """Return the times of the first request, and of the last request or acceptance; None before any."""
        (row,) = self._file.rows(
            "SELECT min(started), max(started), (SELECT max(settled) FROM batch WHERE state = 'accepted') FROM attempt"
        )
        return None if row[0] is None else (row[0], max(row[1], row[2] or row[1]))

    def slots(self, stage: str, begin: float, width: float) -> dict[int, Slot]:
        """Return the slots of `width` seconds from `begin` on, by number from 0. Empty slots are left out."""
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
        """Count requests by kind, status and code. The kind is empty if no receipt came."""
        rows = self._file.rows(
            "SELECT coalesce(kind, '') AS kind, status, code, count(*) AS count FROM attempt WHERE stage = ?"
            " GROUP BY 1, 2, 3 ORDER BY count DESC, kind",
            stage,
        )
        return [dict(row) for row in rows]

    def latencies(self, stage: str, begin: float, width: float) -> list[tuple[int, float]]:
        """Return the slot number and the latency in seconds of each answer, the fastest first."""
        rows = self._file.rows(
            "SELECT CAST((started - ?) / ? AS INTEGER), latency FROM attempt"
            " WHERE stage = ? AND latency > 0 AND status IS NOT NULL ORDER BY latency",
            begin, width, stage,
        )  # fmt: skip
        return [(row[0], row[1]) for row in rows]

    def requests_a_batch(self, stage: str) -> dict[int, int]:
        """Count batches by the number of their requests."""
        rows = self._file.rows(
            "SELECT attempts, count(*) FROM batch WHERE stage = ? AND attempts GROUP BY 1 ORDER BY 1", stage
        )
        return {row[0]: row[1] for row in rows}

    def decided(self) -> list[dict[str, Any]]:
        """Return the batches decided by the operator or a read-back: stage, batch, state, ruling, note, units."""
        rows = self._file.rows(
            "SELECT stage, seq AS batch, state, ruling, note, json_extract(tally, '$[1]') AS units FROM batch"
            " WHERE ruling != '' OR note != '' ORDER BY stage, seq"
        )
        return [dict(row) for row in rows]

    def everything(self, stage: str) -> Iterator[tuple[Any, ...]]:
        """Return the rows of a stage for the audit's hash: batches, requests, dead letters, unit states, in order."""
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
        """Return by batch number when its last request was made, and its answer: status, else code, else kind."""
        rows = self._file.rows(
            "SELECT seq, started, coalesce(CAST(status AS TEXT), nullif(code, ''), kind, '') FROM attempt"
            " WHERE stage = ? ORDER BY seq, number",
            stage,
        )
        return {row[0]: (row[1], row[2]) for row in rows}

    def carried(self, stage: str) -> Iterator[tuple[Range, int, str]]:
        """Return the ranges of a stage's batches in reading order, each with the batch's number and state.

        Batches are sealed out of order, and those of a replay reach anywhere. To save memory, only the first place of
        each batch is held, and the ranges of batches that reading has begun and not ended.
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
        """Return the hashes of the mappings that made the batches of a stage; "" for batches without one."""
        return {row[0] for row in self._file.rows("SELECT DISTINCT mapping FROM batch WHERE stage = ?", stage)}
