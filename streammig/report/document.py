"""The one document that `run --json` and `status --json` print: a checkpoint's state, read without changing it."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from streammig.checkpoint import UNDECIDED, Checkpoint, StageRow, Totals
from streammig.errors import EXPORT_BROKEN, SAMPLES_MISSING, counted
from streammig.model import Batch, BatchState, Sums, Tally
from streammig.report.progress import Pace, account_of, drift, fill, outlook, share_settled

NO_FORM = "Do the records need a mapping? See: streammig guide mapping"
ALL_REFUSED = {"invalid-utf8": "Convert the file to UTF-8 first, for example with iconv.",
               "mapping-failed": "Correct the mapping: streammig guide mapping"}  # fmt: skip


def document(checkpoint: Checkpoint, *, running: bool, now: float, pace: Pace | None = None) -> dict[str, Any]:
    """JSON-ready: state, balanced, verified, stages with their counts, budget, the command that goes on from here.

    `verified` is whether a verify has read back all that was sent, and found it so. `warnings` say in words what is no
    failure of the run, but for people to look at.

    Counts of a stage: records, and units; read = accepted + dead + filtered + unknown + sending + pending + reverted,
    where `sending` is what a run was sending when it was cut off (while one is on, that is pending); `sums` are exact
    decimals as text; `done` is the share of the export that is settled, from 0 to 1, None where its length is not
    known. `seconds_left` is how long the rest takes, of a stage and of all, if nothing stops it: from requests
    left, all windows of the limits and settle times; None where that can't be told yet. Times are ISO 8601 in UTC.
    """
    with checkpoint.reading():
        rows = checkpoint.stages()
        totals = {row.name: checkpoint.totals(row.name) for row in rows}
        counts = {row.name: checkpoint.counts(row.name) for row in rows}
        accounts = {row.name: account_of(checkpoint, row.name, counts[row.name]) for row in rows}
        stages = {row.name: _stage(checkpoint, row, totals[row.name], counts[row.name], running) for row in rows}
        parked = undecided(checkpoint, running)
        run, found = checkpoint.run, checkpoint.verification()
        state = _state(checkpoint, rows, totals, running)
        ended = max(checkpoint.seen_at(), *(it.finished or 0.0 for it in rows)) if state == "complete" else None
    dry_run, pace = bool(run["binding"].get("dry_run", False)), pace or Pace()
    ahead = outlook(accounts, pace, now)
    back = state in ("reverting", "reverted")  # it sends nothing any more
    left = None if back or state == "complete" else ahead.whole
    goes_on = running and not pace.paused
    for name, stage in stages.items():
        seconds = None if back or stage["state"] == "complete" else rounded(ahead.stages[name])
        stage |= {"fill": fill(accounts[name]), "done": share_settled(accounts[name]), "seconds_left": seconds}
        stage["eta"] = iso(now + seconds) if goes_on and seconds is not None else None
    return {
        "state": state,
        "balanced": all(totals[row.name].balanced for row in rows),
        "verified": verified(found),
        "verification": found and found | {"at": iso(found["at"])},
        "dry_run": dry_run,
        "stages": stages,
        "warnings": [text for name, stage in stages.items() for text in _warnings(name, stage)],
        "undecided": [undecided_entry(checkpoint, it) for it in parked],
        "budget": [use._asdict() for use in pace.starts.usage(pace.limits, now)] if not dry_run else [],
        "paused": pace.paused,
        "seconds_left": rounded(left),
        "eta": iso(now + left) if goes_on and left is not None else None,
        "plan": None if dry_run or back else drift(run["context"].get("plan"), accounts, ahead, now, ended),
        "next_request_in": rounded(ahead.next) if left and not pace.paused else None,
        "checkpoint": str(checkpoint.path),
        # A dry run is not resumed: its folder is for one.
        "resume": run["context"].get("command") if not dry_run and _goes_on(state, rows, totals) else None,
    }


def verified(found: Mapping[str, Any] | None) -> bool:
    """Whether a verify has read back all that was sent, and found it so."""
    whole = found is not None and found["kind"] == "all" and found["same"] and not found["outdated"]
    return whole and found is not None and not beside_verified(found)


def beside_verified(found: Mapping[str, Any]) -> int:
    """How many units a verify could not compare: another mapping made them, or a retry sent them."""
    return sum(stage.get("not_comparable", 0) for stage in found["stages"].values())


def _goes_on(state: str, rows: Sequence[StageRow], totals: Mapping[str, Totals]) -> bool:
    """Whether the same command would go on with a run in this state."""
    if state in ("running", "reverting", "reverted") or any(_broken_off(row, totals[row.name]) for row in rows):
        return False
    if state != "complete" or any(row.code == SAMPLES_MISSING for row in rows):
        return True
    last = rows[-1]  # its samples are still to be seen, unless they were and are not as sent
    return bool(totals[last.name].accepted.units) and not (last.seen or last.message)


def _broken_off(row: StageRow, totals: Totals) -> bool:
    """Whether a stage has come to where its export breaks off: the same command would only come there again."""
    return row.code == EXPORT_BROKEN and not totals.pending.records and not totals.unknown.records


def undecided(checkpoint: Checkpoint, running: bool) -> list[Batch]:
    """The batches with an unknown outcome; after a crash those that were being sent, too."""
    states = UNDECIDED if running else (*UNDECIDED, BatchState.SENDING)
    return [batch for row in checkpoint.stages() for batch in checkpoint.batches(row.name, *states)]


def undecided_entry(checkpoint: Checkpoint, batch: Batch) -> dict[str, Any]:
    """One of them in short; `since` is when it was sent last, `answer` the status or the code of what came back, and
    `known` what a read-back has found."""
    last = checkpoint.last_attempt(batch)
    at = last.started or None
    return {
        "stage": batch.stage,
        "batch": batch.seq,
        "records": batch.tally.records,
        "units": batch.tally.units,
        "state": str(batch.state),
        "since": iso(at) if at is not None else None,
        "answer": str(last.status or last.code) or None,
        "known": checkpoint.about(batch)["note"],
    }


def _state(checkpoint: Checkpoint, rows: Sequence[StageRow], totals: Mapping[str, Totals], running: bool) -> str:
    if checkpoint.is_reverted():
        return "reverted"
    if checkpoint.is_reverting() and not running:
        return "reverting"
    if running:
        return "running"
    if any(row.state == "failed" for row in rows):
        return "failed"
    whole = rows and all(row.state == "complete" and not totals[row.name].pending.units for row in rows)
    return "complete" if whole else "interrupted"


def _stage(
    checkpoint: Checkpoint, row: StageRow, totals: Totals, counts: Mapping[str, Any], running: bool
) -> dict[str, Any]:
    sending = Tally() if running else totals.sending
    placed = {
        "read": totals.taken, "accepted": totals.accepted, "dead": totals.dead, "filtered": totals.filtered,
        "unknown": totals.unknown, "missing": totals.missing, "sending": sending, "pending": totals.pending - sending,
        "reverted": totals.reverted,
    }  # fmt: skip
    summed = {"taken" if name == "read" else name: tally for name, tally in placed.items() if name != "missing"}
    progress = checkpoint.progress(row.name)
    state, code, message = row.state, row.code, row.message
    if running and state == "interrupted":
        state, code, message = "waiting", "", ""  # what an earlier run left; this one has not come to it yet
    elif state == "running" and not running:
        state = "interrupted"
    return {
        "state": state,
        "code": code,
        "message": message,
        **{name: tally.records for name, tally in placed.items()},
        "in_units": {name: tally.units for name, tally in placed.items()},
        "source_records": progress.source_records,
        "units": totals.accepted.units,
        "batches": counts["batches"],
        "requests": counts["requests"] - counts["not_sent"],
        "not_sent": counts["not_sent"],  # begun, but no connection was made
        "sums": {name: _decimals(tally.sums) for name, tally in summed.items()},
        "filtered_by": {reason: _plain(tally) for reason, tally in progress.filtered.items()},
        "dead_by": checkpoint.dead_codes(row.name),
        # What retried records hold more, or less, than the dead letters that they were: a part of what was read.
        "repaired": _plain(totals.repaired),
        "dropped_fields": dict(progress.dropped),
        "imbalance": None if totals.balanced else {"read": _plain(totals.taken), "placed": _plain(totals.placed)},
    }


def _warnings(name: str, stage: Mapping[str, Any]) -> list[str]:
    if stage["state"] != "complete":
        return []
    found = [f"{name}: {stage['message']}"] if stage["message"] else []
    read = stage["read"]
    whole = f"all of its {read:,} records were" if read > 1 else "its only record was"
    if not read:
        found.append(f"{name}: nothing was sent: the export holds no record. Is it the right file?")
    elif stage["filtered"] == read:
        reasons = ", ".join(stage["filtered_by"])
        found.append(f"{name}: nothing was sent: {whole} filtered ({reasons}). Is it the file of another stage?")
    elif stage["dead"] + stage["filtered"] == read:
        codes = ", ".join(stage["dead_by"])
        if stage["filtered"]:
            whole = f"{stage['filtered']:,} of its {counted(read, 'record')} filtered, and the rest"
        found.append(f"{name}: nothing was sent: {whole} refused ({codes}). {ALL_REFUSED.get(codes, NO_FORM)}")
    return found


def _plain(tally: Tally) -> dict[str, Any]:
    return {"records": tally.records, "units": tally.units, "sums": _decimals(tally.sums)}


def _decimals(sums: Sums) -> dict[str, str]:
    return {key: f"{value:f}" for key, value in sorted(sums.items())}


def rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(max(seconds, 0.0), 1)


def iso(seconds: float) -> str:
    """Seconds since the epoch as ISO 8601 in UTC, to the second."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
