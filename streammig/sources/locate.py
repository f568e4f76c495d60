"""Detection of an export's format, and search for the array of records in a document.

The array must be obvious: the document itself, or the only array of objects at its top.
"""

from __future__ import annotations

import codecs
import re
import shlex
from collections.abc import Sequence
from typing import NamedTuple

import ijson
import msgspec

from streammig.errors import BrokenExport, Problem, Unusable
from streammig.sources.csv_rows import Form, Header, read_header
from streammig.sources.documents import are_in_a_row
from streammig.sources.open import Input, Meter, Path, leads_to, path_text
from streammig.sources.packed import ENDING
from streammig.sources.valid import WHITE, decodes, is_cut_off, without_surrogates
from streammig.sources.walk import EMPTY, OBJECTS, SOLID, Seen, Walk
from streammig.sources.window import Window, skip_bom

JSON, NDJSON, CSV, DOCUMENTS, KEYED = "json", "ndjson", "csv", "documents", "keyed"
# Arrays are searched in the first 4 MiB (10 ms). If no array of objects begins there, the next one counts. After
# 256 MiB the search ends with an error: it must not take an hour.
LOOK_BYTES = 4 * 1024 * 1024
LOOK_AT_MOST = 256 * 1024 * 1024
LISTED = 20  # arrays named in a message
BY_SETTING = (
    'If its keys are the ids of records, set keyed = "id" in the table of the stage, and name the object if it is'
    " not the whole document: FILE#path.to.object."
)

_LINE_NAMES = re.compile(r"\.(ndjson|jsonl)" + ENDING, re.IGNORECASE)
_ROW_NAMES = re.compile(r"\.(csv|tsv|tab)" + ENDING, re.IGNORECASE)
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_COMMAS = re.compile(rb"\{[^\n]*\},[ \t\r]*\n[ \t]*\{")


class Layout(NamedTuple):
    """How to read a file: its format; for a document, the path of the array or object, and whether it is empty."""

    format: str
    path: Path = ()
    empty: bool = False
    header: Header | None = None  # of CSV


def check_backend() -> None:
    """Raise Problem if ijson lacks its C backend: the pure Python ones are 20 times slower."""
    if ijson.backend != "yajl2_c":
        raise Problem(
            "ijson-backend",
            f"ijson runs with its backend {ijson.backend}, yajl2_c is needed to read an export at speed",
            "Unset IJSON_BACKEND, or install an ijson wheel for this platform: pip install --force-reinstall ijson.",
        )


def locate(window: Window, wanted: Input, meter: Meter, *, lines: bool = False, form: Form | None = None) -> Layout:
    """Detect the layout of the file in a fresh window.

    `lines`: other files of the stage are NDJSON, so one object with an id is a record. Raises Unusable if the layout is
    not obvious or the array is missing, and BrokenExport if the document breaks off before an array.
    """
    at = first_byte(window)
    if form is not None and form.keyed:
        _refuse_other(window, at)
        seen, _ = walk_to(window, at, wanted.path or (), meter, keyed=True)
        return Layout(KEYED, seen.path, seen.kind == EMPTY)
    if form is not None and (form.delimiter or _ROW_NAMES.search(wanted.file)) and wanted.path is None:
        return Layout(CSV, header=read_header(window, skip_bom(window), form))
    if wanted.path is not None:
        _refuse_other(window, at)
        seen, _ = walk_to(window, at, wanted.path, meter)
        return Layout(JSON, seen.path, seen.kind == EMPTY)
    while window.end - at < LOOK_BYTES and window.fill(at, LOOK_BYTES):
        pass
    head = window.data[at - window.base :]
    if _is_lines(head) or _is_one_line(head, wanted, lines):
        return Layout(NDJSON)
    _refuse_other(window, at)
    if are_in_a_row(head):
        return Layout(DOCUMENTS)
    if _COMMAS.match(head) and decodes(head[: head.index(b"\n")].rstrip(WHITE + b",")):
        raise Unusable(
            "export-not-json",
            f"{window.file}: each line is a record followed by a comma, which is neither JSON nor NDJSON",
            f"Remove the commas: sed 's/,[[:space:]]*$//' {shlex.quote(window.file)} > EXPORT.ndjson",
        )
    if head.startswith(b"["):
        return Layout(JSON, (), walk_to(window, at, (), meter)[0].kind == EMPTY)
    return _obvious(window, at, head, meter)


def _is_one_line(head: bytes, wanted: Input, lines: bool) -> bool:
    """Tell whether the only line of an export is a record, by the file's name or by the other files of the stage."""
    if not head.startswith(b"{") or b"\n" in head.strip(WHITE):
        return False
    if _LINE_NAMES.search(wanted.file):
        return True
    return lines and decodes(head) and "id" in _MEMBERS.decode(head)


def _obvious(window: Window, at: int, head: bytes, meter: Meter) -> Layout:
    """Return the layout of a document with an obvious array of records. Raises Unusable if there is none."""
    whole = decodes(head)
    single = whole and b"\n" not in head.strip(WHITE)
    found, end = _survey(window, at, meter)
    of_objects = [seen.path for seen in found if seen.kind == OBJECTS]
    top, empty = ([it.path for it in found if it.kind == kind and len(it.path) == 1] for kind in (OBJECTS, EMPTY))
    one = whole and not single and "id" in _MEMBERS.decode(head)  # it may be one record with arrays
    if len(top) == 1 and not one:
        return Layout(JSON, top[0])
    if not of_objects and single and _holds_values(head):
        return Layout(NDJSON)
    if not of_objects and len(empty) == 1 and not one:
        return Layout(JSON, empty[0], empty=True)
    if one:
        raise _one_object(window.file, found)
    if whole and not found and all(bytes(value).startswith(b"{") for value in _MEMBERS.decode(head).values()):
        said = f"{window.file}: the file is one object without an array of records: a record, or records by their keys"
        raise Unusable("array-not-named", said, f"{_as_record(window.file)} {_by_keys(window.file)}")
    raise Unusable(
        "array-not-named",
        f"{window.file}: the array of records is not obvious: arrays of objects at the document's top: {len(top)};"
        f" arrays seen up to byte {end}:\n{_listing(found)}",
        f"Name the array to read: FILE#{path_text(of_objects[0]) if of_objects else 'path.to.array'}."
        + " If each line is a record, name the file .ndjson." * single
        + f" {_by_keys(window.file)}" * all(len(seen.path) > 1 for seen in found),
    )


def _one_object(file: str, found: Sequence[Seen]) -> Unusable:
    """Return the error for a file that is one object with an id, and with these arrays."""
    first = path_text(found[0].path) if found else "path.to.array"
    said = f"{file}: the file is one object with an id: a record, or a document with the records in an array:"
    hint = f"{_as_record(file)} Else name the array: FILE#{first}."
    return Unusable("array-not-named", f"{said}\n{_listing(found)}", hint)


def _as_record(file: str) -> str:
    return f"If it is a record: jq -c . {shlex.quote(file)} > EXPORT.ndjson."


def _by_keys(file: str) -> str:
    """Return the hint for an object of records by their keys."""
    lines = f"jq -c 'to_entries[] | {{id: .key}} + .value' {shlex.quote(file)} > EXPORT.ndjson"
    return f"{BY_SETTING} Or make lines of them: {lines}"


def first_byte(window: Window) -> int:
    """Return the offset of the first byte of a fresh window after a byte order mark and white space."""
    at = skip_bom(window)
    head = window.data[:4]
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in head:
        raise Unusable(
            "export-not-utf8",
            f"{window.file}: the export must be UTF-8, this looks like UTF-16 or UTF-32",
            "Convert it first: iconv -f UTF-16 -t UTF-8 FILE > FILE.utf8",
        )
    while not (found := SOLID.search(window.data, at - window.base)):
        at = window.end
        if not window.fill(at):
            window.finish()
            raise Unusable("export-empty", f"{window.file}: the export holds only white space")
    return window.base + found.start()


def walk_to(window: Window, at: int, wanted: Sequence[str], meter: Meter, *, keyed: bool = False) -> tuple[Seen, int]:
    """Find the array (or the object, if `keyed`) at a path of the document that begins at an offset.

    Returns it, and the offset after its opening bracket. Raises Unusable if there is none, and BrokenExport if the
    document breaks off.
    """
    segments, found = tuple(wanted), list[Seen]()
    walk = Walk(window, at, meter, wanted=segments, keyed=keyed)
    while walk.to_array():
        path, behind = walk.path, walk.at
        if leads_to(segments, path) and walk.at_object == keyed:
            return Seen(path, walk.kind()), behind
        if walk.at_object:
            continue
        found.append(Seen(path, walk.kind()))
        if not leads_to(segments[: len(path)], path):
            walk.pass_over()
    walk.end()
    hint = "Name the array to read: FILE#path.to.array."
    if keyed:
        hint = "Remove keyed from the table of the stage, or name the object: FILE#path.to.object."
    elif walk.has_object:
        hint += f" {BY_SETTING}"
    what, where = "object" if keyed else "array", path_text(segments) or "its top"
    said = f"{window.file}: there is no {what} at {where}; arrays seen:\n{_listing(found)}"
    raise Unusable("array-not-found", said, hint)


def check_rest(window: Window, at: int, path: Path, meter: Meter, *, keyed: bool = False) -> None:
    """Raise BrokenExport if the document is not complete and valid after the array (or `keyed` object) at `path`."""
    walk = Walk(window, at, meter, behind=path, keyed=keyed)
    while walk.to_array():
        if not walk.at_object:
            walk.pass_over()
    walk.end()


def _survey(window: Window, at: int, meter: Meter) -> tuple[list[Seen], int]:
    """Return the arrays of the document that begins at an offset, without those in records, and the search's end."""
    walk, found, obvious = Walk(window, at, meter), list[Seen](), False
    try:
        while walk.to_array(at + (LOOK_BYTES if obvious else LOOK_AT_MOST)):
            found.append(Seen(walk.path, walk.kind()))
            obvious = obvious or (found[-1].kind == OBJECTS and len(found[-1].path) == 1)
            walk.pass_over(at + (LOOK_BYTES if obvious else LOOK_AT_MOST))
        if not obvious and walk.at < at + LOOK_AT_MOST:
            walk.end()
    except BrokenExport:
        if not obvious:
            raise
        # The reading of the array will raise it again, after the records before it.
    return found, walk.at


def _listing(found: Sequence[Seen]) -> str:
    """List arrays for a message, one a line."""
    listed = [f"  {path_text(seen.path) or '(the whole document)'}: {seen.kind}" for seen in found]
    return "\n".join(listed[:LISTED] + ["  ..."] * (len(listed) > LISTED)) or "  none"


def _refuse_other(window: Window, at: int) -> None:
    if window.data[at - window.base] not in b"[{":
        raise Unusable(
            "export-not-json",
            f"{window.file}: the export begins with neither an object nor an array",
            "Export it as JSON: one array of records, a document that holds one, or one record a line.",
        )


def _is_lines(head: bytes) -> bool:
    """Tell whether an export with this beginning is NDJSON, by its first two lines that are not blank.

    If the first line is a value: it is NDJSON if an object begins on a later line, unless the value is an array that is
    not empty. If the first line is no value: it is NDJSON if the second is an object, and both together can't begin a
    document. A later line may begin with a byte order mark, as in concatenated files: that is a fault of the line.
    """
    if b"\n" not in head.strip(WHITE):
        return False
    lines = (line for raw in re.finditer(rb"[^\n]+", head) if (line := raw.group().strip(WHITE)))
    first, second = next(lines, b""), next(lines, b"")
    if decodes(first):
        document = first.startswith(b"[") and first.strip(b"[]" + WHITE)
        return not document and any(line.removeprefix(codecs.BOM_UTF8).startswith(b"{") for line in (second, *lines))
    if not (second.startswith(b"{") and decodes(second)):
        return False
    return not is_cut_off(without_surrogates(first + b"\n" + second))


def _holds_values(head: bytes) -> bool:
    """Tell whether an object has values other than objects and arrays: then it may be a record."""
    return any(value[:1] not in b"{[" for value in map(bytes, _MEMBERS.decode(head).values()))
