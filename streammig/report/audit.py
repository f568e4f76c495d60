"""What lets somebody check a report later: hashes of what a run was made of, and a checksum of the file itself."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import msgspec

from streammig.checkpoint import Checkpoint, Timeline
from streammig.disk import begins_with
from streammig.errors import Altered, Unusable

FIRST_LINE = b"<!doctype html><!-- a report of streammig -->\n"
BLANK = b"0" * 64
CHECKSUM = re.compile(rb'<meta name="streammig-checksum" content="([0-9a-f]{64})">')
PROOF = re.compile(rb'<script type="application/json" id="proof">(.*?)</script>', re.DOTALL)
is_report = begins_with(FIRST_LINE)
NAME_ANOTHER = "Name the HTML file that `streammig report` wrote."


def proof(checkpoint: Checkpoint) -> dict[str, Any]:
    """SHA-256 hashes, JSON-ready: of the export as the checkpoint knows it (name, size, head, tail and samples of each
    file), of the settings, of the operator's decisions, and for each stage the end of a chain over all of its batches,
    requests and dead letters. `requests` is the number of the newest request, `verified` when it was verified last."""
    run = checkpoint.run
    past = Timeline(checkpoint)
    rows = checkpoint.stages()
    settings = [run["binding"], run["context"].get("settings", {}), {row.name: row.shape for row in rows}]
    return {
        "run": run["id"],
        "requests": run["tick"],
        "verified": (checkpoint.verification() or {}).get("at"),
        "reverted": checkpoint.is_reverted(),
        "export": _hash({row.name: checkpoint.fingerprints(row.name) for row in rows}),
        "settings": _hash(settings),
        "decisions": _hash(past.decided()),
        "batches": {row.name: _chain(past, row.name) for row in rows},
    }


def _hash(found: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(found, order="sorted")).hexdigest()


def _chain(past: Timeline, stage: str) -> str:
    """Each link is the hash of the one before it and of one batch or request, so none can be left out or moved."""
    link = hashlib.sha256(stage.encode()).digest()
    for row in past.everything(stage):
        link = hashlib.sha256(link + msgspec.json.encode(row)).digest()
    return link.hex()


def with_checksum(page: str) -> bytes:
    """A report's page with its checksum in place of 64 zeros: the hash of the page with the zeros in it."""
    data = FIRST_LINE + page.encode()
    return data.replace(BLANK, hashlib.sha256(data).hexdigest().encode(), 1)


def audit(report: Path, checkpoint: Checkpoint | None = None) -> dict[str, Any]:
    """Check that a report is as it was written and, given a checkpoint, that it tells of this one; returns its proof.

    Raises `Unusable` for what is no report, or where the run has gone on since; `Altered` for any difference.
    """
    try:
        data = report.read_bytes()
    except OSError as error:
        raise Unusable("report-unreadable", f"{report}: {error.strerror}", NAME_ANOTHER) from None
    found = opened(data, str(report))
    if checkpoint is not None:
        _compare(report, found, proof(checkpoint), checkpoint.path)
    return found


def opened(data: bytes, name: str) -> dict[str, Any]:
    """The proof in a report, by its bytes; raises like `audit`."""
    sums = CHECKSUM.findall(data)
    if not sums and not data.startswith(FIRST_LINE):
        raise Unusable("report-foreign", f"{name} is no report of streammig", NAME_ANOTHER)
    if len(sums) != 1 or hashlib.sha256(data.replace(sums[0], BLANK, 1)).hexdigest().encode() != sums[0]:
        hint = "Get the file from where it was kept first, or write a new report from the checkpoint."
        raise Altered("report-altered", f"{name} is not as it was written: its checksum does not fit", hint)
    found: dict[str, Any] = json.loads(PROOF.findall(data)[0])
    return found


def _compare(report: Path, then: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    if "run" not in then:
        raise Unusable("report-foreign", f"{report} is the report of a check, not of a run", NAME_ANOTHER)
    since = [name for name in ("requests", "verified", "reverted") if then[name] != now[name]]
    if then["run"] == now["run"] and then["requests"] <= now["requests"] and since:
        said = f"{path} has gone on since {report} was written; what changed: {', '.join(since)}"
        hint = f"Write a new one: streammig report {shlex.quote(str(path))} --out FILE.html"
        raise Unusable("report-outdated", said, hint)
    differing = [name for name in now if now[name] != then[name]]
    if differing:
        said = f"{report} and {path} do not tell the same; what differs: {', '.join(differing)}"
        hint = "Find out which of the two was changed: compare both with copies that were kept elsewhere."
        raise Altered("report-differs", said, hint)
