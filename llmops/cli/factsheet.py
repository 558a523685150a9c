"""`llmops factsheet`."""

from __future__ import annotations

from pathlib import Path

import click

from llmops.cli.output import echo, emit, json_option, say, write_file
from llmops.settings import Settings

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("version")
@click.option("--markdown", type=_FILE, help="Write Markdown to this file instead of the terminal.")
@click.option("--html", type=_FILE, help="Write one page that works offline.")
@json_option
def command(version: str, markdown: Path | None, html: Path | None, as_json: bool) -> None:
    """One page with the recorded facts about a release or a tabular model, from the registry and the audit log only.

    It shows the version's parts, data and licences with hashes, who did what when, evaluations with intervals and
    slices, gates, periods as champion, alarms, known limits, and missing facts.

    \b
    Example: llmops factsheet assistant@1
    Example: llmops factsheet bike --html bike.html
    """
    from llmops.factsheet.collecting import make_factsheet
    from llmops.factsheet.rendering import markdown as as_markdown
    from llmops.factsheet.rendering import write_html
    from llmops.registry import Registry

    settings = Settings.from_environment()
    sheet = make_factsheet(Registry(settings), version)
    if markdown is not None:
        write_file(markdown, as_markdown(sheet))
    if html is not None:
        write_html(sheet, html)
        say(f"wrote {html}")
    if as_json or not (markdown or html):
        emit(as_json, sheet.to_json(), lambda: echo(as_markdown(sheet), nl=False))
