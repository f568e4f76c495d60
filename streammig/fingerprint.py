"""Opens a checkpoint only if account, export and settings are those it is bound to (I8)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from streammig.checkpoint import Checkpoint
from streammig.errors import Unusable
from streammig.settings import Settings, absolute
from streammig.sources import content_of, hash_before, touched
from streammig.stages import STAGES

# The settings of a run that decide the bytes of a batch.
SHAPING = (
    "duplicates", "unknown_fields", "fraction_digits", "time_zone", "time_of_day", "trim_emails", "include_inactive",
    "send_anonymous", "zero_orders", "send_redeem", "max_bytes", "max_record_bytes",
)  # fmt: skip
ANOTHER_ACCOUNT = (
    "the account differs: it is identified by base URL and API key, or by `account` in the settings; a name set there"
    " before the first run lets you change the key later"
)
Marks = Mapping[str, Sequence[Mapping[str, Any]]]


def shapes(settings: Settings, unchecked: bool) -> dict[str, dict[str, Any]]:
    """The settings that decide the batches of each stage, JSON-ready.

    A mapping counts by its name: its code may be mended between two runs. `unchecked` counts too, so all runs of a
    checkpoint look for duplicate customers, or none does.
    """
    common = {name: getattr(settings, name) for name in SHAPING}
    older = {"not_in": absolute(settings.not_in) if settings.not_in else "", "since": settings.since}
    common |= {name: value for name, value in older.items() if value}
    found = {}
    for name in settings.stages:
        stage = settings.stage(name)
        mapped = {"fields": True} if stage.fields else {"map": stage.map}
        form = {"delimiter": stage.delimiter, "encoding": stage.encoding}
        own: dict[str, Any] = (
            mapped | form | {"owner": stage.owner, "deleted": [*stage.deleted], "reversed": [*stage.reversed]}
        )
        if stage.keyed:
            own["keyed"] = stage.keyed
        if stage.owner_twice != "stop":  # "stop" changes no batch
            own["owner_twice"] = stage.owner_twice
        if settings.balances == "dead-letter":  # the other values change no batch
            own["balances"] = settings.balances
        found[name] = common | own | ({"unchecked": unchecked} if name == STAGES[0] else {})
    return found


def rules_of(mapping: str | None) -> str:
    """The version and the mapping's hash: what decides the records of a stage beside export and settings.

    `mapping` is the hash, None without a mapping. Returns "" for a mapping that has no hash.
    """
    return "" if mapping == "" else f"{version('streammig')} {mapping or ''}"


def reopen(path: Path, binding: Mapping[str, Any], shape: Mapping[str, Any], marks: Marks) -> Checkpoint | None:
    """Open the checkpoint at `path`; None if there is none.

    Raises `Unusable`, and names every difference, if it is bound to another export, account or settings. Writes
    nothing.
    """
    if not path.exists():
        return None
    file = Checkpoint.open(path)
    try:
        found = differences("", file.run["binding"], binding)
        known = [row.name for row in file.stages()]
        for row in file.stages():
            if row.name not in shape:
                found.append(f"{row.name}: the checkpoint has this stage, but no file is named for it now")
                continue
            found += differences(f"{row.name}: ", row.shape, shape[row.name])
            # New files may follow the known ones: an export may come in instalments.
            known_files = file.fingerprints(row.name)
            now = marks[row.name][: len(known_files)]
            for before, mark in zip(known_files, now, strict=False):
                found += differences(f"{row.name}: {mark['file']}: ", content_of(before), content_of(mark))
            found += [f"{row.name}: {it['file']} is not named now" for it in known_files[len(now) :]]
        found += [
            f"{name}: this stage would come before {known[-1]}, which this checkpoint has already"
            for name in shape
            if name not in known and known and STAGES.index(name) < STAGES.index(known[-1])
        ]
        if found:
            raise _another(path, found)
    except BaseException:
        file.close()
        raise
    return file


def check_contents(file: Checkpoint, marks: Marks, stopped: Callable[[], bool]) -> None:
    """Raise `Unusable` if the content of a file has changed since the checkpoint read it.

    Compares many samples of each file whose times or inode differ, and the bytes just before the frontier.
    """
    found = []
    for row in file.stages():
        before, progress = file.fingerprints(row.name), file.progress(row.name)
        names = touched(marks[row.name][: len(before)], before, stopped)
        found += [f"{row.name}: the content of {name} has changed, though not its size" for name in names]
        place = progress.frontier
        if progress.before and hash_before(marks[row.name][place.source], place.offset) != progress.before:
            found.append(f"{row.name}: the content before byte {place.offset:,} is not what was read")
    if found and not stopped():
        raise _another(file.path, found)


def _another(path: Path, found: Sequence[str]) -> Unusable:
    return Unusable(
        "checkpoint-of-another-migration",
        f"{path} belongs to another migration than this command asks for:\n  " + "\n  ".join(found),
        "Undo the difference to go on. With a new --checkpoint, everything that this one has sent to the same target"
        " would be sent again.",
    )


def _set(value: Any) -> str:
    return "not set" if value is None else repr(value)


def differences(where: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line of text for each key whose value changed."""
    keys = sorted({*before, *now})
    return [
        ANOTHER_ACCOUNT
        if key == "account"
        else f"{where}{key} was {_set(before.get(key))} and is {_set(now.get(key))} now"
        for key in keys
        if before.get(key) != now.get(key)
    ]
