"""What commands print: one JSON object or tables on stdout; progress, notes and errors on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from llmops.errors import CannotRun

json_option = click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON object on stdout.")


def emit(as_json: bool, value: Mapping[str, Any], table: Callable[[], None]) -> None:
    """Prints the result: as JSON, or by calling `table`."""
    if as_json:
        click.echo(json.dumps(value, ensure_ascii=False, indent=2, default=str))
    else:
        table()


def say(text: str) -> None:
    """A note to the person at the terminal."""
    click.echo(text, err=True)


def write_file(path: Path, text: str) -> None:
    """Writes a file that the user asked for, and says so. Raises CannotRun."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CannotRun(f"{path}: cannot be written: {error.strerror}") from error
    say(f"wrote {path}")


def report_error(message: str, kind: str, code: int, as_json: bool, usage: click.ClickException | None = None) -> int:
    """One line on stderr that says what to do; with `--json`, an object on stdout too. Returns the exit code."""
    context = getattr(usage, "ctx", None)
    if context is not None:
        say(context.get_usage())
    say(f"error: {message}")
    if as_json:
        click.echo(json.dumps({"error": {"type": kind, "message": message}}, ensure_ascii=False))
    return code


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], caption: str | None = None) -> None:
    """A table on stdout; columns whose name ends in `#` are numbers, and are set right."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column.rstrip("#"), justify="right" if column.endswith("#") else "left", overflow="fold")
    for row in rows:
        table.add_row(*(str(value) for value in row))
    _console().print(table)


def _console() -> Any:
    from rich.console import Console

    # A file or pipe gets room for whole tables; a terminal has its own width.
    return Console() if sys.stdout.isatty() else Console(width=140)


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Gives `show(what, done, total)`: a bar on stderr, one for each `what`; nothing when stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total or None)
            bars.update(tasks[what], completed=done, total=total or None)

        yield show


def number(value: float | None, digits: int = 3) -> str:
    """A number for a table; `–` for none."""
    return "–" if value is None else f"{value:.{digits}f}"


def interval(ci95: Sequence[float] | None, digits: int = 3) -> str:
    """`0.412 to 0.588`; `–` for none."""
    return "–" if ci95 is None else f"{ci95[0]:.{digits}f} to {ci95[1]:.{digits}f}"
