"""Columns from runs of slices, and an object for each record out of columns: until batches are made of columns."""

from __future__ import annotations

from collections.abc import Mapping

from streammig.records import Columns, Examined, Position, Record, Run, Tally


class RunOfSlices:
    """What the rules read of a `Span`."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.faults: Mapping[int, tuple[int, str, str]] = {
            at: (each.length, each.code, each.fault) for at, each in enumerate(run) if each.fault
        }

    def __len__(self) -> int:
        return len(self._run)

    def cut(self, begin: int, end: int) -> list[bytes]:
        return [each.data for each in self._run[begin:end]]

    def position(self, index: int) -> Position:
        return self._run[index].position


def examined(run: RunOfSlices, columns: Columns) -> list[Examined]:
    """What became of each source record."""
    positions = [run.position(at) for at in range(len(run))]
    bodies = run.cut(0, len(run))
    pairs = list(zip(columns.keys, columns.amounts, strict=True))
    records: dict[int, list[Record]] = {}
    for row, index in enumerate(columns.index):
        records.setdefault(index, []).append(
            Record(
                position=positions[index],
                unit=columns.unit[row],
                owner=columns.owners[row],
                body=columns.edited.get(row, bodies[index]),
                units=columns.units[row],
                amounts=tuple(pairs[columns.upto[row] : columns.upto[row + 1]]),
                inner=columns.inner[row] if columns.inner else None,
                twin=columns.uniques[row] if columns.uniques else "",
            )
        )
    dropped: dict[int, tuple[str, ...]] = {}
    for index, paths in columns.dropped:
        dropped[index] = dropped.get(index, ()) + paths
    left_out: dict[int, Examined] = {}
    for it in columns.left_out:
        other = left_out.get(it.at, Examined(positions[it.at]))
        filtered = dict(other.filtered)
        for reason, tally in it.filtered:
            filtered[reason] = filtered.get(reason, Tally()) + tally
        left_out[it.at] = Examined(
            positions[it.at], (), tuple(filtered.items()), other.dead + it.dead, other.absent + it.absent
        )
    results = []
    for at, position in enumerate(positions):
        beside = left_out.get(at)
        more = (beside.filtered, beside.dead, beside.absent) if beside else ((), (), ())
        results.append(Examined(position, tuple(records.get(at, ())), *more, dropped.get(at, ())))
    return results
