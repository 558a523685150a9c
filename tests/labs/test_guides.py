"""The guides of the labs can be followed, word by word, on the page and as notebooks."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner

from docs.notebooks import Cell, cells, notebook
from labs.checks import check_module
from labs.checks.tabular import check_bike, check_insurance, check_wine
from llmops.cli import cli
from llmops.settings import Settings
from tests.notebook_runs import outputs_of
from tests.page_commands import ROOT, console_commands, run_in_one_shell

_COMMAND = re.compile(r"^(?:\$ )?llmops (.+)$", re.MULTILINE)


@pytest.fixture(params=["bike", "wine", "insurance"])
def lab(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def guide(lab: str) -> Path:
    return ROOT / "docs" / "labs" / f"{lab}.md"


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_notebook_is_valid_and_has_no_outputs(lab):
    made = nbformat.reads(notebook(guide(lab)), as_version=4)
    nbformat.validate(made)
    assert len({cell.id for cell in made.cells}) == len(made.cells)
    assert all(not cell.outputs and cell.execution_count is None for cell in made.cells if cell.cell_type == "code")


def test_every_exercise_has_a_solution_and_three_or_more_there_are(lab):
    exercises = re.split(r"^### Exercise \d+: ", guide(lab).read_text("utf-8"), flags=re.MULTILINE)[1:]
    assert len(exercises) >= 3
    for exercise in exercises:
        task, _, solution = exercise.partition("<details>\n<summary>Solution</summary>\n")
        assert task.strip()
        assert blocks(solution, "python"), task
        assert solution.rstrip().endswith("</details>"), task


def test_every_command_of_a_guide_exists(lab):
    text = guide(lab).read_text("utf-8")
    commands = [
        line for kind in ("bash", "console") for block in blocks(text, kind) for line in _COMMAND.findall(block)
    ]
    assert f"lab {lab}" in commands
    for line in commands:
        asked = CliRunner().invoke(cli, [*shlex.split(line), "--help"])
        assert asked.exit_code == 0, f"llmops {line}: {asked.output}"


def test_python_compiles_and_the_five_parts_come_in_order(lab):
    text = guide(lab).read_text("utf-8")
    for number, block in enumerate(blocks(text, "python"), start=1):
        compile(block, f"{lab}.md, block {number}", "exec")
    parts = re.findall(r"^## \d\. (\w+)$", text, re.MULTILINE)
    assert parts == ["Data", "Model", "Deploy", "Monitor", "Automate"]


def test_text_python_and_commands_become_cells_and_other_blocks_stay_text():
    text = (
        "# Lab\n\n```python\nx = 1\n```\n\n```\noutput\n```\n```bash\nllmops lab bike\nllmops audit verify\n```\n"
        "<details>\n<summary>Solution</summary>\n\n```python\nx + 1\n```\n\n</details>\n\n"
        "```console\n$ llmops ui\n```\n"
    )
    assert cells(text) == [
        Cell("markdown", "# Lab"),
        Cell("code", "x = 1"),
        Cell("markdown", "```\noutput\n```"),
        Cell("code", "!llmops lab bike\n!llmops audit verify"),
        Cell("markdown", "**Solution**"),
        Cell("code", "x + 1"),
        Cell("markdown", "```console\n$ llmops ui\n```"),
    ]
    other = "```bash\nllmops audit verify\nls\n```"  # commands of other programs
    assert cells(f"{other}\n") == [Cell("markdown", other)]


@pytest.mark.slow
def test_python_runs_from_top_to_bottom_and_prints_what_the_guide_shows(lab, tmp_path):
    text = guide(lab).read_text("utf-8")
    program = tmp_path / "guide.py"
    program.write_text("\n".join(blocks(text, "python")), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, program], cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    printed = "\n".join(line.rstrip() for line in done.stdout.splitlines())
    for shown in re.findall(r"^```python\n.*?^```\n\n```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        assert shown.strip() in printed


@pytest.mark.slow
def test_the_notebook_executes(lab, tmp_path):
    source = tmp_path / f"{lab}.ipynb"
    source.write_text(notebook(guide(lab)), encoding="utf-8")
    outputs = outputs_of(source, environment(tmp_path))
    texts = [output.get("text", "") for output in outputs]
    for shown in (
        f"served     {'risk' if lab == 'insurance' else lab}@",
        f"{lab}@first: finished",
        "the chain is whole",
    ):
        assert any(shown in text for text in texts), shown
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == guide(lab).read_text("utf-8").count("\nreplay_figure(")


@pytest.mark.slow
def test_the_console_blocks_run_as_written_and_then_the_module_is_done_but_for_its_answers(lab, tmp_path):
    commands = console_commands(guide(lab).read_text("utf-8"))
    told = run_in_one_shell([(f"llmops lab {lab}", 0), (f"llmops lab check {lab}", 1), *commands], tmp_path)
    # The lab alone does no exercise. The page checks before its last one; that of insurance is in its middle.
    assert told.count("\nmissing  ") == (1 if lab == "insurance" else 2)
    settings = Settings(home=tmp_path / ".llmops")
    achievements, questions = {"wine": check_wine, "bike": check_bike, "insurance": check_insurance}[lab](settings)
    assert [each.what for each in achievements if not each.done] == []
    right = {question.key: question.value for question in questions}
    assert None not in right.values(), "the home can tell each answer"
    wrong = check_module(lab, settings, {**right, questions[0].key: -1})
    assert ([each.key for each in wrong.questions if each.state == "wrong"], wrong.done) == ([questions[0].key], False)
    assert check_module(lab, settings, right).done


def environment(home: Path) -> dict[str, str]:
    """A fresh home, and `llmops` of this very environment on the path."""
    found = {name: value for name, value in os.environ.items() if not name.startswith("LLMOPS_")}
    scripts = Path(sys.executable).parent
    return {**found, "LLMOPS_HOME": str(home / "home"), "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
