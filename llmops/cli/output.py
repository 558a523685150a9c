"""What commands print: one JSON object or tables on stdout; progress, notes and errors on stderr.

Everything goes through here, because texts of users, models and files must not act on the terminal: no markup in them
is obeyed, and control characters are shown (`llmops.text_io`).
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from llmops.errors import UsageError
from llmops.pages.tables import Block, Shown
from llmops.text_io import printable, printable_json, write_text

FILE = click.Path(path_type=Path, dir_okay=False)
json_option = click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON object on stdout.")


def on_option(what: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """`--on`: in this process, or on a Ray cluster. what: the beginning of its help."""

    def checked(_ctx: click.Context, _parameter: click.Parameter, on: str) -> str:
        if not re.fullmatch(r"local|ray(://[^/\s]+:\d+)?", on):
            raise click.BadParameter(f"{on}: must be local, ray or ray://HOST:PORT")
        return on

    return click.option(
        "--on",
        default="local",
        metavar="local|ray[://HOST:PORT]",
        callback=checked,
        help=f"{what}: in this process, or on a Ray cluster: the one whose client port is given, else that of"
        " RAY_ADDRESS, else one started for the run.",
    )


def emit(as_json: bool, value: Mapping[str, Any], table: Callable[[], None]) -> None:
    """Prints the result: as JSON, or by calling `table`."""
    if as_json:
        click.echo(printable_json(value, indent=2))
    else:
        table()


def emit_result(as_json: bool, result: Shown) -> None:
    """Prints a result of the Python API, and says what is to be known besides."""
    for note in result.notes:
        say(note)
    emit(as_json, result.to_dict(), lambda: show(result.blocks()))


def show(blocks: Iterable[Block]) -> None:
    """Tables and lines of text, on stdout."""
    for block in blocks:
        if isinstance(block, str):
            echo(block)
        else:
            print_table(block.title, block.columns, block.rows, block.caption)


def echo(text: str, *, nl: bool = True) -> None:
    """A line of the result, on stdout. nl: with a line end."""
    click.echo(printable(text), nl=nl)


def row_count(n: int) -> str:
    """`1 row`, `2 rows`."""
    return f"{n} row{'' if n == 1 else 's'}"


def say(text: str) -> None:
    """A note to the person at the terminal."""
    click.echo(printable(text), err=True)


def json_values(option: str, texts: Sequence[str]) -> dict[str, Any]:
    """The `KEY=VALUE` texts of an option; a value is read as JSON, else as text. Raises UsageError."""
    values: dict[str, Any] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise UsageError(f"{option} {text}: must be KEY=VALUE")
        try:
            values[name] = json.loads(value)
        except ValueError:
            values[name] = value
    return values


def write_file(path: Path, text: str) -> None:
    """Writes a file that the user asked for, and says so. Raises CannotRun."""
    write_text(path, text)
    say(f"wrote {path}")


def report_error(message: str, kind: str, code: int, as_json: bool, usage: click.ClickException | None = None) -> int:
    """One line on stderr that says what to do; with `--json`, an object on stdout too. Returns the exit code."""
    context = getattr(usage, "ctx", None)
    if context is not None:
        say(context.get_usage())
    say(f"error: {message}")
    if as_json:
        click.echo(printable_json({"error": {"type": kind, "message": message}}))
    return code


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], caption: str | None = None) -> None:
    """A table on stdout; columns whose name ends in `#` are numbers, and are set right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=_text(title, "table.title"), title_justify="left", caption_justify="left", header_style="bold")
    table.caption = None if caption is None else _text(caption, "table.caption")
    for column in columns:
        justify: Any = "right" if column.endswith("#") else "left"
        table.add_column(_text(column.rstrip("#")), justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*(_text(str(value)) for value in row))
    # A file or pipe gets room for whole tables; a terminal has its own width.
    console = Console() if sys.stdout.isatty() else Console(width=140)
    console.print(table)


def _text(text: str, style: str = "") -> Any:
    """The text as rich shows it literally: a plain string would be read as markup, in which `[x]` is a style."""
    from rich.text import Text

    return Text(printable(text), style=style)
