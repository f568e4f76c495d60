"""Proposes a first settings file for an export (`streammig init`), with a mapping for the user to mend."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from streammig.address import is_address
from streammig.errors import Problem, Unusable
from streammig.fields import NO, YES
from streammig.masivo.names import DELETED, FORMS, USUAL, folded
from streammig.patterns import files_of
from streammig.sources import Form, open_source, parse_input
from streammig.survey import EPOCH, EPOCH_MS, Field, survey

FORMS_TRIED = [Form(mark, code) for code in ("utf-8", "cp1252") for mark in ("", ";", "tab", "|")]
GENDERS = {
    "FEMALE": ("f", "female", "w", "woman", "mujer", "femenino"),
    "MALE": ("m", "male", "man", "h", "hombre", "masculino"),
}
NO_REWARD = "00000000-0000-0000-0000-000000000000"
NO_DATE = "2000-01-01T00:00:00Z"


class Found(NamedTuple):
    """What the first records of some files of one stage look like."""

    name: str  # as the user typed it, or the first file
    files: tuple[str, ...]  # as the settings name them
    stage: str  # the likely one
    form: Form
    fields: list[Field]
    seen: int  # records that were examined
    fits: bool  # whether the records have the target's form already


@dataclass
class Proposal:
    """The lines of a stage in the settings. `mend` holds remarks for the user, who must check them."""

    lines: list[str] = field(default_factory=list)
    mend: list[str] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)  # source fields that a line uses

    def put(self, target: str, value: str | None, remark: str = "") -> None:
        if value is not None:
            self.lines.append(f"{target} = {value}" + (f"  # MEND: {remark}" if remark else ""))
        if remark:
            self.mend.append(f"{target}: {remark}")


def look(name: str, stage: str = "", keyed: str = "") -> list[Found]:
    """Examine the first records of `FILE[#path]`, a folder or a pattern. Raises `Unusable` if none can be read.

    Files whose names differ only in digits are parts of one export. If a folder or a pattern holds exports of several
    stages, each gets a `Found` of its own. `keyed`: the field for the keys, if the records are the values of an object.
    """
    kinds: dict[str, list[str]] = {}
    for file in files_of(name):
        kinds.setdefault(re.sub(r"\d+", "", file), []).append(file)
    forms = [Form(keyed=keyed)] if keyed else FORMS_TRIED
    found = [_look(files[0], files, stage, forms)._replace(files=tuple(files)) for files in kinds.values()]
    if len({it.stage for it in found}) > 1:
        return found
    return [_look(name, files_of(name), stage, forms)]


def _look(name: str, files: Sequence[str], stage: str, forms: Iterable[Form]) -> Found:
    problem: Problem | None = None
    for form in forms:
        try:
            source = open_source([parse_input(file) for file in files], form=form)
            spans = source.spans()
            first = next(spans, None)
        except Problem as caught:
            problem = problem or caught
            if caught.code not in ("csv-delimiter", "csv-header"):
                break
            continue
        if first is None:
            raise Unusable("export-empty", f"{name}: a record was looked for, the export has none")
        if any(code == "invalid-utf8" for _, code, _ in first.faults.values()) and form.encoding == "utf-8":
            continue
        fields, seen = survey(chain([first], spans))
        likely, fits = _stage(fields, seen, stage)
        return Found(name, (name,), likely, form, fields, seen, fits)
    raise problem or Unusable("export-not-utf8", f"{name}: the text is neither UTF-8 nor Windows-1252")


def settings_text(found: Sequence[Found], folder: Path) -> tuple[str, dict[str, list[str]]]:
    """The proposed settings as TOML, and the remarks by stage. File names are relative to `folder`."""
    parts, remarks = [_HEAD], dict[str, list[str]]()
    for stage in FORMS:
        of_stage = [it for it in found if it.stage == stage]
        if not of_stage:
            continue
        first = of_stage[0]
        names = [_quoted(_seen_from(folder, file)) for it in of_stage for file in it.files]
        lines = [f"[{stage}]", f"files = [{', '.join(names)}]"]
        lines += [f"delimiter = {json.dumps(first.form.delimiter)}"] if first.form.delimiter else []
        lines += [f"encoding = {json.dumps(first.form.encoding)}"] if first.form.encoding != "utf-8" else []
        lines += [f"keyed = {json.dumps(first.form.keyed)}"] if first.form.keyed else []
        if not first.fits and stage in _PROPOSE:
            proposal = _PROPOSE[stage](_Names(stage, first.fields))
            lines += proposal.lines
            left = [it.path for it in first.fields if it.path not in proposal.taken]
            lines += ["", f"# Not taken over: {', '.join(left)}"] if left else []
            remarks[stage] = proposal.mend
        elif not first.fits:
            said = "records: they do not have Masivo's form. Set fields, and owner if a customer has several records"
            remarks[stage] = [f"{said}: streammig guide mapping"]
        other = [it.name for it in of_stage if {one.path for one in it.fields} != {one.path for one in first.fields}]
        if other:
            said = f"files: {', '.join(other)} has other fields than {first.name}; look at it alone, with --stage"
            remarks.setdefault(stage, []).insert(0, said)
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n", remarks


_HEAD = """# Proposed by `streammig init`. Look at each line; those marked MEND need you.
# Then look at the result, without sending anything: streammig run THIS.toml --dry-run look
# All settings: streammig guide settings. Conversions of fields: streammig guide mapping."""


def _seen_from(folder: Path, name: str) -> str:
    if is_address(name):
        return name
    path = Path(name).absolute()
    base = folder.absolute()
    return str(path.relative_to(base)) if path.is_relative_to(base) else str(path)


def _stage(fields: list[Field], seen: int, asked: str) -> tuple[str, bool]:
    """The likely stage of records with these fields, and whether they have the target's form already."""
    tops = {it.path.partition(".")[0] for it in fields if it.count * 2 > seen or "." in it.path}
    for stage, form in FORMS.items():
        if form <= tops and asked in ("", stage):
            return stage, True
    if asked:
        return asked, False
    events = _Names("events", fields)
    purchases = all(events.field(name) is not None for name in ("customer", "value", "issued_at", "purchase_id"))
    personal = _Names("customers", fields).field("email") is not None
    return ("events" if purchases and not personal else "customers"), False


class _Names:
    """Finds the source field for a target's field by its usual names."""

    def __init__(self, stage: str, fields: Sequence[Field]) -> None:
        self._usual = USUAL.get(stage, {})
        self._fields: Mapping[str, Field] = {}
        for it in reversed(fields):  # of two equal names the first field wins; a path is found by its last step too
            self._fields = {**self._fields, folded(it.path.rpartition(".")[2]): it, folded(it.path): it}

    def field(self, target: str) -> Field | None:
        names = [folded(name) for name in self._usual.get(target, ())]
        return next((self._fields[name] for name in names if name in self._fields), None)

    def deleted(self) -> list[Field]:
        """The fields that may mark deleted customers."""
        return [self._fields[folded(name)] for name in DELETED if folded(name) in self._fields]


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _value(found: Field, *conversions: str) -> str:
    """The TOML for a value from a source field: first the clean-up that its texts need, then the conversions."""
    steps = [f"field = {_quoted(found.path)}"]
    steps += ['strip = "\'"'] if found.quoted * 2 > found.count else []
    steps += ["trim = true"] if found.padded and "trim = true" not in conversions else []
    steps += [step for step in conversions if step]
    return _quoted(found.path) if len(steps) == 1 else "{" + ", ".join(steps) + "}"


def _date(proposal: Proposal, target: str, found: Field | None, *, required: bool) -> None:
    if found is None:
        if required:
            proposal.put(target, f'{{constant = "{NO_DATE}"}}', "no field of a date was found; Masivo requires one")
        return
    proposal.taken.add(found.path)
    steps, remarks, dates = list[str](), list[str](), found.dates
    if found.all_are(EPOCH_MS) or found.all_are(EPOCH):
        steps = ["epoch_ms = true" if found.all_are(EPOCH_MS) else "epoch = true"]
    elif not dates:
        remarks = ['the form of these dates is not known; add date = "..."']
    elif not (dates[0].startswith("%Y-%m-%dT") and dates[0].endswith("%z")):
        form = dates[0]
        steps = [f'date = "{form}"']
        if len([it for it in dates if it[:2] in ("%d", "%m")]) > 1:
            remarks = ["the month may come first"]
        if not form.endswith("%z"):
            steps.append('zone = "UTC"')
            remarks.append("the time zone is not known")
    proposal.put(target, _value(found, *steps), "; ".join(remarks))


def _customers(names: _Names) -> Proposal:
    proposal = Proposal(["", "[customers.fields]"])
    _text(proposal, names, "id", "no field of an id was found", text=True)
    whole, first, last = names.field("name"), names.field("first"), names.field("last")
    if first is not None and last is not None and first is not last:
        proposal.taken |= {first.path, last.path}
        proposal.put("name", f"{{join = [{_quoted(first.path)}, {_quoted(last.path)}]}}")
    else:
        found = whole or first or last
        proposal.taken |= {found.path} if found is not None else set()
        proposal.put(
            "name", _value(found) if found is not None else '{constant = "?"}',
            "" if found is not None else "no field of a name was found",
        )  # fmt: skip
    _text(proposal, names, "email", "no field of an e-mail address was found", "trim = true", "lower = true")
    _date(proposal, "registration_date", names.field("registration_date"), required=True)
    _date(proposal, "dob", names.field("dob"), required=False)
    if (gender := names.field("gender")) is not None and gender.words:
        proposal.taken.add(gender.path)
        known = {word: to for word in gender.words for to, words in GENDERS.items() if word.strip().lower() in words}
        remark = ""
        if {word.strip().lower() for word in known} == {"h", "m"}:  # hombre and mujer
            known = {word: "MALE" if word.strip().lower() == "h" else "FEMALE" for word in known}
            remark = "M is taken for mujer (FEMALE), because H occurs too"
        pairs = [f"{_quoted(word)} = {_quoted(to)}" for word, to in known.items()]
        proposal.put("gender", _value(gender, "map = {" + ", ".join([*pairs, '"*" = ""']) + "}"), remark)
    if (country := names.field("country")) is not None:
        proposal.taken.add(country.path)
        proposal.put("country", _value(country))
    for mark in names.deleted():
        free = mark.form == "texts" and not {text.lower() for text in mark.plain} <= {*YES, *NO}
        if mark.values and (mark.words or not free) and mark.path not in proposal.taken:
            _deleted(proposal, mark)
    _balance(proposal, names.field("amount"))
    return proposal


def _deleted(proposal: Proposal, mark: Field) -> None:
    """Add commented lines for a field that may mark deleted customers, with a blank for each of its words."""
    proposal.taken.add(mark.path)
    words = ", ".join(mark.words)
    blanks = ", ".join(f'{_quoted(word)} = ""' for word in mark.words or ["*"])
    proposal.lines.append(
        f'# If {"one of these words" if words else "a value in it"} marks deleted customers, write "DELETED" for it:'
    )
    proposal.lines.append(f"# status = {_value(mark, f'map = {{{blanks}}}')}")
    proposal.lines.append(f"# Else say so in the table [customers]: not_deleted = [{_quoted(mark.path)}]")
    said = f"its words are {words}" if words else "look at its values"
    proposal.mend.append(f"status: {mark.path} may mark deleted customers; {said}")


def _balance(proposal: Proposal, amount: Field | None) -> None:
    if amount is None or amount.kind not in ("a text", "a number"):
        proposal.put("balance", "[]", "no field of points was found; the balance stays empty")
        return
    proposal.taken.add(amount.path)
    proposal.lines += ["", "[[customers.fields.balance]]"]
    proposal.put("reward_id", f'{{constant = "{NO_REWARD}"}}', "put the id of the reward in Masivo here")
    mark = amount.decimal_mark
    proposal.put("amount", _value(amount, f'number = "{mark}"' if mark else ""))
    proposal.put("expiration_date", "{null = true}")
    proposal.put("brand_id", "{null = true}")


def _events(names: _Names) -> Proposal:
    proposal = Proposal(['owner = "customer"', "", "[events.fields]"])
    _text(proposal, names, "customer", "no field with the customer's id was found", text=True)
    proposal.put("type", '{constant = "PURCHASE"}')
    proposal.put("brand_id", "{null = true}")
    proposal.put("fulfilled", "{constant = true}")
    moment = names.field("issued_at")
    _date(proposal, "issued_at", moment, required=True)
    _date(proposal, "resolved_at", moment, required=True)
    proposal.lines += ["", "[events.fields.order]"]
    _text(proposal, names, "purchase_id", "no field with the purchase's id was found", text=True)
    value = names.field("value")
    for target in ("value", "discounted_value"):
        if value is None:
            proposal.put(target, "{constant = 0}", "no field with the purchase's value was found")
        else:
            proposal.taken.add(value.path)
            proposal.put(target, _value(value, f'number = "{value.decimal_mark}"' if value.decimal_mark else ""))
    proposal.put("payment_method", '{constant = "OTHER"}')
    proposal.put("products", "[]")
    return proposal


def _text(proposal: Proposal, names: _Names, target: str, missing: str, *steps: str, text: bool = False) -> None:
    found = names.field(target)
    if found is None:
        proposal.put(target, '{constant = ""}', missing)
        return
    proposal.taken.add(found.path)
    proposal.put(target, _value(found, *steps, "text = true" if text and found.kind == "a number" else ""))


_PROPOSE: Mapping[str, Callable[[_Names], Proposal]] = {"customers": _customers, "events": _events}
