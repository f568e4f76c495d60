"""Exports as files: opening them, finding the records in them, and framing these as spans with exact positions.

What counts as valid is RFC 8259 in UTF-8 without lone surrogates. Where the common parsers differ, this is on purpose:

- Control characters in strings, form feeds as white space, NaN and Infinity, trailing commas, leading zeros and
  comments are refused, as msgspec does. `json` takes NaN and Infinity, ijson takes form feeds and vertical tabs.
- Numbers of any length and exponent are valid and stay text; what they mean is for the rules. `json` and ijson fail on
  integers of more than 4,300 digits, ijson on exponents of more than 18.
- A key may be repeated in an object, as in `json`, ijson and msgspec; the rules see what their decoder makes of it.
- Invalid UTF-8 (also overlong forms and encoded surrogates) and lone surrogate escapes in a string of a record are
  that record's fault, the rest goes on. ijson turns the escapes into "?" or an error, `json` keeps them.
- Outside the array of records only the grammar counts: what text stands there may be another stage's records.
- A record nested deeper than the interpreter's recursion limit lets msgspec go (about 900 on Python 3.11) is at fault.
- Of a record over the size limit its first `max_record_bytes` are judged, and its end is told by quotes and brackets.
  Where that is not found within 16 times the limit, the export breaks off there (lines of NDJSON may be longer).
- One byte order mark at the beginning is skipped; its three bytes count in offsets.
- In an array, text that is no JSON ends the reading there, since it does not tell where the next record begins. In
  NDJSON it is one line's fault. A value on a line need not be an object, nor an element of an array: the rules judge.

How an export is told: with the setting `keyed` it is an object of records by their keys, with a path behind `#` a
document. Else it is NDJSON if its first lines are values by
themselves. Else it is a document whose array is obvious: the document itself, or the one array of objects at its top,
or, where it has no array of objects, the one empty array at its top. Arrays are looked for in the first 4 MiB. A
single object on a single line is a document if it holds such an array. It is a record if it holds none and has a
value besides objects and arrays, if its file is named .ndjson or .jsonl, or if it has an id and another file of the
stage is NDJSON.
"""

from streammig.sources.csv_rows import Form, check_form
from streammig.sources.files import FileSource, open_source
from streammig.sources.identity import comparable, hash_before, touched, with_samples
from streammig.sources.open import Input, Meter, parse_input

__all__ = [
    "FileSource",
    "Form",
    "Input",
    "Meter",
    "check_form",
    "comparable",
    "hash_before",
    "open_source",
    "parse_input",
    "touched",
    "with_samples",
]
