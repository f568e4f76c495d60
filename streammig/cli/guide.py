"""`streammig guide`: the manual, one page a topic."""

from __future__ import annotations

import re
import sys
from importlib.resources import files

import click

from streammig.errors import Unusable

PAGES = files("streammig") / "guide"


@click.command()
@click.argument("topic", required=False)
def command(topic: str | None) -> None:
    """Show the page of the manual on TOPIC, or the list of topics."""
    titles = topics()
    if topic is None:
        width = max(map(len, titles))
        click.echo("\n".join(f"{name:<{width}}  {title}" for name, title in titles.items()))
        click.echo("\nBegin with: streammig guide first-migration", err=True)
    elif topic not in titles:
        raise Unusable("topic-unknown", f"the guide has no topic {topic}", f"Choose one of: {', '.join(titles)}.")
    elif sys.stdout.isatty():
        click.echo_via_pager(page(topic))
    else:
        click.echo(page(topic), nl=False)


def topics() -> dict[str, str]:
    """The title of each page by its topic, in alphabetical order."""
    names = sorted(it.name.removesuffix(".md") for it in PAGES.iterdir() if it.name.endswith(".md"))
    return {name: page(name).partition("\n")[0].removeprefix("# ") for name in names}


def page(topic: str) -> str:
    """The Markdown of a page, without the comments that are meant for its tests."""
    return re.sub(r"(?m)^<!--.*-->\n", "", (PAGES / f"{topic}.md").read_text(encoding="utf-8"))
