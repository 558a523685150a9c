"""Two recorded runs before a judge: both orders, counted from the second run's side, and never asked twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmops.errors import CannotRun, UnknownVersion, UsageError
from llmops.eval_runs.calibrating import JudgeAsked, calibrate_judge
from llmops.eval_runs.evaluations import RunOptions
from llmops.eval_runs.pairwise import PairwiseAsked, RunsJudged, clusters_of, judge_runs, with_judge
from llmops.prompt_file import parse_prompt
from tests.judges.scripted import ScriptedJudge
from tests.registered_home import Workshop, prompt_text

ROWS = 24


def winner(request: dict[str, Any]) -> str:
    """`long` prefers the longer answer, `first` the first one, `broken` says nothing."""
    model, text = request["model"], request["messages"][1]["content"]
    first, second = (len(text.split(f"<{place}>\n")[1].split("\n</")[0]) for place in ("first", "second"))
    if model == "broken":
        return "no"
    longer = "tie" if first == second else "first" if first > second else "second"
    return json.dumps({"rationale": "because", "winner": "first" if model == "first" else longer})


@pytest.fixture(scope="module")
def judge() -> Iterator[ScriptedJudge]:
    with ScriptedJudge(winner) as running:
        yield running


@pytest.fixture(scope="module")
def judged(workshop: Workshop) -> Workshop:
    """Two runs: the answers of the second prompt are longer in every row."""
    for more in ("", "Indeed. "):
        text = prompt_text("Be brief.").replace("{{ question }}", more + "{{ question }}")
        workshop.registry.prompts.register("pairs", parse_prompt(text))
    workshop.add_suite("pairs", ROWS, prompt="pairs")
    workshop.add_suite("others", 4, prompt="qa")
    evaluations = workshop.evaluations
    for name in ("pairs", "others"):
        suite = evaluations.suite(name)
        evaluations.run(suite, evaluations.cells(suite), RunOptions(recorder="bulk"), lambda *_: None)
    return workshop


def run(workshop: Workshop, asked: PairwiseAsked) -> RunsJudged:
    return judge_runs(workshop.evaluations, workshop.settings, asked, lambda _done, _total: None)


def ask(judge: ScriptedJudge, model: str = "long", **more: Any) -> PairwiseAsked:
    return PairwiseAsked("pairs@1", "pairs@2", judge=f"openai:{judge.base_url}#{model}", **more)


def test_wins_are_the_second_runs_and_are_recorded_with_it(judged, judge, tmp_path):
    found = run(judged, ask(judge))
    value = found.to_json()
    assert (value["wins"], value["losses"], value["ties"], value["rows"]) == (ROWS, 0, 0, ROWS)
    assert (value["win_share"], value["inconsistent"], value["n_failed"]) == (1.0, 0.0, 0)
    assert value["ci95"][0] > 0.8
    assert value["ci95"][1] == 1.0
    assert value["p_value"] < 1e-6
    client = judged.registry.store.client
    path = client.download_artifacts(value["runs"]["b"], "comparisons/pairwise-against-pairs-1.json", str(tmp_path))
    record = json.loads(Path(path).read_text(encoding="utf-8"))
    assert {name: record[name] for name in value} == json.loads(json.dumps(value))
    assert {verdict["winner"] for verdict in record["verdicts"]} == {"b"}


def test_the_same_runs_the_other_way_round_mirror_and_ask_nothing(judged: Workshop, judge: ScriptedJudge) -> None:
    asked = ask(judge, instructions="Which is more?")
    forth = run(judged, asked).to_json()
    seen = len(judge.requests)
    back = run(judged, PairwiseAsked("pairs@2", "pairs@1", judge=asked.judge, instructions="Which is more?")).to_json()
    assert len(judge.requests) == seen
    assert (back["wins"], back["losses"]) == (forth["losses"], forth["wins"])
    assert back["win_share"] == 1 - forth["win_share"]


def test_a_judge_that_favours_a_place_decides_nothing(judged: Workshop, judge: ScriptedJudge) -> None:
    value = run(judged, ask(judge, "first")).to_json()
    assert (value["wins"], value["losses"], value["ties"], value["inconsistent"]) == (0, 0, ROWS, 1.0)
    assert (value["win_share"], value["ci95"], value["p_value"]) == (None, None, 1.0)
    assert value["position_bias"]["prefers_first"] == 1.0


def test_a_limit_asks_only_the_first_rows(judged: Workshop, judge: ScriptedJudge) -> None:
    seen = len(judge.requests)
    found = run(judged, ask(judge, limit=3, instructions="Only three?"))
    assert found.to_json()["rows"] == 3
    assert len(judge.requests) - seen == 6
    assert f"only the first 3 of {ROWS} rows were judged" in found.doubts


def test_rows_in_clusters_leave_a_doubt(judged: Workshop, judge: ScriptedJudge) -> None:
    found = run(judged, ask(judge))
    suite = replace(judged.evaluations.suite("pairs"), cluster_by="tags.parity")
    assert (
        clusters_of(suite, [result.row for result in judged.evaluations.rows(judged.evaluations.resolve("pairs@1"))])
        == 2
    )
    assert "24 rows come in 2 clusters" in "; ".join(replace(found, clusters=2).doubts)
    assert not any("clusters" in doubt for doubt in found.doubts)


def test_its_word_is_trusted_only_after_that_very_judge_was_calibrated_on_pairs(judged, judge, tmp_path):
    asked = ask(judge, limit=4)
    before = run(judged, asked)
    assert before.untrusted is not None
    assert "not calibrated" in before.untrusted
    pairs = [
        {"inputs": {"question": f"{i}?"}, "output_a": "x" * (1 + i % 2), "output_b": "x" * (2 - i % 2),
         "label": "a" if i % 2 else "b"}
        for i in range(60)
    ]  # fmt: skip
    labels = tmp_path / "pairs.jsonl"
    labels.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    settings = with_judge(judged.settings, asked.judge)
    calibrate_judge(labels, JudgeAsked(judge=asked.judge), judged.evaluations, settings, lambda _d, _t: None)
    assert run(judged, asked).untrusted is None
    assert run(judged, ask(judge, limit=4, instructions="Another question")).untrusted is not None


def test_a_judge_that_says_nothing_could_not_run(judged: Workshop, judge: ScriptedJudge) -> None:
    with pytest.raises(CannotRun, match=r"no verdict on any of 2 rows; the first: EngineError"):
        run(judged, ask(judge, "broken", limit=2))


def test_runs_are_of_one_suite_and_recorded_and_a_judge_is_named(judged: Workshop, judge: ScriptedJudge) -> None:
    upstream = f"openai:{judge.base_url}#long"
    evaluations = judged.evaluations
    other = evaluations.resolve("qa@1", "others").run_id
    with pytest.raises(CannotRun, match="give runs of one suite"):
        run(judged, PairwiseAsked("pairs@1", other, judge=upstream))
    with pytest.raises(UnknownVersion, match="pairs@9"):
        run(judged, PairwiseAsked("pairs@1", "pairs@9", judge=upstream))
    with pytest.raises(UsageError, match="which judge"):
        run(judged, PairwiseAsked("pairs@1", "pairs@2"))
