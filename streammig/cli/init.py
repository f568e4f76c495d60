"""`streammig init`: look into an export, and write a first settings file for it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import click

from streammig.cli import options, say
from streammig.errors import Unusable, counted
from streammig.first_settings import Found, look, settings_text
from streammig.stages import STAGES

SHOWN = 60  # fields of one export


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--stage", type=click.Choice(STAGES), help="What the records are, if the guess is wrong.")
@click.option(
    "--keyed", metavar="FIELD", help="The records are the values of an object; their keys go into this field."
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("move.toml"), metavar="FILE",
    help="The settings file to write. [move.toml]",
)  # fmt: skip
@options.as_json()
def command(files: tuple[str, ...], stage: str | None, keyed: str | None, out: Path, as_json: bool) -> None:
    """Look into an export, and write a first settings file for it, with a mapping for you to mend.

    FILE is a file, a folder or a pattern in quotes. What is told of values is their form, never a value of a person.
    """
    if out.exists():
        raise Unusable("output-exists", f"{out} exists already", "Name another file with --out, or remove it.")
    found = [it for name in files for it in look(name, stage or "", keyed or "")]
    text, remarks = settings_text(found, out.parent)
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise Unusable("output-unusable", f"{out} can't be written: {error.strerror}", "Name another file.") from None
    if as_json:
        click.echo(
            json.dumps({"settings": str(out), "files": [_document(it) for it in found], "mend": remarks}, indent=2)
        )
        return
    for it in found:
        say(_table(it))
    for name, mend in remarks.items():
        for remark in mend:
            say(f"{name}: mend {remark}")
    say(f"{out} is written. Look at each line, then at the result, which sends nothing:")
    click.echo(shlex.join(["streammig", "run", str(out), "--dry-run", "look"]))


def _table(found: Found) -> str:
    """The fields of an export with the form of their values."""
    rows = [
        (it.path, f"{it.count / found.seen:.0%}", f"one of {', '.join(it.words)}" if it.words else it.form)
        for it in found.fields[:SHOWN]
    ]
    width = min(max((len(row[0]) for row in rows), default=0), 40)
    own = "have Masivo's form already" if found.fits else "need a mapping"
    lines = [f"{found.name}: {found.stage}, by its first {counted(found.seen, 'record')}; they {own}"]
    lines += [f"  {path:<{width}}  {share:>4}  {form}" for path, share, form in rows]
    return "\n".join(lines + ["  …"] * (len(found.fields) > SHOWN))


def _document(found: Found) -> dict[str, object]:
    return {
        "file": found.name, "stage": found.stage, "records": found.seen, "fits": found.fits,
        "delimiter": found.form.delimiter, "encoding": found.form.encoding,
        "fields": [{"field": it.path, "count": it.count, "form": it.form, "words": it.words} for it in found.fields],
    }  # fmt: skip
