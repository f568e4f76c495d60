"""Reading of exports: opens files, finds the records, and frames them as spans with exact positions.

Valid means RFC 8259 in UTF-8 without lone surrogates. Common parsers differ from each other; these are our rules:

- As in msgspec, these are invalid: control characters in strings, form feeds as white space, NaN and Infinity, trailing
  commas, leading zeros, comments. `json` accepts NaN and Infinity, ijson accepts form feeds and vertical tabs.
- Numbers of any length and exponent are valid and stay text: the rules interpret them. `json` and ijson fail on
  integers of more than 4,300 digits, ijson on exponents of more than 18.
- A key may be repeated in an object, as in `json`, ijson and msgspec; the rules see the result of their decoder.
- Invalid UTF-8 (also overlong forms and encoded surrogates) and lone surrogate escapes are faults of their record, and
  reading goes on. ijson turns the escapes into "?" or an error, `json` keeps them.
- Outside the array of records only the grammar counts: the text there may be the records of another stage.
- A record is at fault if it is nested deeper than msgspec can go (about 900 levels on Python 3.11).
- In a record over the size limit, the first `max_record_bytes` are checked, and the end is found by quotes and
  brackets. If it has no end within 16 times the limit, the export breaks off there. Lines of NDJSON may be longer.
- One byte order mark at the beginning is skipped; its three bytes count in offsets.
- Invalid JSON in an array ends the reading, because the begin of the next record is uncertain. In NDJSON it is the
  fault of one line. Lines and elements need not be objects: the rules check that.

The format of an export is found in this order. With the setting `keyed` it is an object of records by their keys. With
a path after `#` it is a document. If its first lines are values by themselves, it is NDJSON. Else it is a document with
an obvious array: the document itself, the only array of objects at its top, or, if it has no array of objects, the
only empty array at its top. Arrays are searched in the first 4 MiB. A single object on a single line is a document if
it holds such an array. It is a record if it holds none and has a value besides objects and arrays, if its file is
named .ndjson or .jsonl, or if it has an id and another file of the stage is NDJSON.
"""

from streammig.sources.csv_rows import Form, check_form
from streammig.sources.files import FileSource, open_source
from streammig.sources.identity import comparable, content_of, hash_before, touched, with_samples
from streammig.sources.open import Input, Meter, parse_input

__all__ = [
    "FileSource",
    "Form",
    "Input",
    "Meter",
    "check_form",
    "comparable",
    "content_of",
    "hash_before",
    "open_source",
    "parse_input",
    "touched",
    "with_samples",
]
