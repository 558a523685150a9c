"""`llmops eval compare` and `gate`: tables, files, and exit codes that a pipeline can act on."""

import json
import xml.etree.ElementTree as ElementTree
from datetime import UTC, datetime
from html import unescape
from importlib.metadata import version
from pathlib import Path

import pytest

from llmops.engines.fake import FakeEngine
from llmops.errors import EngineRejected
from llmops.eval_runs import matrix
from llmops.production_log import Feedback, LogRecord, ProductionLog
from llmops.prompt_file import parse_prompt
from llmops.registry import Registry
from llmops.settings import Settings
from tests.command_line import Run
from tests.registered_home import register_tiny

N = 24
SUITE = """eval_sets = ["plays"]
prompt = "qa"
model = "tiny@1"
[scorers.correct]
type = "contains"
[gate]
primary = "correct"
rule = "not-worse"
margin = 0.2
"""
PROMPT = "---\ninput_variable: question\nparameters: {{max_tokens: {words}}}\n---\n# user\n{{{{ question }}}}\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a model and three prompts (the second may say one word only), and a folder of one suite."""
    place = tmp_path_factory.mktemp("place")
    folder = place / "sets" / "plays"
    folder.mkdir(parents=True)
    rows = [
        {"id": f"r{i}", "inputs": {"question": f"Who wrote {i}?"}, "expectations": {"answers": [f"wrote {i}"]}}
        for i in range(N)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "sets" / "plays.toml").write_text(SUITE)
    registry, _ = register_tiny(Settings(home=place / "home"))
    for words in (40, 1, 41):
        registry.prompts.register("qa", parse_prompt(PROMPT.format(words=words)))
    return place


@pytest.fixture
def home(place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name, value in (("HOME", place / "home"), ("ENGINE", "fake"), ("EVAL_SETS", place / "sets")):
        monkeypatch.setenv(f"LLMOPS_{name}", str(value))
    monkeypatch.chdir(tmp_path)
    return place / "home"


@pytest.fixture
def ran(llmops: Run) -> None:
    """All three cells; made once, and reused afterwards."""
    done = llmops("eval", "run", "plays", "--recorder", "bulk", "--json")
    assert done.code == 0, done.err
    assert [item["rows"] for item in done.json["runs"]] == [N] * 3


def test_a_comparison_is_shown_as_json_and_in_the_files_asked_for(llmops, ran, tmp_path):
    done = llmops("eval", "compare", "qa@1", "qa@2")
    assert done.code == 0
    assert f"{N} rows paired" in done.out
    assert f"correct: with {N} rows a difference of " in done.out
    assert list(tmp_path.iterdir()) == []
    files = ("--html", "c.html", "--markdown", "c.md", "--junit", "c.xml")
    done = llmops("eval", "compare", "qa@1", "qa@2", *files, "--json")
    assert done.code == 0
    metric = done.json["metrics"]["correct"]  # what is said of the files does not mix with the JSON
    assert (metric["a"], metric["b"], metric["losses"], done.json["rows"]) == (1.0, 0.0, N, N)
    assert done.json["votes"] is None  # of what is no release
    assert "Who wrote 3?" in (tmp_path / "c.html").read_text(encoding="utf-8")
    assert "correct" in (tmp_path / "c.md").read_text(encoding="utf-8")
    assert ElementTree.parse(tmp_path / "c.xml").getroot() is not None  # noqa: S314 - our own file


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (("compare", "qa@1", "qa@3", "--markdown", "file/c.md"), 3, "file/c.md"),
        (("compare", "qa@1", "qa@9"), 3, "qa@1, qa@2, qa@3"),
        (("gate", "qa@1"), 2, "--suite"),
    ],
)
def test_what_cannot_be_compared_or_written_is_named(llmops, ran, tmp_path, arguments, code, problem):
    (tmp_path / "file").write_text("")
    done = llmops("eval", *arguments)
    assert (done.code, problem in done.err) == (code, True)


@pytest.mark.parametrize(("challenger", "verdict", "code"), [("qa@3", "pass", 0), ("qa@2", "fail", 1)])
def test_the_gates_exit_code_is_its_verdict(llmops, ran, tmp_path, challenger, verdict, code):
    done = llmops("eval", "gate", challenger, "--against", "qa@1", "--suite", "plays", "--junit", "g.xml", "--json")
    assert (done.json["verdict"], done.code) == (verdict, code)
    cases = list(ElementTree.parse(tmp_path / "g.xml").getroot().iter("testcase"))  # noqa: S314 - our own file
    failed = [case.get("name") for case in cases if case.find("failure") is not None]
    assert ("correct not-worse (non-inferiority)" in failed) is (verdict == "fail")


def test_the_gate_says_its_reasons_and_its_page_is_kept_with_the_challengers_run(llmops, ran, home):
    run_id = llmops("eval", "run", "plays", "--prompt", "qa@2", "--json").json["runs"][0]["run_id"]
    done = llmops("eval", "gate", "qa@2", "--against", "qa@1", "--suite", "plays")
    assert done.code == 1
    assert "gate plays: fail" in done.out
    assert "significantly worse" in done.out
    client = Registry(Settings(home=home)).store.client
    assert [item.path for item in client.list_artifacts(run_id, "reports")] == ["reports/comparison.html"]
    assert client.get_run(run_id).data.tags["llmops.gate"] == "fail"


def test_without_a_champion_every_report_has_the_verdict_and_the_means(llmops, ran, tmp_path):
    files = ("--html", "g.html", "--junit", "g.xml", "--markdown", "g.md")
    done = llmops("eval", "gate", "qa@1", "--suite", "plays", *files)
    assert done.code == 0
    assert "no champion to compare with, and no floors or ceilings to check" in done.out
    assert f"qa@1: {N} rows, none failed, cut off or empty" in done.out
    page, text = (unescape((tmp_path / name).read_text(encoding="utf-8")) for name in ("g.html", "g.md"))
    assert all(f"correct is 1.000 over {N} rows" in each for each in (page, text))
    assert "no champion to compare with" in text
    root = ElementTree.parse(tmp_path / "g.xml").getroot()  # noqa: S314 - our own file
    assert (root.get("tests"), root.get("failures")) == ("2", "0")


def test_a_run_whose_every_row_failed_exits_1_and_says_why(llmops, home, monkeypatch):
    failing = FakeEngine(slots=4, failure=EngineRejected("out of order"))
    monkeypatch.setattr(matrix, "open_engine", lambda *_: failing)
    done = llmops("eval", "run", "plays", "--prompt", "qa@1", "--seed", "77", "--recorder", "bulk")
    assert done.code == 1
    assert f"of {N} rows {N} failed (100 %)" in done.out
    assert "out of order" in done.err


def test_a_run_of_several_cells_shows_and_writes_the_leaderboard_or_why_it_ended_early(llmops, ran, tmp_path):
    done = llmops("eval", "run", "plays", "--html", "b.html", "--markdown", "b.md")
    assert done.code == 0
    assert "Leaderboard" in done.out
    assert "qa@3,tiny@1" in (tmp_path / "b.html").read_text(encoding="utf-8")
    assert "qa@3,tiny@1" in unescape((tmp_path / "b.md").read_text(encoding="utf-8"))
    done = llmops("eval", "run", "plays", "--prompt", "qa@1", "--prompt", "qa@2", "--stop-early", "--recorder", "bulk")
    assert done.code == 0
    assert "rows, decided: 95 % interval" in done.out


@pytest.fixture
def voted(llmops: Run, home: Path) -> None:
    """Two releases, run on the suite; in the log, two of three found the second one's answer better."""
    for prompt in ("qa@1", "qa@2"):
        assert llmops("release", "create", "voted", "--prompt", prompt, "--model", "tiny@1").code == 0
    assert llmops("eval", "run", "plays", "--release", "voted@1", "--release", "voted@2", "--json").code == 0
    log = ProductionLog(Settings(home=home).resolved_log_url)
    if not log.votes("voted"):
        for number, label in enumerate(("better", "better", "worse")):
            first, second = (
                LogRecord(f"{number}-{name}", datetime.now(UTC), 200, "ok", release=name)
                for name in ("voted@1", "voted@2")
            )
            log.append([first, second])
            log.add_feedback(
                Feedback(
                    second.request_id, second.key, "anonymous", "voted", "voted@2", label=label,
                    compared_to=first.request_id, compared_key=first.key, compared_release="voted@1",
                )
            )  # fmt: skip
    log.close()


def test_of_two_releases_the_votes_are_shown_beside_the_rows_and_left_out_without_the_log(llmops, voted, monkeypatch):
    found = llmops("eval", "compare", "voted@1", "voted@2", "--json").json["votes"]
    assert (found["n"], found["wins_a"], found["wins_b"], found["ties"]) == (3, 1, 2, 0)
    assert found["p_value"] == 1.0
    assert "votes: 1 for voted@1, 2 for voted@2" in llmops("eval", "compare", "voted@1", "voted@2").out
    monkeypatch.setenv("LLMOPS_LOG_URL", "sqlite:////proc/nowhere/log.db")
    done = llmops("eval", "compare", "voted@1", "voted@2", "--json")
    assert done.code == 0
    assert done.json["votes"] is None
    assert "votes are left out" in done.err


def test_a_second_opinion_that_the_installed_mlflow_cannot_give_is_refused_by_its_version(llmops, ran):
    done = llmops("eval", "compare", "qa@1", "qa@2", "--second-opinion")
    done.refused(3, f"MLflow {version('mlflow')} is installed, and cannot compare runs; 3.18.0 can")
