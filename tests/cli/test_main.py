"""Exit codes, `--json` and errors, alike for every command."""

import ast
import json
from pathlib import Path

import pytest

import llmops.cli
from llmops.cli.output import echo, print_table, say
from llmops.errors import UnknownVersion


def test_help_exits_0_and_lists_every_command(llmops):
    done = llmops("--help")
    assert done.code == 0
    for name in ("doctor", "models", "prompts", "release", "eval", "promote", "serve", "log", "monitor", "ui", "demo"):
        assert f"  {name} " in done.out


@pytest.mark.parametrize(
    "arguments", [("nonsense",), ("eval", "run"), ("log", "tail", "--nonsense"), ("eval", "gate", "x")]
)
def test_wrong_usage_exits_2_and_says_how(llmops, arguments):
    done = llmops(*arguments).refused(2, "error: ")
    assert done.out == ""


@pytest.mark.parametrize("arguments", [(), ("keys",)])
def test_a_command_that_lacks_its_subcommand_shows_its_help_once(llmops, arguments):
    done = llmops(*arguments)
    assert done.code == 2
    assert done.out.count("Usage: ") == 1
    assert done.err == ""


def test_a_home_that_a_command_makes_is_named_once(llmops, home):
    said = f"{home} is new"
    assert said in llmops("keys", "list").err
    assert said not in llmops("keys", "list").err


def test_an_error_is_one_line_or_one_object_and_debug_shows_the_traceback_too(llmops):
    done = llmops("prompts", "show", "nonsense@1")
    assert done.code == 3
    assert done.err.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.err
    for what in (("eval", "run", "nonsense"), ("promote", "assistant@99"), ("log", "show", "x")):
        done = llmops(*what, "--json")
        assert (done.code, done.json["error"]["type"]) == (3, "UnknownVersion")
        *notes, last = done.err.strip().splitlines()
        assert last.startswith("error: ")
        assert len(notes) <= 1  # which folder was read
    assert "there are extract, grounded, qa" in llmops("eval", "run", "nonsense").err
    done = llmops("--debug", "eval", "run", "nonsense").refused(
        UnknownVersion.exit_code, "Traceback (most recent call last)"
    )
    assert done.err.strip().splitlines()[-1].startswith("error: ")


def test_an_unknown_setting_names_the_nearest_and_an_unreachable_store_exits_3(llmops, monkeypatch):
    monkeypatch.setenv("LLMOPS_HOEM", "x")
    llmops("prompts", "list").refused(2, "LLMOPS_HOEM; did you mean LLMOPS_HOME?")
    monkeypatch.delenv("LLMOPS_HOEM")
    monkeypatch.setenv("LLMOPS_TRACKING_URI", "sqlite:////proc/nowhere/mlflow.db")
    llmops("prompts", "list").refused(3, "MLflow store")


HOSTILE = "[/x] [bold]b[/bold] :smile: \x1b]0;title\x07\x1b[2J\x9b\r\x7f\u202e"


def test_tables_lines_and_notes_show_markup_and_control_characters_literally(capsys):
    print_table(HOSTILE, (HOSTILE,), [(HOSTILE,)], caption=HOSTILE)
    shown = capsys.readouterr().out
    literal = r"[/x] [bold]b[/bold] :smile: \x1b]0;title\x07\x1b[2J\x9b\r\x7f\u202e"
    assert shown.count(literal) == 4
    assert not set(HOSTILE) & set("\x1b\x07\x9b\r\x7f\u202e") & set(shown)
    echo("\x1b[2J")
    say("\x1b[2J")
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("\\x1b[2J\n", "\\x1b[2J\n")


def test_texts_of_a_log_and_of_the_command_line_are_shown_literally(llmops, tmp_path):
    record = {"request_id": "r1", "at": "2026-01-01T00:00:00Z", "release": "assistant@1", "input": HOSTILE[:12]}
    (tmp_path / "one.jsonl").write_text(json.dumps({**record, "output": "\x1b[2J[/y]"}) + "\n")
    assert llmops("log", "import", str(tmp_path / "one.jsonl")).code == 0
    tail = llmops("log", "tail")
    assert tail.code == 0
    assert "[/x]" in tail.out
    assert "\x1b" not in tail.out + llmops("log", "show", "r1").out
    assert llmops("log", "show", "r1", "--json").json["records"][0]["output"] == "\x1b[2J[/y]"
    for arguments in (("log", "show", "\x1b[2J"), ("--debug", "log", "show", "\x1b[2J"), ("log", "\x1b[2J")):
        done = llmops(*arguments)
        assert done.code in (2, 3)
        assert "\\x1b[2J" in done.err
        assert "\x1b" not in done.err


@pytest.mark.parametrize("path", sorted(Path(llmops.cli.__file__).parent.glob("*.py")), ids=lambda path: path.stem)
def test_every_command_prints_through_the_output_module(path):
    if path.stem == "output":
        return
    called = {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    assert not called & {"click.echo", "click.secho", "sys.stdout", "rich.print"}, "print with llmops.cli.output.echo"
