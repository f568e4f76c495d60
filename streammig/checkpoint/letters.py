"""Dead letters and replays in a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from streammig.checkpoint.batches import HERE, Batches
from streammig.checkpoint.codec import decode_tally, encode_tally, hash_owner
from streammig.checkpoint.queries import Spot
from streammig.model import Batch, DeadLetter, Draft, Tally, add_up

_OWNERS = "(SELECT name FROM stage WHERE ordinal = 0)"  # the stage of the owners, as `owns`

# Customers in replayed batches that are settled and were not seen yet. A key names the batch that a replay sealed: that
# one is not settled while one of its parts is open.
_SETTLED_UNSEEN = f"""stage = {_OWNERS} AND NOT seen AND seq NOT IN (
    WITH RECURSIVE line (seq, parent) AS (
        SELECT seq, parent FROM open_batch WHERE stage = {_OWNERS} AND retried
        UNION SELECT b.seq, b.parent FROM line JOIN batch b ON b.stage = {_OWNERS} AND b.seq = line.parent
    ) SELECT seq FROM line)"""


class Letters(Batches):
    """The part of a checkpoint that keeps dead letters, and the keys that replays sent."""

    def is_dead(self, stage: str, spot: Spot) -> bool:
        return bool(self.rows(f"SELECT 1 FROM dead_letter WHERE {HERE} AND NOT replayed", stage, *spot))

    def was_dead(self, stage: str, spot: Spot) -> bool:
        """Tell whether the record at this spot is a dead letter, or was one until a replay sealed it."""
        return bool(self.rows(f"SELECT 1 FROM dead_letter WHERE {HERE}", stage, *spot))

    def part(self, stage: str, spot: Spot, splits: bool) -> int:
        """Return `part` of the dead letter at this spot, as in the schema.

        If the batcher `splits` records, a letter of a refused batch counts as a part.
        """
        column = "max(part, batch AND NOT units)" if splits else "part"
        return int(self.rows(f"SELECT {column} FROM dead_letter WHERE {HERE}", stage, *spot)[0][0])

    def replayed(self) -> int:
        """Count the letters that replays have sealed; one that was sealed twice counts twice."""
        return int(self.rows("SELECT coalesce(sum(replayed), 0) FROM stage")[0][0])

    def any_unseen(self, stage: str) -> bool:
        """Tell whether a stage has an accepted replayed batch with samples that were not seen yet."""
        unseen = "stage = (SELECT name FROM stage WHERE name = ? AND NOT seen)"
        return bool(self.rows(f"SELECT 1 FROM batch WHERE {unseen} AND retried AND state = 'accepted' LIMIT 1", stage))

    # -- replays -----------------------------------------------------------------------------------------------------

    def seal_replayed(
        self,
        stage: str,
        drafts: Sequence[tuple[Draft, Sequence[tuple[Spot, str]]]],
        letters: Sequence[tuple[Spot, int, int]],
        at: float,
    ) -> list[Batch]:
        """Seal new batches of dead letters in one transaction; these letters are dead no more.

        A draft comes with the keys that no later replay may send. A letter is its spot, the units sealed for it, and
        its `part` as in the schema.
        """
        if not letters:
            return []
        salt, sealed = self.run["salt"], list[Batch]()
        with self.transaction():
            for draft, keys in drafts:
                batch = self._insert(stage, draft, at, retried=True)
                sealed.append(batch)
                for spot, key in keys:
                    row = stage, *spot, hash_owner(salt, key), batch.seq
                    self.change("INSERT OR REPLACE INTO replayed_key VALUES (?, ?, ?, ?, ?, ?, 0)", *row)
            gone = [self._mark_replayed(stage, *letter) for letter in letters]
            (repaired,) = self.rows("SELECT repaired FROM stage WHERE name = ?", stage)[0]
            repaired = decode_tally(repaired) + add_up(draft.tally for draft, _ in drafts) - add_up(gone)
            sql = "UPDATE stage SET repaired = ?, replayed = replayed + ?, seen = 0 WHERE name = ?"
            self.change(sql, encode_tally(repaired), len(letters), stage)
        return sealed

    def refuse(self, stage: str, dead: Iterable[DeadLetter], filtered: Iterable[DeadLetter]) -> None:
        """Keep the reasons for letters that a replay did not send: they stay `dead`, or are `filtered`."""
        with self.transaction():
            for it in dead:
                spot = it.position.source, it.position.offset, it.unit
                sql = f"UPDATE dead_letter SET code = ?, message = ? WHERE {HERE}"
                self.change(sql, it.code, it.message, stage, *spot)
            progress = self.progress(stage)
            counts = dict(progress.filtered)
            for it in filtered:
                tally = self._mark_replayed(stage, (it.position.source, it.position.offset, it.unit))
                counts[it.code] = counts.get(it.code, Tally()) + tally
            self._set_progress(stage, msgspec.structs.replace(progress, filtered=counts))

    def _mark_replayed(self, stage: str, spot: Spot, units: int = 0, part: int = 0) -> Tally:
        """Mark a letter as replayed, and return its tally."""
        rows = self.rows(
            f"UPDATE dead_letter SET replayed = 1, units = ?, part = max(part, ?) WHERE {HERE} AND NOT replayed"
            " RETURNING tally",
            units, part, stage, *spot,
        )  # fmt: skip
        if not rows:
            raise AssertionError(f"the record of {stage} at byte {spot[1]} is no dead letter: don't replay it")
        return decode_tally(rows[0][0])

    # -- the keys of replays -----------------------------------------------------------------------------------------

    def replayed_keys(self, stage: str, keys: Iterable[str]) -> set[str]:
        """Return those of the keys (owners' ids, or unique values) that replays have sealed in batches."""
        return self._replayed(stage, keys, "")

    def seen_again(self, owners: Iterable[str]) -> set[str]:
        """Return those of the owners that a replay sent and the target has shown."""
        first = [row.name for row in self.stages() if self.owns(row.name)]
        return self._replayed(first[0], owners, "AND seen") if self.any_seen_again() else set()

    def _replayed(self, stage: str, keys: Iterable[str], which: str) -> set[str]:
        salt, sql = self.run["salt"], f"SELECT 1 FROM replayed_key WHERE stage = ? AND owner = ? {which} LIMIT 1"
        return {key for key in keys if self.rows(sql, stage, hash_owner(salt, key))}

    def any_seen_again(self) -> bool:
        return bool(self.rows(f"SELECT 1 FROM replayed_key WHERE stage = {_OWNERS} AND seen LIMIT 1"))

    def mark_replayed_seen(self) -> None:
        """Mark the customers of replays as seen, so that their events and transactions may be sent."""
        self.change(f"UPDATE replayed_key SET seen = 1 WHERE {_SETTLED_UNSEEN}")
