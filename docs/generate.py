"""Writes the generated pages of docs/: `python docs/generate.py`. `tests/test_docs.py` fails when they are stale."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from docs.notebooks import notebook
from docs.scorer_page import scorers_page
from llmops.cli import cli
from llmops.settings import describe

DOCS = Path(__file__).parent
LABS = ("bike", "wine", "insurance")


def pages() -> dict[Path, str]:
    """Every generated page: path and text."""
    guides = [DOCS / "python.md", *(DOCS / "labs" / f"{lab}.md" for lab in LABS)]
    notebooks = {guide.with_suffix(".ipynb"): notebook(guide) for guide in guides}
    return {
        DOCS / "cli.md": _cli_page(),
        DOCS / "settings.md": _settings_page(),
        DOCS / "scorers.md": scorers_page(),
        **notebooks,
    }


def _cli_page() -> str:
    lines = [
        "# Command line",
        "",
        "Written by `make docs` from `--help`. Exit codes: 0 done or verdict good, 1 verdict",
    ]
    lines += ["negative, 2 usage, 3 could not run.", ""]
    # With the program's own settings: click keeps a command's help option from its first use, whoever makes it.
    context = click.Context(cli, info_name="llmops", terminal_width=100, **cli.context_settings)
    for command, command_context in _walk(cli, context):
        lines += [f"## {command_context.command_path}", "", "```"]
        lines += [line.rstrip() for line in command.get_help(command_context).splitlines()]
        lines += ["```", ""]
    return "\n".join(lines)


def _walk(command: click.Command, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    yield command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            member = command.get_command(context, name)
            assert member is not None
            yield from _walk(member, click.Context(member, parent=context, info_name=name, terminal_width=100))


def _settings_page() -> str:
    lines = [
        "# Settings",
        "",
        "Environment variables; an unknown `LLMOPS_*` variable is an error. Written by `make docs`.",
        "",
    ]
    lines += ["| variable | default | meaning |", "| --- | --- | --- |"]
    lines += [f"| `{name}` | {f'`{default}`' if default else ''} | {text} |" for name, default, text in describe()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
