"""Dead letters in a checkpoint: what is asked of them, and what a replay makes of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence

from streammig.checkpoint.codec import decode_tally, encode_tally, hash_owner
from streammig.checkpoint.queries import FIRST as FIRST
from streammig.checkpoint.queries import PENDING, UNDECIDED, Queries
from streammig.checkpoint.queries import Spot as Spot
from streammig.records import Batch, DeadLetter, Draft, Range, Tally, add_up

_HERE = "stage = ? AND source = ? AND offset = ? AND unit = ?"

_OWNERS = "(SELECT name FROM stage WHERE ordinal = 0)"  # see `owns`

# Customers of replayed batches that no open batch holds any more, and that are not said to be seen yet. A part of a
# refused batch names its parent: all that an open part stems from is open.
_OPEN = ", ".join(f"'{state}'" for state in (*PENDING, *UNDECIDED))
_BROUGHT = f"""stage = {_OWNERS} AND NOT seen AND seq NOT IN (
    WITH RECURSIVE line (seq, parent) AS (
        SELECT seq, parent FROM batch WHERE stage = {_OWNERS} AND retried AND state IN ({_OPEN})
        UNION SELECT b.seq, b.parent FROM line JOIN batch b ON b.stage = {_OWNERS} AND b.seq = line.parent
    ) SELECT seq FROM line)"""


class Letters(Queries):
    """The part of a checkpoint that knows dead letters, and what replays sent."""

    def is_dead(self, stage: str, spot: Spot) -> bool:
        return bool(self._read(f"SELECT 1 FROM dead_letter WHERE {_HERE} AND NOT replayed", stage, *spot))

    def was_dead(self, stage: str, spot: Spot) -> bool:
        """Whether what stands there is a dead letter, or was one until a replay took it."""
        return bool(self._read(f"SELECT 1 FROM dead_letter WHERE {_HERE}", stage, *spot))

    def part(self, stage: str, spot: Spot, splits: bool) -> int:
        """What the dead letter at this spot is of its source record, as in the schema. What the run's batcher may have
        split counts as a part."""
        known = "max(part, batch AND NOT units)" if splits else "part"
        return int(self._read(f"SELECT {known} FROM dead_letter WHERE {_HERE}", stage, *spot)[0][0])

    def _bury(self, stage: str, batch: Batch | None, letters: Iterable[DeadLetter]) -> None:
        """Keep dead letters, once each. Those of a replayed batch are dead again, and their keys are free."""
        again = batch is not None and batch.retried
        for it in letters:
            spot = it.position.source, it.position.offset, it.unit
            part = 2 * (again and not self._all_of(batch.ranges if batch else (), stage, spot))
            kept = (
                "UPDATE SET batch = excluded.batch, code = excluded.code, message = excluded.message,"
                " tally = excluded.tally, part = max(part, excluded.part), replayed = 0"
            )
            self._db.execute(
                "INSERT INTO dead_letter (stage, source, offset, unit, batch, length, record, code, message, tally,"
                f" part) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO {kept if again else 'NOTHING'}",
                (stage, *spot, batch.seq if batch else 0, it.position.length, it.position.ordinal,
                 it.code, it.message, encode_tally(it.tally), part),
            )  # fmt: skip
            if again:
                self._db.execute(f"DELETE FROM replayed_key WHERE {_HERE}", (stage, *spot))

    def _all_of(self, ranges: Sequence[Range], stage: str, spot: Spot) -> bool:
        """Whether all that was sealed for the letter at this spot lies in the ranges."""
        rows = self._read(f"SELECT units FROM dead_letter WHERE {_HERE} AND units", stage, *spot)
        return any(
            begin[:3] <= spot and (*spot[:2], spot[2] + units) <= end[:3] for (units,) in rows for begin, end in ranges
        )

    # -- replays -----------------------------------------------------------------------------------------------------

    def replayed_keys(self, stage: str, keys: Iterable[str]) -> set[str]:
        """Which of these owners (or twin keys) replayed batches carry, or have brought to the target."""
        salt, where = self.run["salt"], "stage = ? AND owner = ?"
        return {
            key
            for key in keys
            if self._read(f"SELECT 1 FROM replayed_key WHERE {where} LIMIT 1", stage, hash_owner(salt, key))
        }

    def replayed(self) -> int:
        """How many times replays have sealed a letter to be sent."""
        return int(self._read("SELECT coalesce(sum(replayed), 0) FROM stage")[0][0])

    def any_unseen(self, stage: str) -> bool:
        """Whether a replayed batch of a stage was accepted, and samples of it are still to be looked for."""
        unseen = "stage = (SELECT name FROM stage WHERE name = ? AND NOT seen)"
        return bool(self._read(f"SELECT 1 FROM batch WHERE {unseen} AND retried AND state = 'accepted' LIMIT 1", stage))

    def seal_replayed(
        self,
        stage: str,
        drafts: Sequence[tuple[Draft, Sequence[tuple[Spot, str]]]],
        letters: Sequence[tuple[Spot, int, int]],
        at: float,
    ) -> None:
        """New batches out of dead letters, which are dead no more, in one transaction. Beside each draft the keys that
        no later replay may send, beside each letter the units sealed for it and what part it is."""
        salt, held = self.run["salt"], []
        with self.transaction():
            for draft, keys in drafts:
                batch = self._insert(stage, draft, None, at, retried=True)
                held.append(batch.tally)
                self._db.executemany(
                    "INSERT OR REPLACE INTO replayed_key VALUES (?, ?, ?, ?, ?, ?, 0)",
                    [(stage, *spot, hash_owner(salt, key), batch.seq) for spot, key in keys],
                )
            gone = [self._lift(stage, *letter) for letter in letters]
            row = self._read("SELECT repaired FROM stage WHERE name = ?", stage)[0]
            repaired = decode_tally(row[0]) + add_up(held) - add_up(gone)
            self._db.execute(
                "UPDATE stage SET repaired = ?, replayed = replayed + ?, seen = 0 WHERE name = ?",
                (encode_tally(repaired), len(letters), stage),
            )

    @abstractmethod
    def _insert(
        self, stage: str, draft: Draft, parent: int | None, at: float, retried: bool = False, mapping: str = ""
    ) -> Batch: ...

    def refuse(self, stage: str, dead: Iterable[DeadLetter], filtered: Iterable[DeadLetter]) -> None:
        """Letters that a replay did not send, with the reason of now as their code: still dead, or filtered."""
        with self.transaction():
            self._db.executemany(
                f"UPDATE dead_letter SET code = ?, message = ? WHERE {_HERE}",
                [(it.code, it.message, stage, it.position.source, it.position.offset, it.unit) for it in dead],
            )
            for it in filtered:
                tally = self._lift(stage, (it.position.source, it.position.offset, it.unit))
                known = self.progress(stage).filtered.get(it.code, Tally())
                self._db.execute(
                    "INSERT INTO filtered VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET tally = excluded.tally",
                    (stage, it.code, encode_tally(known + tally)),
                )

    def _lift(self, stage: str, spot: Spot, units: int = 0, part: int = 0) -> Tally:
        """A letter is dead no more; returns its tally."""
        rows = self._db.execute(
            f"UPDATE dead_letter SET replayed = 1, units = ?, part = max(part, ?) WHERE {_HERE} AND NOT replayed"
            " RETURNING tally",
            (units, part, stage, *spot),
        ).fetchall()
        if not rows:
            raise AssertionError(f"the record of {stage} at byte {spot[1]} is no dead letter: it must not be replayed")
        return decode_tally(rows[0][0])

    # -- customers that are absent no more ---------------------------------------------------------------------------

    def seen_again(self, owners: Iterable[str]) -> set[str]:
        """Which of these owners a replay has brought to the target since, for all to see."""
        if not self.any_seen_again():
            return set()
        salt, where = self.run["salt"], f"stage = {_OWNERS} AND owner = ? AND seen"
        return {
            owner
            for owner in owners
            if self._read(f"SELECT 1 FROM replayed_key WHERE {where} LIMIT 1", hash_owner(salt, owner))
        }

    def any_seen_again(self) -> bool:
        return bool(self._read(f"SELECT 1 FROM replayed_key WHERE stage = {_OWNERS} AND seen LIMIT 1"))

    def see_brought(self) -> None:
        """They can be read back: their events and transactions may be sent."""
        self._change(f"UPDATE replayed_key SET seen = 1 WHERE {_BROUGHT}")
