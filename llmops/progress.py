"""Progress of long work: bars on standard error, on a terminal and in a notebook; nothing elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from llmops.text_io import printable

ShowProgress = Callable[[str, int, int], None]
"""Told what is done, how much of it, and of how much; 0: nobody knows."""


@contextmanager
def progress_bar(wanted: bool = True) -> Iterator[ShowProgress]:
    """Gives `show(what, done, total)`: a bar for each `what`."""
    if wanted and "ipykernel" in sys.modules:
        yield from _in_notebook()
    elif wanted and sys.stderr.isatty():
        yield from _on_terminal()
    else:
        yield lambda *_: None


def _on_terminal() -> Iterator[ShowProgress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(printable(what, one_line=True), total=total or None)
            bars.update(tasks[what], completed=done, total=total or None)

        yield show


def _in_notebook() -> Iterator[ShowProgress]:
    """As text, which every notebook shows, also without the widgets that few have installed."""
    from tqdm import tqdm

    with ExitStack() as stack:
        bars: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in bars:
                bars[what] = stack.enter_context(tqdm(desc=printable(what, one_line=True), leave=False, disable=False))
            bars[what].total = total or None
            bars[what].update(done - bars[what].n)

        yield show
