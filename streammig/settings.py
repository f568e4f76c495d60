"""The settings of a migration, from a TOML file and flags. Every default is here."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from streammig.address import is_address
from streammig.children import KEY_VARIABLE
from streammig.dead_letters.limit import parse_dead_limit
from streammig.errors import Problem, Unusable
from streammig.patterns import files_of
from streammig.ratelimit.hours import parse_hours
from streammig.ratelimit.limits import OFF, parse_limits
from streammig.stages import STAGES

PRESETS = ("dev", "prod")  # names of limits; the target knows their numbers


class StageSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of one stage: a table with the stage's name in the TOML file."""

    files: tuple[str, ...] = ()  # FILE or FILE#path.to.array, a folder, a pattern, or - for standard input
    delimiter: str = ""  # CSV: one character, or "tab"; by default told by the file's name
    encoding: str = "utf-8"  # CSV
    keyed: bool | str = False  # the records are the values of an object; a text names a field for their keys
    map: str = ""  # module:function
    fields: dict[str, Any] = {}  # a declared mapping, see `streammig.fields`
    owner: str = ""  # field with the customer's id, if each record is one event or one transaction
    deleted: tuple[str, ...] = ()  # customers: more marks of a deleted one: field=value, or a field with any value
    not_deleted: tuple[str, ...] = ()  # customers: field or field=value that does not mark a deleted one
    reversed: tuple[str, ...] = ()  # events: more marks of a reversed one, as field=value
    owner_twice: Literal["stop", "dead-letter"] = "stop"  # transactions: if a customer has several records
    unknown: Literal["read-back", "park", "resend"] = "read-back"  # for batches with an unknown outcome


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of a migration. Times are in seconds, sizes in bytes."""

    customers: StageSettings = StageSettings()
    events: StageSettings = StageSettings()
    transactions: StageSettings = StageSettings()

    base_url: str = "https://app.masivo.ai/api/storefront/v1"
    auth_url: str = ""  # address for tokens; the base URL unless set
    api_key_file: str = ""
    api_key_command: str = ""
    account: str = ""  # name for the shared limits; by default a hash of base URL and key
    limits: str = "prod"
    budget_share: Annotated[float, Meta(gt=0, le=1)] = 1.0  # part of each limit that the run uses
    hours: str = ""  # timetable: when to send, as "Mon-Fri 21:00-07:00; else 20%"
    hours_zone: str = ""  # time zone of the timetable, as America/Bogota

    checkpoint: str = ""
    state_dir: str = ""

    concurrency: Annotated[int, Meta(ge=1, le=64)] = 4
    settle_time: Annotated[float, Meta(ge=0, le=86_400)] = 300.0
    visible_time: Annotated[float, Meta(ge=0, le=604_800)] = 3600.0  # how long the barrier waits for samples
    request_timeout: Annotated[float, Meta(ge=1, le=3_600)] = 120.0
    drain_time: Annotated[float, Meta(ge=0, le=7_200)] = 150.0
    max_bytes: Annotated[int, Meta(ge=10_000, le=1_000_000_000)] = 4_000_000
    max_record_bytes: Annotated[int, Meta(ge=1_000, le=1_000_000_000)] = 16_777_216

    # Conditions on the JSON of a 2xx answer, as path=value or only a path. If any of `refused_if` holds, the batch is
    # refused. Otherwise, if `accepted_if` is set, it is accepted only if any of `accepted_if` holds.
    accepted_if: tuple[str, ...] = ()
    refused_if: tuple[str, ...] = ()
    not_there: tuple[int | str, ...] = (404,)  # answers to a read that mean "no such customer", as 404 or "200 null"

    not_in: str = ""  # checkpoint of an older run: leave out what that run has left at the target
    since: str = ""  # leave out events issued before this time

    on_event: str = ""  # command that gets the events of the run
    notify_url: str = ""  # webhook that gets the events of the run

    duplicates: Literal["first", "none"] = "first"  # of customers with the same id or e-mail, send the first; or none
    balances: Literal["stop", "send", "dead-letter"] = "stop"  # if transactions do not add up to a balance
    unknown_fields: Literal["drop", "reject", "send"] = "drop"
    judge: Literal["auto", "compiled", "python"] = "auto"  # implementation of the rules; batches are the same
    fraction_digits: Annotated[int, Meta(ge=0, le=12)] = 2
    trim_emails: bool = False
    time_zone: str = ""
    time_of_day: str = ""  # for dates without a time, as 00:00:00
    include_inactive: bool = False
    send_anonymous: bool = False
    zero_orders: bool = False
    send_redeem: bool = False
    bisect_events: bool = False
    isolation_share: Annotated[float, Meta(ge=0, le=1)] = 0.05  # most of a stage's requests that isolation may use
    isolation_requests: Annotated[int, Meta(ge=0, le=100_000)] = 60  # requests that isolation may use in any case
    breaker: Annotated[int, Meta(ge=1, le=100_000)] = 10  # whole batches refused in a row that stop the run
    verify_sample: Annotated[int, Meta(ge=0, le=100_000)] = 100  # customers to read back at the end of a run
    most_parked: Annotated[int, Meta(ge=0, le=100_000)] = 3  # parked batches of a stage; one more stops the run
    max_dead: int | str = ""  # dead letters of a stage: units, or a share of those read (1%); one more stops the run

    @classmethod
    def load(cls, path: Path | None = None, **given: Any) -> Settings:
        """Load the settings of a TOML file. Settings `given` here win. Raises `Unusable`."""
        return load(path, given)

    def stage(self, name: str) -> StageSettings:
        found: StageSettings = getattr(self, name)
        return found

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that have files, in the order in which they run."""
        return tuple(name for name in STAGES if self.stage(name).files)


def load(path: Path | None, flags: Mapping[str, Any]) -> Settings:
    """Load the settings of a TOML file, overridden by flags. Raises `Unusable`, which names the setting.

    `flags` is nested like the file, without flags that were not given. Paths in the file are relative to the file's
    folder, paths in flags to the working folder.
    """
    found = _read(path) if path is not None else {}
    merged: dict[str, Any] = dict(found)
    for name, value in flags.items():
        merged[name] = {**found.get(name, {}), **value} if isinstance(value, Mapping) else value
    if not merged.get("checkpoint"):
        merged["checkpoint"] = str(path.with_suffix(".checkpoint")) if path else "migration.checkpoint"
    where = path or "the flags"
    for key in merged:
        _check_known(f"{where}: ", key, Settings)
    for name in STAGES:
        for key in merged[name] if isinstance(merged.get(name), Mapping) else ():
            _check_known(f"{where}: [{name}]: ", key, StageSettings)
    try:
        settings = msgspec.convert(merged, Settings)
    except msgspec.ValidationError as error:
        # The value may be a misplaced secret. msgspec names the type and the path, never the value.
        said = str(error).replace("`$.", "`")
        raise Unusable("settings-invalid", f"{where}: {said}", SEE_ALL) from None
    check_texts(msgspec.to_builtins(settings))
    try:
        parse_limits(settings.limits, dict.fromkeys(PRESETS, OFF))
        parse_hours(settings.hours, settings.hours_zone)
        parse_dead_limit(settings.max_dead)
    except Problem as problem:
        raise Unusable(problem.code, f"{where}: {problem.what}", problem.hint) from None
    for name in STAGES:
        _check_made(f"{where}: [{name}]", settings.stage(name))
    return _with_files(settings)


def _check_made(where: str, stage: StageSettings) -> None:
    """Raise `Unusable` if `owner` or `reversed` names a field that the declared mapping does not make."""
    asked = list[tuple[str, str]]()
    if stage.owner:  # without it a record is a list of events, and `reversed` names fields of an event
        asked = [("owner", stage.owner), *(("reversed", mark) for mark in stage.reversed)]
    for setting, mark in asked if stage.fields else ():
        path = mark.partition("=")[0]
        if path.partition(".")[0] not in stage.fields:
            raise Unusable(
                "fields-invalid",
                f"{where}: {setting} names the field {path}, which the table fields does not make",
                f'{setting} is looked for in what the mapping makes. Add a line to fields, say "{path}" = "{path}".'
                " See: streammig guide mapping",
            )


def _with_files(settings: Settings) -> Settings:
    """Replace each folder and each pattern by its files."""
    found: dict[str, Any] = {}
    for name in settings.stages:
        stage = settings.stage(name)
        files = tuple(file for text in stage.files for file in files_of(text))
        found[name] = msgspec.structs.replace(stage, files=files)
    return msgspec.structs.replace(settings, **found)


SEE_ALL = "See all of them: streammig guide settings"


def _check_known(where: str, key: str, kind: type[msgspec.Struct]) -> None:
    """Raise `Unusable` for a key that is no setting, with the most similar setting."""
    if key not in kind.__struct_fields__:
        raise Unusable("setting-unknown", f"{where}there is no setting {key}", _meant(key, kind))


def _meant(key: str, kind: type[msgspec.Struct]) -> str:
    if near := get_close_matches(key, kind.__struct_fields__, 1):
        return f"Did you mean {near[0]}? {SEE_ALL}"
    other = StageSettings if kind is Settings else Settings
    if near := get_close_matches(key, other.__struct_fields__, 1):
        place = "in the table of a stage" if other is StageSettings else "above the first table"
        return f"There is a setting {near[0]} {place}. {SEE_ALL}"
    return SEE_ALL


def check_folder(checkpoint: Path) -> None:
    """Raise `Unusable` unless the checkpoint's folder exists."""
    if not checkpoint.parent.is_dir():
        said = f"the checkpoint {checkpoint} can't be kept: there is no such folder as {checkpoint.parent}"
        hint = "Make the folder, or name another file with --checkpoint."
        raise Unusable("checkpoint-folder-missing", said, hint)


def check_texts(found: Mapping[str, Any], above: str = "") -> None:
    """Raise `Unusable` for a text with a NUL or invalid UTF-8. It would fail later, with a worse message."""
    for name, value in found.items():
        if isinstance(value, Mapping):
            check_texts(value, f"{above}{name}.")
        for text in value if isinstance(value, tuple | list) else (value,):
            if isinstance(text, str) and ("\0" in text or not _is_utf8(text)):
                said = f"{above}{name} holds a NUL character or bytes that are not UTF-8: {text!a}"
                raise Unusable("settings-invalid", said, "Retype it, or rename the file it names.")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # Python turns invalid bytes of the command line into lone surrogates
        return False
    return True


def check_doubles(settings: Settings, accepted: Collection[str]) -> None:
    """Raise `Unusable` unless the stages that may send twice are exactly those accepted on the command line."""
    resending = [name for name in settings.stages if settings.stage(name).unknown == "resend"]
    for name in resending:
        if name not in accepted:
            said = f'{name}: unknown = "resend" sends a batch again though it may have landed, so it may be there twice'
            hint = f"Add --i-accept-doubles {name} if you want that, or remove the setting."
            raise Unusable("resend-unconfirmed", said, hint)
    for name in accepted:
        if name not in resending:
            said = f"--i-accept-doubles {name}: these settings send nothing of {name} twice"
            hint = f'Leave it out, or set unknown = "resend" in the table [{name}] of the settings.'
            raise Unusable("resend-unconfirmed", said, hint)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        said = f"the settings {path} can't be read: {error.strerror}"
        raise Unusable("settings-unreadable", said, "Name a TOML file, or use flags.") from None
    except (ValueError, RecursionError) as error:  # ValueError: also invalid UTF-8, or a number with too many digits
        hint = "See an example: streammig guide first-migration"
        raise Unusable("settings-unreadable", f"{path} is not TOML: {error}", hint) from None
    for name in ("api_key", "key", "token"):
        if name in found:
            hint = f"Put it in {KEY_VARIABLE}, or name a file with api_key_file or a command with api_key_command."
            raise Unusable("key-in-settings", f"{path}: {name}: a key does not belong in the settings", hint)
    folder = path.parent
    for name in ("checkpoint", "state_dir", "api_key_file", "not_in"):
        if isinstance(found.get(name), str):
            found[name] = str(folder / Path(found[name]).expanduser())
    for name in STAGES:
        files = found.get(name, {}).get("files") if isinstance(found.get(name), dict) else None
        if isinstance(files, str):
            files = [files]
        if isinstance(files, list):
            found[name]["files"] = [_beside(folder, text) for text in files]
    return found


def _beside(folder: Path, text: Any) -> Any:
    if not isinstance(text, str) or text == "-" or text.startswith("-#") or is_address(text):
        return text
    return str(folder / Path(text).expanduser())


def absolute(text: str) -> str:
    """Make a path absolute, so that it is found from any folder. Addresses stay."""
    return text if is_address(text) else str(Path(text).absolute())


def portable(settings: Settings) -> dict[str, Any]:
    """The settings as a checkpoint stores them: JSON-ready, with absolute paths, without possible secrets."""
    kept: dict[str, Any] = {
        name: value for name, value in msgspec.to_builtins(settings).items() if value != getattr(Settings(), name)
    }
    for name in ("api_key_command", "on_event", "notify_url"):  # each may hold a secret
        kept.pop(name, None)
    for name in ("checkpoint", "state_dir", "api_key_file", "not_in"):
        if kept.get(name):
            kept[name] = absolute(kept[name])
    for name in settings.stages:
        kept[name]["files"] = [absolute(text) for text in kept[name]["files"]]
    return kept


def from_checkpoint(checkpoint: Path, context: Mapping[str, Any], path: Path | None) -> tuple[Settings, Path]:
    """The settings in a checkpoint's `context`, overridden by a TOML file, and the folder to import mappings from."""
    merged: dict[str, Any] = dict(context.get("settings", {}))
    for name, value in (_read(path) if path is not None else {}).items():
        merged[name] = {**merged.get(name, {}), **value} if isinstance(value, Mapping) else value
    settings = load(None, merged | {"checkpoint": str(checkpoint)})
    return settings, path.parent if path is not None else Path(context.get("folder", ""))


def api_key(settings: Settings, environment: Mapping[str, str]) -> str:
    """Get the API key from the environment, a file or a command. Raises `Unusable`, without the key in its message."""
    hint = f"Set {KEY_VARIABLE}, or name a file with api_key_file or a command with api_key_command in the settings."
    key, origin = environment.get(KEY_VARIABLE, "").strip(), KEY_VARIABLE
    if not key and settings.api_key_file:
        origin = f"the API key's file {settings.api_key_file}"
        try:
            key = Path(settings.api_key_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
            raise Unusable("key-unreadable", f"{origin} can't be read: {reason}", hint) from None
    elif not key and settings.api_key_command:
        origin = f"the API key's command{_program(settings.api_key_command)}"
        done = subprocess.run(settings.api_key_command, shell=True, stdout=subprocess.PIPE, check=False)
        if done.returncode:
            raise Unusable("key-command-failed", f"{origin} ended with {done.returncode}", hint)
        key = done.stdout.decode("utf-8", "replace").strip()
    if not key:
        raise Unusable("key-missing", "there is no API key", hint)
    if not key.isprintable() or not key.isascii() or " " in key:
        said = f"the API key from {origin} holds spaces, line breaks or characters that no HTTP header can carry"
        raise Unusable("key-invalid", said, hint)
    return key


def _program(command: str) -> str:
    """The name of the program in a command line, without its arguments, which may be secrets."""
    first = command.split()[0] if command.split() else ""
    return f" ({Path(first).name} …)" if re.fullmatch(r"[\w./~-]{1,200}", first) else ""


def state_folder(settings: Settings, environment: Mapping[str, str], platform: str) -> Path:
    """The state folder: the setting, else the platform's folder for program state."""
    if settings.state_dir:
        return Path(settings.state_dir).expanduser()
    if platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "streammig"
    base = environment.get("XDG_STATE_HOME") or os.path.join(Path.home(), ".local", "state")
    return Path(base) / "streammig"
