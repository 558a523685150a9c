"""Judges of a suite, from its tables or from the setting, asked once for each answer and never again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from llmops.errors import BadFile, UsageError
from llmops.eval_runs.cells import RunOptions
from llmops.eval_runs.evaluations import CellRun
from llmops.eval_runs.scorer_factory import ScorerFactory
from llmops.evaluation.results import Score
from llmops.evaluation.suite import ScorerSpec
from llmops.judges import JudgeEndpoint
from llmops.settings import Settings
from tests.judges.scripted import ScriptedJudge
from tests.registered_home import Workshop

MAIN = {"base_url": "http://127.0.0.1:9/v1", "model": "main-model"}
OTHER = {"base_url": "http://127.0.0.1:9/v2", "model": "other-model"}
RUBRIC = {"instructions": "Does it speak of an odd number?"}
N = 12


def endpoint_of(settings: Settings, judges: dict[str, Any], name: str | None = None) -> JudgeEndpoint | None:
    return ScorerFactory(settings).endpoint(judges, name)


def verdict(body: dict[str, Any]) -> str:
    text = body["messages"][-1]["content"].partition("<output>")[2]
    odd = int(text.partition("“")[2].partition("”")[0]) % 2 == 1
    return json.dumps({"rationale": "I looked.", "score": "pass" if odd else "fail"})


@pytest.fixture
def judge() -> Iterator[ScriptedJudge]:
    with ScriptedJudge(verdict) as running:
        yield running


def run(
    workshop: Workshop, name: str, text: str, prompts: tuple[str, ...] = ("qa@1",), **options: Any
) -> list[CellRun]:
    """Runs the suite `name`, which has `text` beside what every suite here has."""
    workshop.add_suite(name, N)
    path = workshop.folder / f"{name}.toml"
    path.write_text(path.read_text() + text)
    try:
        evaluations = workshop.evaluations
        loaded = evaluations.suite(name)
        chosen = RunOptions(**{"recorder": "bulk", **options})
        return evaluations.run(loaded, evaluations.cells(loaded, prompts), chosen, lambda *_: None)
    finally:
        path.unlink()


def tables(judge: ScriptedJudge, model: str = "big", instructions: str = RUBRIC["instructions"]) -> str:
    main = f'[judges.main]\nbase_url = "{judge.base_url}"\nmodel = "{model}"\nkappa = 0.5\n'
    return main + f'[scorers.odd]\ntype = "judge.rubric"\ninstructions = "{instructions}"\n'


# Whole runs


def test_a_judges_scores_are_recorded_and_asked_for_once(workshop: Workshop, judge: ScriptedJudge) -> None:
    [done] = run(workshop, "judged", tables(judge))
    assert len(judge.requests) == N
    assert {request.body["model"] for request in judge.requests} == {"big"}
    assert (done.run.metrics["odd"].mean, done.run.metrics["odd"].n_scored) == (0.5, N)
    for number, result in enumerate(workshop.evaluations.rows(done.run)):
        label = "pass" if number % 2 else "fail"
        assert result.scores["odd"] == Score(number % 2 == 1, f"{label}: I looked.", label=label)
    [again] = run(workshop, "judged", tables(judge), force=True)
    assert len(judge.requests) == N
    assert again.run.run_id != done.run.run_id
    assert again.run.metrics == done.run.metrics


def test_another_prompt_with_the_same_answers_asks_the_judge_nothing(workshop: Workshop, judge: ScriptedJudge) -> None:
    run(workshop, "prompts", tables(judge), ("qa@1", "qa@2"))
    assert len(judge.requests) == N  # the fake engine gives both prompts the same answers


@pytest.mark.parametrize("changed", [{"model": "bigger"}, {"instructions": "Is it odd?"}])
def test_another_judge_or_rubric_is_another_run_and_asks_again(workshop, judge, changed):
    [first] = run(workshop, "changing", tables(judge))
    asked = len(judge.requests)
    [second] = run(workshop, "changing", tables(judge, **changed))
    assert second.run.run_id != first.run.run_id
    assert (second.generated, len(judge.requests)) == (0, asked + N)


def test_a_judge_that_fails_leaves_records_and_is_asked_again_by_the_next_run(workshop: Workshop) -> None:
    ill = True

    def answer(body: dict[str, Any]) -> Any:
        return (400, {}, '{"error": {"message": "no"}}') if ill else verdict(body)

    with ScriptedJudge(answer) as judge:
        [first] = run(workshop, "ill", tables(judge))
        ill = False
        [second] = run(workshop, "ill", tables(judge), force=True)

    assert (first.run.metrics["odd"].n_scored, first.run.metrics["odd"].n_failed) == (0, N)
    assert first.run.metrics["correct"].n_scored == N
    assert (second.run.metrics["odd"].n_scored, second.run.metrics["odd"].n_failed) == (N, 0)


def test_the_setting_gives_a_judge_to_a_suite_that_names_none(workshop: Workshop, judge: ScriptedJudge) -> None:
    text = '[scorers.odd]\ntype = "judge.rubric"\ninstructions = "Odd?"\n'
    [without] = run(workshop, "default", text)
    assert without.run.params["scorers_without_judge"] == "odd"
    assert "odd" not in without.run.metrics
    [done] = run(workshop.with_settings(judge=f"openai:{judge.base_url}#small"), "default", text)
    assert done.run.run_id != without.run.run_id
    assert done.generated == 0
    assert done.run.metrics["odd"].mean == 0.5
    assert {request.body["model"] for request in judge.requests} == {"small"}
    assert "scorers_without_judge" not in done.run.params


def test_a_judge_that_the_suite_does_not_have_is_a_bad_file(workshop: Workshop, judge: ScriptedJudge) -> None:
    with pytest.raises(BadFile, match=r"scorers\.odd: judge: the suite has no judge 'absent'; it has main"):
        run(workshop, "absent", tables(judge) + 'judge = "absent"\n')


# Which judge


DEFAULT = Settings(judge="openai:http://127.0.0.1:9/v3#default-model", judge_key_variable="JUDGE_KEY")


@pytest.mark.parametrize(
    ("settings", "judges", "name", "model"),
    [
        (Settings(), {}, None, None),
        (Settings(), {}, "default", None),
        (Settings(), {"main": MAIN}, None, "main-model"),
        (Settings(), {"main": MAIN, "other": OTHER}, "other", "other-model"),
        (Settings(), {"main": MAIN, "other": OTHER}, None, None),  # which of both was not said
        (DEFAULT, {}, None, "default-model"),
        (DEFAULT, {"main": MAIN}, None, "main-model"),
        (DEFAULT, {"main": MAIN}, "default", "default-model"),
        (DEFAULT, {"main": MAIN, "other": OTHER}, None, "default-model"),
        (DEFAULT, {"default": OTHER}, "default", "other-model"),
    ],
)
def test_the_suites_judge_comes_before_the_settings(settings, judges, name, model):
    found = endpoint_of(settings, judges, name)
    assert (found.model if found else None) == model


def test_the_setting_names_address_model_and_key() -> None:
    assert endpoint_of(DEFAULT, {}) == JudgeEndpoint(
        "default", "http://127.0.0.1:9/v3", "default-model", key_variable="JUDGE_KEY"
    )


def test_what_a_judge_must_agree_by_is_no_part_of_its_endpoint() -> None:
    assert endpoint_of(Settings(), {"main": {**MAIN, "kappa": 0.7}}) == endpoint_of(Settings(), {"main": MAIN})


def test_an_unknown_judge_names_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"^judge: the suite has no judge 'absent'; it has main, other$"):
        endpoint_of(DEFAULT, {"main": MAIN, "other": OTHER}, "absent")
    with pytest.raises(UsageError, match="it has none"):
        endpoint_of(DEFAULT, {}, "absent")


def test_a_wrong_table_names_its_field() -> None:
    with pytest.raises(UsageError, match=r"^model: "):
        endpoint_of(Settings(), {"main": {"base_url": MAIN["base_url"]}})


# Scorers


def test_only_scorers_of_judges_need_one() -> None:
    specs = [ScorerSpec("a", "judge.rubric"), ScorerSpec("b", "exact_match"), ScorerSpec("c", "semantic_similarity")]
    assert [ScorerFactory.needs_judge(spec) for spec in specs] == [True, False, False]


def test_a_scorer_is_made_with_its_judge_and_without_is_left_out() -> None:
    spec = ScorerSpec("odd", "judge.rubric", {**RUBRIC, "judge": "main"})
    made: Any = ScorerFactory(Settings()).make(spec, {"main": MAIN})
    assert (made.name, made.endpoint.model) == ("odd", "main-model")
    assert ScorerFactory(Settings()).make(ScorerSpec("odd", "judge.rubric", RUBRIC), {}) is None


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (ScorerSpec("x", "judge.rubric", {}), "instructions: is missing; options of judge.rubric: "),
        (ScorerSpec("x", "judge.rubric", {**RUBRIC, "colour": "red"}), "judge.rubric"),
        (ScorerSpec("x", "judge.absent", {}), "type: unknown scorer type 'judge.absent'"),
        (ScorerSpec("x", "exact_match", {"judge": "main"}), "exact_match"),
    ],
)
def test_a_wrong_scorer_is_a_usage_error(spec: ScorerSpec, problem: str) -> None:
    with pytest.raises(UsageError, match=f"^{problem}"):
        ScorerFactory(Settings()).make(spec, {"main": MAIN})
