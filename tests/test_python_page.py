"""docs/python.md runs as it is written: its code in order, and as a notebook, where an event loop runs already."""

import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import nbformat
import pytest

import llmops
from docs.notebooks import notebook
from llmops.settings import Settings
from tests.notebook_runs import outputs_of
from tests.registered_home import register_tiny

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "python.md"
ROWS = 12
SLOW = """import time

patient = llmops.model(lambda _: str(time.sleep(0.1)), name="patient", slots=2)
llmops.evaluate("sums", rows=rows, scorers=["words"], models=patient)
"""
"""A cell that takes long enough for a bar to be seen."""


@pytest.fixture
def place(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The samples with few rows; the model of that name is made up, and answers by the fake engine."""
    register_tiny(Settings.from_environment(), "smollm2-135m-instruct")
    for name in ("prompts", "eval_sets"):
        shutil.copytree(ROOT / name, home.parent / name)
    rows = home.parent / "eval_sets" / "qa" / "rows.jsonl"
    rows.write_text("".join(rows.read_text("utf-8").splitlines(keepends=True)[:ROWS]), "utf-8")
    return home.parent


def blocks_of_the_page() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def test_the_pages_code_runs_in_order(place, capsys):
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks_of_the_page():
        if "import pytest" in block:  # which pytest runs, below
            continue
        exec(compile(block, str(PAGE), "exec"), names)  # noqa: S102 - our own page
    assert capsys.readouterr().out.splitlines()[0] == "pass"
    assert names["done"][0].metrics["correct"].rows == ROWS
    assert names["first"][0].name == "calculator@2"


@pytest.mark.slow
def test_the_pages_tests_run_in_pytest(place):
    """Whether they pass is the model's business, which is made up here; that each is judged is ours."""
    code = "\n".join(block for block in blocks_of_the_page() if block.startswith(("import llmops", "import pytest")))
    llmops.register_prompts("qa")
    (place / "test_page.py").write_text(code.replace("\ndone = ", "\ndef unused(): done = ").replace("\ndone\n", "\n"))
    installed = [] if entry_points(group="pytest11", name="llmops") else ["-p", "llmops.pytest_plugin"]
    command = [sys.executable, "-m", "pytest", *installed, "-v", "--junitxml=page.xml", "test_page.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert "not evaluated" not in done.stdout, done.stdout
    assert "test_the_calculator_calculates PASSED" in done.stdout
    assert done.stdout.count("test_an_answer_is_short[") >= 5
    suite = ElementTree.parse(place / "page.xml").getroot().find("testsuite")  # noqa: S314 - our own file
    assert suite is not None
    assert (suite.get("tests"), suite.get("errors")) == ("8", "0"), done.stdout


@pytest.mark.slow
def test_the_page_runs_as_a_notebook_and_shows_its_results(place):
    source = place / "python.ipynb"
    made = nbformat.reads(notebook(PAGE), as_version=4)
    made.cells.append(nbformat.v4.new_code_cell(SLOW))
    nbformat.write(made, source)
    outputs = outputs_of(source, {**os.environ, "PYTHONPATH": str(ROOT)})
    pages = "".join(output["data"].get("text/html", "") for output in outputs if "data" in output)
    assert all(shown in pages for shown in ("calculator@1", "Leaderboard", "Which differences are real", "shop@1"))
    assert "patient@1: " in "".join(output.get("text", "") for output in outputs if output.get("name") == "stderr")
