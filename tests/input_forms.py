"""Exports in the forms that people have, one line each, and what becomes of them."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from typing import Any, NamedTuple

from tests.sandbox_caller import customer

COUNT = 4
PEOPLE = [customer(f"c{number}", email=f"c{number}@example.org") for number in range(COUNT)]


class Then(NamedTuple):
    """What becomes of an export: in words for the guide, the exit code, and how many of its four records are sent."""

    words: str
    exit: int
    sent: int


THEN = {
    "read": Then("All records are read.", 0, 4),
    "right": Then("The values are put right; all records are sent.", 0, 4),
    "warned": Then("All records are read, with a warning.", 0, 4),
    "letter": Then("The record becomes a dead letter; the others are sent.", 3, 3),
    "left-out": Then("The record is left out, and counted.", 0, 3),
    "first": Then("The first of two is sent; the other becomes a dead letter.", 3, 3),
    "empty": Then("Nothing is sent; it is asked whether this is the right file.", 0, 0),
    "none": Then("No record can be sent: it is said first.", 3, 0),
    "before": Then("What stands before the break is sent, with a warning.", 0, 4),
    "stops": Then("The run stops before the first request, and says what to do.", 2, 0),
}


class Case(NamedTuple):
    """An export: in words, its file, what that holds, and what becomes of it. `code` is that of the problem, or of the
    warning. `settings` stand in the table of the customers, below `common` ones."""

    words: str
    name: str
    content: bytes
    then: str
    code: str = ""
    settings: str = ""
    common: str = ""
    flags: tuple[str, ...] = ()


def dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def lines(people: list[Any], end: bytes = b"\n") -> bytes:
    return b"".join(dump(it) + end for it in people)


def with_one(**fields: Any) -> bytes:
    """As NDJSON, the third one with other fields."""
    return lines([{**it, **(fields if at == 2 else {})} for at, it in enumerate(PEOPLE)])


def table(delimiter: str = ",", end: str = "\r\n") -> str:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator=end)
    writer.writerow(["ID", "Name", "Mail", "Since"])
    writer.writerows([it["id"], "Ana\nPérez", it["email"], "04/05/2019"] for it in PEOPLE)
    return out.getvalue()


def tar(data: bytes, mode: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        entry = tarfile.TarInfo("a.ndjson")
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def zipped(data: bytes, name: str = "a.ndjson") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, data)
    return out.getvalue()


FIELDS = """
fields.id = "ID"
fields.name = "Name"
fields.email = "Mail"
fields.registration_date = {field = "Since", date = "%d/%m/%Y", zone = "UTC"}
fields.balance = []
"""
LINES, ARRAY = lines(PEOPLE), dump(PEOPLE)
PRETTY = b"\n".join(json.dumps(it, indent=2).encode() for it in PEOPLE)
KEYED = {it["id"]: {name: value for name, value in it.items() if name != "id"} for it in PEOPLE}
TYPO = FIELDS.replace('"Name"', '"Nmae"')
SOURCE = lines([{"ID": it["id"], "Name": "Ana", "Mail": it["email"], "Since": "04/05/2019"} for it in PEOPLE])
ACCEPT = ("--accept-broken-end",)

CASES = [
    Case("an array", "c.json", ARRAY, "read"),
    Case("an array, pretty-printed", "c.json", json.dumps(PEOPLE, indent=1).encode(), "read"),
    Case("an array in an object", "c.json", dump({"made": "today", "rows": PEOPLE}), "read"),
    Case("an array deep in an object", "c.json", dump({"a": {"b": PEOPLE}}), "stops", "array-not-named"),
    Case("two arrays of objects", "c.json", dump({"a": PEOPLE, "b": PEOPLE}), "stops", "array-not-named"),
    Case("an empty array", "c.json", b"[]", "empty"),
    Case("NDJSON", "c.ndjson", LINES, "read"),
    Case("NDJSON with CRLF", "c.ndjson", lines(PEOPLE, b"\r\n"), "read"),
    Case("NDJSON with empty lines", "c.ndjson", lines(PEOPLE, b"\n\n"), "read"),
    Case("NDJSON without a line break at its end", "c.ndjson", LINES.rstrip(), "read"),
    Case("NDJSON whose lines end in commas", "c.ndjson", lines(PEOPLE, b",\n"), "stops", "export-not-json"),
    Case("NDJSON with a damaged line", "c.ndjson", LINES.replace(b'"c2"', b'"c2', 1), "letter"),
    Case("NDJSON with a line that is no object", "c.ndjson", lines([*PEOPLE[:3], 7]), "letter"),
    Case("NDJSON with `NaN`", "c.ndjson", LINES.replace(b'"c2"', b"NaN", 1), "letter"),
    Case("documents in a row, as `jq` prints them", "c.json", PRETTY, "read"),
    Case("documents side by side", "c.json", lines(PEOPLE, b""), "read"),
    Case("one customer alone, pretty-printed", "c.json", json.dumps(PEOPLE[0], indent=1).encode(), "stops",
         "array-not-named"),
    Case("an object keyed by id", "c.json", dump(KEYED), "stops", "array-not-named"),
    Case("an object keyed by id, with `keyed`", "c.json", dump(KEYED), "read", settings='keyed = "id"'),
    Case("an object keyed by id, under a path", "c.json#of.them", dump({"of": {"them": KEYED}}), "read",
         settings='keyed = "id"'),
    Case("an array, with `keyed`", "c.json", ARRAY, "stops", "array-not-found", settings='keyed = "id"'),
    Case("a byte order mark", "c.json", b"\xef\xbb\xbf" + ARRAY, "read"),
    Case("UTF-16", "c.json", ARRAY.decode().encode("utf-16"), "stops", "export-not-utf8"),
    Case("UTF-16 in gzip", "c.json.gz", gzip.compress(ARRAY.decode().encode("utf-16")), "stops", "export-not-utf8"),
    Case("one record that is not UTF-8", "c.ndjson", LINES.replace(b'"c2"', b'"c\xff2"', 1), "letter"),
    Case("Latin-1 in every record", "c.ndjson", LINES.replace(b'"id"', b'"\xe9": 1, "id"'), "none"),
    Case("a trailing comma", "c.json", ARRAY[:-1] + b",]", "stops", "export-broken"),
    Case("a cut end", "c.json", ARRAY[:-1], "stops", "export-broken"),
    Case("a cut end, with `--accept-broken-end`", "c.json", ARRAY[:-1], "before", "broken-end", flags=ACCEPT),
    Case("`NaN` in an array", "c.json", ARRAY.replace(b'"c2"', b"NaN", 1), "stops", "export-broken"),
    Case("CRLF behind the document", "c.json", ARRAY + b"\r\n\r\n", "read"),
    Case("`(4 rows)` behind the document", "c.json", ARRAY + b"\n(4 rows)\n", "warned", "text-behind-end"),
    Case("zeros behind the document", "c.json", ARRAY + b"\0" * 512, "warned", "text-behind-end"),
    Case("gzip", "c.ndjson.gz", gzip.compress(LINES), "read"),
    Case("gzip in two members", "c.ndjson.gz", gzip.compress(LINES[:50]) + gzip.compress(LINES[50:]), "read"),
    Case("gzip with CRLF behind it", "c.ndjson.gz", gzip.compress(LINES) + b"\r\n", "warned", "text-behind-end"),
    Case("gzip with zeros behind it", "c.ndjson.gz", gzip.compress(LINES) + b"\0" * 512, "read"),
    Case("gzip that is cut", "c.ndjson.gz", gzip.compress(LINES)[:-12], "stops", "export-broken"),
    Case("gzip in gzip", "c.ndjson.gz", gzip.compress(gzip.compress(LINES)), "stops", "export-packed"),
    Case("xz", "c.ndjson.xz", lzma.compress(LINES), "read"),
    Case("bzip2", "c.ndjson.bz2", bz2.compress(LINES), "read"),
    Case("tar", "c.tar", tar(LINES, "w"), "stops", "export-packed"),
    Case("tar in gzip", "c.tar.gz", tar(LINES, "w:gz"), "stops", "export-packed"),
    Case("zip", "c.zip", zipped(LINES), "stops", "export-packed"),
    Case("a workbook of Excel", "c.xlsx", zipped(LINES, "[Content_Types].xml"), "stops", "export-packed"),
    Case("CSV with declared fields, and line breaks in quotes", "c.csv", table().encode(), "read", settings=FIELDS),
    Case("CSV with a byte order mark", "c.csv", ("\ufeff" + table()).encode(), "read", settings=FIELDS),
    Case("CSV in gzip", "c.csv.gz", gzip.compress(table().encode()), "read", settings=FIELDS),
    Case("TSV", "c.tsv", table("\t", "\n").encode(), "read", settings=FIELDS),
    Case("CSV with semicolons", "c.csv", table(";").encode(), "read", settings=FIELDS + 'delimiter = ";"'),
    Case("CSV in Latin-1", "c.csv", table().encode("latin-1"), "read", settings=FIELDS + 'encoding = "latin-1"'),
    Case("CSV with a row of too many fields", "c.csv", table().replace("c2@", "7,c2@").encode(), "letter",
         settings=FIELDS),
    Case("CSV whose header lacks a declared field", "c.csv", table().encode(), "stops", "fields-invalid",
         settings=TYPO),
    Case("CSV without a mapping", "c.csv", table().encode(), "none"),
    Case("JSON without a declared field", "c.ndjson", SOURCE, "none", "field-unseen", settings=TYPO),
    Case("JSON with declared fields", "c.ndjson", SOURCE, "read", settings=FIELDS),
    Case("a file of another stage", "c.ndjson", lines([{"order": 1, "total": 2}] * 4), "none"),
    Case("a field that may mark deleted customers", "c.ndjson", with_one(deleted=True), "stops", "deleted-unclear"),
    Case("deleted customers, by the setting `deleted`", "c.ndjson", with_one(deleted=True), "left-out",
         settings='deleted = ["deleted"]'),
    Case("the same id twice", "c.ndjson", with_one(id="c1"), "first"),
    Case("the same e-mail twice, in capitals", "c.ndjson", with_one(email="C1@EXAMPLE.ORG"), "first"),
    Case("`straße@` beside `strasse@`", "c.ndjson",
         lines([PEOPLE[0], PEOPLE[1], {**PEOPLE[2], "email": "straße@example.org"},
                {**PEOPLE[3], "email": "strasse@example.org"}]), "read"),
    Case("a date with `+0200`", "c.ndjson", with_one(registration_date="2020-01-02T03:04:05+0200"), "right"),
    Case("a date with a blank for the T", "c.ndjson", with_one(registration_date="2020-01-02 03:04:05Z"), "right"),
    Case("a date without a time", "c.ndjson", with_one(registration_date="2020-01-02"), "letter"),
    Case("a date without a time, with `time_zone` and `time_of_day`", "c.ndjson",
         with_one(registration_date="2020-01-02"), "right", common='time_zone = "UTC"\ntime_of_day = "00:00:00"'),
    Case("a date in seconds since 1970", "c.ndjson", with_one(registration_date=1577934245), "letter"),
    Case("an e-mail with `mailto:`", "c.ndjson", with_one(email="mailto:a@example.org"), "letter"),
    Case("an e-mail with a comma", "c.ndjson", with_one(email="a,b@example.org"), "letter"),
    Case("an e-mail with 65 letters before its @", "c.ndjson", with_one(email="a" * 65 + "@example.org"), "letter"),
    Case("an e-mail with blanks around", "c.ndjson", with_one(email=" a@example.org "), "letter"),
    Case("an e-mail with blanks around, with `trim_emails`", "c.ndjson", with_one(email=" a@example.org "), "right",
         common="trim_emails = true"),
    Case("`null` in an optional field", "c.ndjson", with_one(gender=None), "right"),
    Case("a field that the target does not know", "c.ndjson", with_one(shoe_size=7), "right"),
    Case("a text where a number belongs", "c.ndjson", with_one(balance="7"), "letter"),
    Case("a key that is repeated in a record", "c.ndjson", LINES.replace(b'"id": "c2"', b'"id": "c2", "id": "c9"'),
         "letter"),
]  # fmt: skip
