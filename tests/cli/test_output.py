"""What texts of users, models and files can do to a terminal: nothing."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

import llmops.cli
from llmops.cli.output import echo, print_table, say
from tests.command_line import Run

HOSTILE = "[/x] [bold]b[/bold] :smile: \x1b]0;title\x07\x1b[2J\x9b\r\x7f\u202e"


def test_a_table_shows_markup_and_control_characters_in_every_part_literally(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_table(HOSTILE, (HOSTILE,), [(HOSTILE,)], caption=HOSTILE)
    shown = capsys.readouterr().out
    literal = r"[/x] [bold]b[/bold] :smile: \x1b]0;title\x07\x1b[2J\x9b\r\x7f\u202e"
    assert shown.count(literal) == 4
    assert not set(HOSTILE) & set("\x1b\x07\x9b\r\x7f\u202e") & set(shown)


def test_lines_and_notes_show_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    echo("\x1b[2J")
    say("\x1b[2J")
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("\\x1b[2J\n", "\\x1b[2J\n")


def test_a_logged_question_is_shown_literally_and_json_holds_the_very_text(llmops: Run, tmp_path: Path) -> None:
    record = {"request_id": "r1", "at": "2026-01-01T00:00:00Z", "release": "assistant@1", "input": HOSTILE[:12]}
    (tmp_path / "one.jsonl").write_text(json.dumps({**record, "output": "\x1b[2J[/y]"}) + "\n")
    assert llmops("log", "import", str(tmp_path / "one.jsonl")).code == 0
    tail = llmops("log", "tail")
    assert tail.code == 0
    assert "[/x]" in tail.out
    assert "\x1b" not in tail.out + llmops("log", "show", "r1").out
    assert llmops("log", "show", "r1", "--json").json["records"][0]["output"] == "\x1b[2J[/y]"


def test_an_error_shows_what_was_typed_literally(llmops: Run) -> None:
    for arguments in (("log", "show", "\x1b[2J"), ("--debug", "log", "show", "\x1b[2J"), ("log", "\x1b[2J")):
        done = llmops(*arguments)
        assert done.code in (2, 3)
        assert "\\x1b[2J" in done.err
        assert "\x1b" not in done.err


@pytest.mark.parametrize("path", sorted(Path(llmops.cli.__file__).parent.glob("*.py")), ids=lambda path: path.stem)
def test_every_command_prints_through_the_output_module(path: Path) -> None:
    if path.stem == "output":
        return
    called = {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    assert not called & {"click.echo", "click.secho", "sys.stdout", "rich.print"}, "print with llmops.cli.output.echo"
