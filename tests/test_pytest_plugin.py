"""The pytest plugin, in a pytest of its own on a real store: three ends, rows as tests, one generation in a session."""

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from llmops.prompt_file import parse_prompt
from llmops.registry import Registry
from llmops.settings import Settings
from tests.registered_home import prompt_text, register_tiny, write_suite

ROOT = Path(__file__).parents[1]
INSTALLED = [] if entry_points(group="pytest11", name="llmops") else ["-p", "llmops.pytest_plugin"]

TESTS = """
import llmops
import pytest


def half(inputs):
    with open("asked.txt", "a") as file:
        file.write("x")
    return inputs["question"] if int("".join(filter(str.isdigit, inputs["question"]))) % 2 else "no"


def nearly_half(inputs):
    return "no" if "“1”" in inputs["question"] else half(inputs)


def test_a_floor_that_holds(llmops_eval):
    llmops_eval("sums", prompts="qa@1").at_least(0.3)


def test_too_little_to_see_of_a_floor(llmops_eval):
    llmops_eval("sums", prompts="qa@1").at_least(0.4)


def test_a_floor_that_is_missed(llmops_eval):
    llmops_eval("sums", prompts="qa@1").at_least(0.9, "correct")


def test_a_loss_is_no_gain(llmops_eval):
    llmops_eval("sums", prompts="qa@2").better_than(llmops_eval("sums", prompts="qa@1"))


def test_a_gain(llmops_eval):
    llmops_eval("sums", prompts="qa@1").better_than(llmops_eval("sums", prompts="qa@2"))


def test_within_the_margin(llmops_eval):
    llmops_eval("sums", prompts="qa@1").not_worse_than(llmops_eval("sums", models=half), margin=0.2)


@llmops.scorer
def polite(answer):
    return True


def test_own_rows_and_scorers(llmops_eval):
    rows = [{"inputs": {"question": f"Is {n}?"}} for n in range(8)]
    llmops_eval("own", rows=rows, scorers=[polite], models=llmops.model(half, name="own")).at_least(0.5)


def test_too_little_to_see_in_a_slice(llmops_eval):
    llmops_eval("sums", models=half).better_than(llmops_eval("sums", models=nearly_half), slice="parity=1")


def test_too_little_to_see(llmops_eval):
    llmops_eval("sums", models=half).better_than(llmops_eval("sums", models=nearly_half))


@pytest.mark.parametrize("parity", ["0", "1"])
def test_a_slice(llmops_eval, parity):
    llmops_eval("sums", prompts="qa@1").at_least(0.7, slice=f"parity={parity}")


def test_a_gain_in_a_slice(llmops_eval):
    new, old = llmops_eval("sums", prompts="qa@1"), llmops_eval("sums", prompts="qa@2")
    new.better_than(old, slice="parity=1")


@pytest.mark.llmops_rows("sums", limit=4)
def test_each_row(row, llmops_eval):
    assert llmops_eval("sums", prompts="qa@1").answer(row).scores["correct"].value
"""
PASSED = {
    "test_a_floor_that_holds",
    "test_a_gain",
    "test_within_the_margin",
    "test_own_rows_and_scorers",
    "test_a_slice[1]",
    "test_a_gain_in_a_slice",
    "test_each_row[sums-1]",
    "test_each_row[sums-3]",
}
FAILED = {
    "test_a_floor_that_is_missed",
    "test_a_loss_is_no_gain",
    "test_a_slice[0]",
    "test_each_row[sums-0]",
    "test_each_row[sums-2]",
}
INCONCLUSIVE = {"test_too_little_to_see", "test_too_little_to_see_in_a_slice", "test_too_little_to_see_of_a_floor"}
ASKED = 24 + 23 + 8
"""Each callable is asked once for each row it is given; `nearly_half` asks `half` for all but one."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project: a suite, two prompt versions (the second answers nothing right), and its tests."""
    folder = tmp_path_factory.mktemp("project")
    registry, _ = register_tiny(Settings(home=folder / "home", engine="fake"))
    for text in (prompt_text("Be terse."), prompt_text("Be kind.").replace("40", "1")):
        registry.prompts.register("qa", parse_prompt(text))
    write_suite(folder / "eval_sets", "sums", 24)
    (folder / "prompts").mkdir()
    (folder / "pytest.ini").write_text("[pytest]\ntestpaths = test_evals.py\n")
    (folder / "test_evals.py").write_text(TESTS)
    return folder


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(place: Path) -> Run:
    """`run(*arguments)`: pytest's exit code, and what it printed."""

    def pytest_in(*arguments: str) -> tuple[int, str]:
        (place / "asked.txt").unlink(missing_ok=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("LLMOPS_", "PYTEST_"))}
        environment |= {"LLMOPS_HOME": str(place / "home"), "LLMOPS_ENGINE": "fake", "PYTHONPATH": str(ROOT)}
        environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{place}/home/mlflow.db"  # which MLflow's own plugin reads
        command = [sys.executable, "-m", "pytest", *INSTALLED, "--color=no", "-W", "error", *arguments]
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    return pytest_in


def ended(junit: Path) -> dict[str, set[str]]:
    """Names of the tests by how they ended, as JUnit's file has it."""
    ends: dict[str, set[str]] = {"passed": set(), "failure": set(), "skipped": set(), "error": set()}
    for case in ElementTree.parse(junit).getroot().iter("testcase"):  # noqa: S314 - our own file
        how = next((name for name in ("failure", "error", "skipped") if case.find(name) is not None), "passed")
        ends[how].add(str(case.get("name")))
    return ends


def test_a_test_passes_fails_or_is_inconclusive_and_its_runs_are_tagged_with_the_session(run, place):
    code, said = run("-v", "--junitxml", "first.xml")
    ends = ended(place / "first.xml")
    assert (code, ends["passed"], ends["failure"]) == (1, PASSED, FAILED | INCONCLUSIVE), said
    assert "test_too_little_to_see INCONCLUSIVE" in said
    assert "test_a_floor_that_is_missed FAILED" in said
    assert "inconclusive: half@1 on sums: correct better than nearly_half@1\n" in said
    assert "correct is 0.500, at or above its floor of 0.4, 95 % interval 0.314 to 0.686: too few rows to tell" in said
    assert "with 24 rows a difference of" in said
    assert "you need" in said
    assert "failed: qa@2,tiny@1 on sums: correct better than qa@1,tiny@1\n" in said
    assert re.search(r"parity=1: with 12 rows (no difference|a difference of \d+ points) can be seen", said)
    assert "5 runs in MLflow" in said
    properties = {
        (item.get("name"), item.get("value"))
        for item in ElementTree.parse(place / "first.xml").getroot().iter("property")  # noqa: S314 - our own file
    }
    assert ("llmops_verdict", "inconclusive") in properties
    session = next(value for name, value in properties if name == "llmops_session")
    store = Registry(Settings(home=place / "home")).store
    for name, run_id in properties:
        if name == "llmops_run_id":
            assert session in store.client.get_run(str(run_id)).data.tags["llmops.test_sessions"].split()
    assert len((place / "asked.txt").read_text()) == ASKED


@pytest.mark.slow
def test_an_inconclusive_end_is_what_the_setting_says_and_usual_options_work(run, place):
    two = ("-k", "too_little or missed")
    code, said = run(*two, "--cache-clear", "--llmops-inconclusive", "xfail", "--junitxml", "xfail.xml")
    ends = ended(place / "xfail.xml")
    assert (code, ends["skipped"], ends["failure"]) == (1, INCONCLUSIVE, {"test_a_floor_that_is_missed"}), said
    assert "3 xfailed" in said
    code, said = run(*two, "-o", "llmops_inconclusive=skip", "-rs")
    assert (code, "1 failed, 3 skipped" in said, "inconclusive: half@1" in said) == (1, True, True), said
    code, said = run("--lf", "-x", "--junitxml", "again.xml")
    assert (code, ended(place / "again.xml")["failure"]) == (1, {"test_a_floor_that_is_missed"}), said
    assert not (place / "asked.txt").exists()


@pytest.mark.slow
def test_what_is_set_or_asked_for_wrongly_is_said_in_a_line(run, place):
    code, said = run("-o", "llmops_inconclusive=maybe")
    assert (code, "llmops_inconclusive = maybe: must be fail, xfail, skip" in said) == (4, True), said
    wrong = place / "wrong"
    wrong.mkdir(exist_ok=True)
    (wrong / "test_rows.py").write_text(
        "import pytest\n@pytest.mark.llmops_rows('absent')\ndef test_it(row): pass\n", encoding="utf-8"
    )
    (wrong / "test_cells.py").write_text(
        "def test_two(llmops_eval): llmops_eval('sums')\n"
        "def test_none(llmops_eval): llmops_eval('sums', prompts='qa@9')\n",
        encoding="utf-8",
    )
    code, said = run("wrong", "--continue-on-collection-errors")
    assert code == 1
    assert "llmops_rows: no suite 'absent'" in said
    assert "not evaluated: qa@1,tiny@1, qa@2,tiny@1: a test is of one cell" in said
    assert "not evaluated: no prompt version qa@9" in said
    assert "Traceback" not in said


def test_a_pytest_that_does_not_use_it_imports_nothing_of_llmops(run, place):
    other = place / "other"
    other.mkdir(exist_ok=True)
    (other / "test_plain.py").write_text(
        "import sys\ndef test_it():\n"
        "    ours = [name for name in sys.modules if name.partition('.')[0] == 'llmops']\n"
        "    assert sorted(ours) == ['llmops', 'llmops.pytest_plugin']\n"
        "    assert not {'numpy', 'mlflow', 'click'} & sys.modules.keys()\n"
    )
    code, said = run("other", "--strict-markers", "--strict-config")
    assert code == 0, said


@pytest.mark.slow
def test_workers_make_an_evaluation_once_between_them(run, place):
    code, said = run("-n", "3", "--junitxml", "workers.xml")
    ends = ended(place / "workers.xml")
    assert (code, ends["passed"], ends["failure"]) == (1, PASSED, FAILED | INCONCLUSIVE), said
    assert len((place / "asked.txt").read_text()) == ASKED
    assert "5 runs in MLflow" in said


MLFLOWS = """
import mlflow
import llmops

@mlflow.test
def test_our_scorers_in_mlflows_own_evaluation():
    data = [
        {"inputs": {"question": "1?"}, "expectations": {"answers": ["one"]}},
        {"inputs": {"question": "2?"}, "expectations": {"answers": ["two"]}},
    ]
    scorers = llmops.mlflow_scorers("sums")
    result = mlflow.genai.evaluate(data=data, predict_fn=lambda question: "It is one.", scorers=scorers)
    assert result.metrics["correct/mean"] == 0.5
    assert result.metrics["words/mean"] == 3
"""


@pytest.mark.slow
def test_mlflows_own_plugin_works_on_the_scorers_of_a_suite(run, place):
    theirs = place / "theirs"
    theirs.mkdir(exist_ok=True)
    (theirs / "test_theirs.py").write_text(MLFLOWS)
    code, said = run("theirs", "-p", "mlflow.pytest.plugin", "-W", "ignore")
    assert code == 0, said
    client = Registry(Settings(home=place / "home")).store.client
    (found,) = client.search_runs(["0"], "tags.`mlflow.runType` = 'test'")
    assert found.data.metrics["correct/mean"] == 0.5
