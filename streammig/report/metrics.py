"""The numbers of a run as text that Prometheus reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

Labels = Mapping[str, object]
Found = Mapping[str, Any]
BEGINNING = "# HELP streammig_"
STATES = ("running", "interrupted", "complete", "failed", "reverting", "reverted")


def metrics(found: Found | None) -> str:
    """What `glance` found, in the text format of Prometheus; of a run that has no checkpoint yet that it is on.

    Counters count from the first request of the migration, over all its runs: they go on after a restart.
    """
    text = _Text()
    state = "running" if found is None else found["status"]["state"]
    text.add("state", "gauge", "The state of the migration: 1 for the one that it is in.",
             [({"state": name}, int(name == state)) for name in STATES])  # fmt: skip
    if found is not None:
        _stages(text, found)
        _whole(text, found["status"])
        _latency(text, found["stages"])
    return str(text)


def _stages(text: _Text, found: Found) -> None:
    stages, counts, status = found["stages"], found["counts"], found["status"]["stages"]
    text.add("read_units_total", "counter", "Units read from the export.",
             [({"stage": name}, it["units"]["read"]) for name, it in stages.items()])  # fmt: skip
    placed = [
        ({"stage": name, "state": part}, count)
        for name, it in stages.items() for part, count in it["units"].items() if part != "read"
    ]  # fmt: skip
    text.add("units", "gauge", "Units by what became of them.", placed)
    text.add("dead_letters", "gauge", "Records that were not sent, and wait for you, by the code of the reason.",
             [({"stage": name, "code": code}, count) for name, it in status.items()
              for code, count in it["dead_by"].items()])  # fmt: skip
    batches = [({"stage": name, "state": state}, it[state]) for name, it in counts.items()
               for state in ("accepted", "waiting")]  # fmt: skip
    text.add("batches", "gauge", "Batches that were accepted, and those still to be sent.", batches)
    text.add("body_bytes_total", "counter", "Bytes of the request bodies made.",
             [({"stage": name}, it["bytes"]) for name, it in counts.items()])  # fmt: skip
    text.add("last_success_timestamp_seconds", "gauge", "When a batch was accepted last, in seconds since the epoch.",
             [({"stage": name}, it["settled"]) for name, it in counts.items()])  # fmt: skip
    text.add("requests_total", "counter", "Requests by their answer: its HTTP status, or what there was instead.",
             [({"stage": name, "kind": kind, "code": code}, count) for name, it in stages.items()
              for (kind, code), count in _answers(it["answers"]).items()])  # fmt: skip
    text.add("stage_seconds_left", "gauge", "Seconds until a stage is done, as far as that can be told.",
             [({"stage": name}, it["seconds_left"]) for name, it in status.items()])  # fmt: skip
    text.add("done_ratio", "gauge", "The share of a stage that is settled.",
             [({"stage": name}, it["done"]) for name, it in status.items()])  # fmt: skip


def _answers(answers: Iterable[Found]) -> dict[tuple[str, str], int]:
    """The count of each kind of outcome and status; "none" where no answer came."""
    found: dict[tuple[str, str], int] = {}
    for it in answers:
        key = it["kind"] or "none", str(it["status"] or "none")
        found[key] = found.get(key, 0) + it["count"]
    return found


def _whole(text: _Text, status: Found) -> None:
    windows = [({"window": it["window"], "kind": it["kind"]}, it) for it in status["budget"]]
    text.add("permits_used", "gauge", "Requests that a window of the rate limits counts now.",
             [(labels, it["used"]) for labels, it in windows])  # fmt: skip
    text.add("permits_left", "gauge", "Requests that a window of the rate limits still allows now.",
             [(labels, it["left"]) for labels, it in windows])  # fmt: skip
    text.add("paused", "gauge", "1 while the operator lets the run wait.", [({}, int(status["paused"]))])
    text.add("balanced", "gauge", "1 where the totals add up.", [({}, int(status["balanced"]))])
    text.add("parked_batches", "gauge", "Batches with an unknown outcome that wait for you.",
             [({}, sum(it["state"] == "parked" for it in status["undecided"]))])  # fmt: skip
    oldest = min((_seconds(it["since"]) for it in status["undecided"] if it["since"]), default=None)
    text.add("oldest_unknown_timestamp_seconds", "gauge", "When the oldest batch of unknown outcome was sent.",
             [({}, oldest)])  # fmt: skip
    text.add("seconds_left", "gauge", "Seconds until all is done, as far as that can be told.",
             [({}, status["seconds_left"])])  # fmt: skip


def _latency(text: _Text, stages: Found) -> None:
    samples: list[tuple[str, Labels, float | None]] = []
    for name, it in stages.items():
        if (latency := it["latency"]) is None:
            continue
        upto = 0
        for each in latency["classes"]:
            upto += each["answers"]
            end = "+Inf" if each["up_to"] is None else f"{each['up_to']:g}"
            samples.append(("_bucket", {"stage": name, "le": end}, upto))
        samples += [("_sum", {"stage": name}, latency["sum"]), ("_count", {"stage": name}, upto)]
    text.add_parts("request_seconds", "histogram", "How long answers took.", samples)


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


class _Text:
    """Metrics in the order they were added; those without a number are left out."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, name: str, kind: str, said: str, samples: Iterable[tuple[Labels, float | None]]) -> None:
        self.add_parts(name, kind, said, [("", labels, value) for labels, value in samples])

    def add_parts(self, name: str, kind: str, said: str, samples: Iterable[tuple[str, Labels, float | None]]) -> None:
        known = [(part, labels, value) for part, labels, value in samples if value is not None]
        if known:
            self._lines += [f"# HELP streammig_{name} {said}", f"# TYPE streammig_{name} {kind}"]
        for part, labels, value in known:
            shown = ",".join(f'{key}="{_escaped(str(text))}"' for key, text in labels.items())
            self._lines.append(f"streammig_{name}{part}{'{' + shown + '}' if shown else ''} {value!r}")

    def __str__(self) -> str:
        return "".join(f"{line}\n" for line in self._lines)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
