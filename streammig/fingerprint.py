"""What a checkpoint is bound to, and opening one only if it belongs to this migration (I8)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from streammig.checkpoint import Checkpoint
from streammig.errors import Unusable
from streammig.settings import Settings, absolute
from streammig.sources import comparable, hash_before, touched
from streammig.stages import STAGES

# The settings of a run that decide which bytes a batch holds.
SHAPING = (
    "duplicates", "unknown_fields", "fraction_digits", "time_zone", "time_of_day", "trim_emails", "include_inactive",
    "send_anonymous", "zero_orders", "send_redeem", "max_bytes", "max_record_bytes",
)  # fmt: skip
ANOTHER_ACCOUNT = (
    "the account is another: it is told by base URL and API key, or by `account` in the settings; a name given there"
    " before the first run lets the key be changed later"
)
Marks = Mapping[str, Sequence[Mapping[str, Any]]]


def shapes(settings: Settings, unchecked: bool) -> dict[str, dict[str, Any]]:
    """For each stage what shapes its batches, JSON-ready. A mapping is bound by its name: its code may be mended
    between two runs. Duplicate customers are looked for in all runs of a checkpoint, or in none."""
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
        if stage.owner_twice != "stop":  # which changes no batch
            own["owner_twice"] = stage.owner_twice
        if settings.balances == "dead-letter":  # the others change no batch
            own["balances"] = settings.balances
        found[name] = common | own | ({"unchecked": unchecked} if name == STAGES[0] else {})
    return found


def rules_of(mapping: str | None) -> str:
    """What decides, beside the export and the settings, what comes out of a stage: the version, and the hash of the
    mapping (None: there is none); "" for a mapping without one."""
    return "" if mapping == "" else f"{version('streammig')} {mapping or ''}"


def reopen(path: Path, binding: Mapping[str, Any], shape: Mapping[str, Any], marks: Marks) -> Checkpoint | None:
    """The checkpoint at `path`, or None if there is none. Raises `Unusable`, every difference named, if it is bound
    to another export, account or settings; nothing is written then."""
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
            # Files may be added behind those that the stage has: an export that comes in instalments.
            known_files = file.fingerprints(row.name)
            now = marks[row.name][: len(known_files)]
            found += differences(f"{row.name}: ", comparable(known_files), comparable(now))
        found += [
            f"{name}: it would come before {known[-1]}, which this checkpoint has already"
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
    """Raise `Unusable` if a file that may have been written to since is not the same any more, by many samples, or if
    what was read last before the frontier is not there now."""
    found = []
    for row in file.stages():
        before, progress = file.fingerprints(row.name), file.progress(row.name)
        names = touched(marks[row.name][: len(before)], before, stopped)
        found += [f"{row.name}: the content of {name} is not what it was, though its size is" for name in names]
        place = progress.frontier
        if progress.before and hash_before(marks[row.name][place.source], place.offset) != progress.before:
            found.append(f"{row.name}: what stands before byte {place.offset:,} is not what was read")
    if found and not stopped():
        raise _another(file.path, found)


def _another(path: Path, found: Sequence[str]) -> Unusable:
    return Unusable(
        "checkpoint-of-another-migration",
        f"{path} belongs to another migration than the one asked for:\n  " + "\n  ".join(found),
        "Undo the difference to go on with it. With a new --checkpoint everything that this one"
        " has sent to the same target would be sent again.",
    )


def _set(value: Any) -> str:
    return "not set" if value is None else repr(value)


def differences(where: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line for each key whose value changed, in words."""
    keys = sorted({*before, *now})
    return [
        ANOTHER_ACCOUNT
        if key == "account"
        else f"{where}{key} was {_set(before.get(key))} and is {_set(now.get(key))} now"
        for key in keys
        if before.get(key) != now.get(key)
    ]
