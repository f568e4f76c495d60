"""Errors for files whose records are not found, each with the command that makes a file that can be read."""

from __future__ import annotations

import shlex

from streammig.errors import Unusable

BY_SETTING = (
    'Where its keys are the ids of records, set keyed = "id" in the table of the stage, and name the object if it is'
    " not the whole document: FILE#path.to.object."
)


def one_object(file: str, arrays: str, first: str) -> Unusable:
    """For one object with an id; `arrays` are those in it, one a line, `first` is how to name the first of them."""
    said = f"{file}: the file is one object with an id: a record, or a document with the records in an array:\n{arrays}"
    hint = f"Where it is a record: jq -c . {shlex.quote(file)} > EXPORT.ndjson. Else name the array: FILE#{first}."
    return Unusable("array-not-named", said, hint)


def keyed_object(file: str) -> Unusable:
    """For one object without an array of records."""
    said = f"{file}: the file is one object without an array of records: a record, or records by their keys"
    hint = f"Where it is a record: jq -c . {shlex.quote(file)} > EXPORT.ndjson. {by_keys(file)}"
    return Unusable("array-not-named", said, hint)


def by_keys(file: str) -> str:
    """What makes records of an object's values, with their keys as their ids."""
    lines = f"jq -c 'to_entries[] | {{id: .key}} + .value' {shlex.quote(file)} > EXPORT.ndjson"
    return f"{BY_SETTING} Or make lines of them: {lines}"


def lines_with_commas(file: str) -> Unusable:
    """For lines that are a record with a comma behind it each."""
    said = f"{file}: each line is a record with a comma behind it, which is neither JSON nor NDJSON"
    hint = f"Take the commas away: sed 's/,[[:space:]]*$//' {shlex.quote(file)} > EXPORT.ndjson"
    return Unusable("export-not-json", said, hint)
