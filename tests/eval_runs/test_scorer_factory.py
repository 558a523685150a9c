"""Judges of a suite, from its tables or from the setting, asked once for each answer and never again."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from llmops.errors import BadFile, UsageError
from llmops.eval_runs.evaluations import CellRun
from llmops.eval_runs.scorer_factory import JUDGED_TYPES, ScorerFactory, calibration_problem, untrusted
from llmops.evaluation.results import Score
from llmops.evaluation.scorers.protocol import CachedScorer
from llmops.evaluation.suite import ScorerSpec, Suite
from llmops.judges import JudgeEndpoint
from llmops.judges.calibration import judge_hash
from llmops.recording import record_calibration
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


def run(workshop: Workshop, name: str, text: str, prompts: Sequence[str] = ("qa@1",), **options: Any) -> list[CellRun]:
    """Runs the suite `name`, which has `text` beside what every suite here has."""
    path = workshop.add_suite(name, N, more=text)
    try:
        return workshop.run(prompts, suite=name, **options)
    finally:
        path.unlink()


def tables(judge: ScriptedJudge, model: str = "big", instructions: str = RUBRIC["instructions"]) -> str:
    main = f'[judges.main]\nbase_url = "{judge.base_url}"\nmodel = "{model}"\nkappa = 0.5\n'
    return main + f'[scorers.odd]\ntype = "judge.rubric"\ninstructions = "{instructions}"\n'


# Whole runs


def test_a_judges_scores_are_recorded_and_asked_for_once_whatever_the_prompt(workshop, judge):
    [done, _] = run(workshop, "judged", tables(judge), ("qa@1", "qa@2"))
    assert len(judge.requests) == N  # the fake engine gives both prompts the same answers
    assert {request.body["model"] for request in judge.requests} == {"big"}
    assert (done.run.metrics["odd"].mean, done.run.metrics["odd"].n_scored) == (0.5, N)
    for number, result in enumerate(workshop.evaluations.rows(done.run)):
        label = "pass" if number % 2 else "fail"
        assert result.scores["odd"] == Score(number % 2 == 1, f"{label}: I looked.", label=label)
    [again] = run(workshop, "judged", tables(judge), force=True)
    assert len(judge.requests) == N
    assert again.run.run_id != done.run.run_id
    assert again.run.metrics == done.run.metrics


def test_another_judge_or_rubric_is_another_run_and_asks_again(workshop, judge):
    [first] = run(workshop, "changing", tables(judge))
    for changed in ({"model": "bigger"}, {"instructions": "Is it odd?"}):
        asked = len(judge.requests)
        [second] = run(workshop, "changing", tables(judge, **changed))
        assert second.run.run_id != first.run.run_id
        assert (second.generated, len(judge.requests)) == (0, asked + N)


def test_the_setting_gives_a_judge_to_a_suite_that_names_none(workshop, judge):
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


def test_a_judge_that_the_suite_does_not_have_is_a_bad_file(workshop, judge):
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


def test_an_endpoint_is_made_of_the_setting_or_of_a_sound_table_without_its_kappa():
    assert endpoint_of(DEFAULT, {}) == JudgeEndpoint(
        "default", "http://127.0.0.1:9/v3", "default-model", key_variable="JUDGE_KEY"
    )
    assert endpoint_of(Settings(), {"main": {**MAIN, "kappa": 0.7}}) == endpoint_of(Settings(), {"main": MAIN})
    with pytest.raises(UsageError, match=r"^judge: the suite has no judge 'absent'; it has main, other$"):
        endpoint_of(DEFAULT, {"main": MAIN, "other": OTHER}, "absent")
    with pytest.raises(UsageError, match="it has none"):
        endpoint_of(DEFAULT, {}, "absent")
    with pytest.raises(UsageError, match=r"^model: "):
        endpoint_of(Settings(), {"main": {"base_url": MAIN["base_url"]}})


# Scorers


def test_a_scorer_is_made_with_its_judge_and_only_one_that_needs_it_is_left_out_without():
    specs = [ScorerSpec("a", "judge.rubric"), ScorerSpec("b", "exact_match"), ScorerSpec("c", "semantic_similarity")]
    assert [spec.type in JUDGED_TYPES for spec in specs] == [True, False, False]
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
def test_a_wrong_scorer_is_a_usage_error(spec, problem):
    with pytest.raises(UsageError, match=f"^{problem}"):
        ScorerFactory(Settings()).make(spec, {"main": MAIN})


TABLES = """
[judges.main]
base_url = "http://127.0.0.1:9/v1"
model = "big"
[scorers.kind]
type = "judge.rubric"
instructions = "Is it kind?"
[scorers.clear]
type = "judge.rubric"
instructions = "Is it clear?"
"""


def calibration(kappa: float | None, low: float = 0.0) -> dict[str, Any]:
    return {"kappa": kappa, "kappa_low": low, "kappa_high": 1.0, "n": 50}


@pytest.mark.parametrize(
    ("found", "asked", "why"),
    [
        (None, 0.6, "its judge is not calibrated; run `llmops eval calibrate-judge`"),
        (
            {"kappa": None, "kappa_low": None},
            0.6,
            "its judge's agreement with people cannot be told from the labelled rows",
        ),
        (calibration(None), 0.6, "its judge's agreement with people cannot be told from the labelled rows"),
        (calibration(0.8, 0.59), 0.6, "its judge's agreement with people, κ 0.80, is not surely 0.6 or more"),
        (calibration(0.8, 0.6), 0.6, None),
        (calibration(0.8, 0.59), 0.5, None),
        (calibration(-0.5, -0.9), -1.0, None),
    ],
)
def test_the_lower_end_of_kappa_must_reach_what_is_asked(found, asked, why):
    assert calibration_problem(found, asked) == why


@pytest.fixture
def suite(workshop: Workshop, add_suite: Callable[..., Path]) -> Callable[..., Suite]:
    def load(tables: str = TABLES) -> Suite:
        add_suite("judged", 2, more=tables)
        return workshop.evaluations.suite("judged")

    return load


def why(workshop: Workshop, loaded: Suite) -> dict[str, str]:
    return untrusted(loaded, workshop.registry.store)


def calibrate(workshop: Workshop, loaded: Suite, name: str, low: float) -> None:
    scorer = next(scorer for scorer in loaded.make_scorers() if scorer.name == name)
    assert isinstance(scorer, CachedScorer)
    record_calibration(workshop.registry.store, name, calibration(0.9, low), judge_hash(scorer))


WITHOUT_JUDGE = TABLES[TABLES.index("[scorers.kind]") :]


def test_scorers_without_a_judge_need_no_trust_and_a_judge_that_is_not_configured_has_none(workshop, suite):
    assert why(workshop, workshop.evaluations.suite("sums")) == {}
    assert why(workshop, suite(WITHOUT_JUDGE)) == dict.fromkeys(("kind", "clear"), "no judge is configured")


def test_judges_earn_trust_one_by_one_and_only_as_they_are(workshop, suite):
    loaded = suite()
    assert why(workshop, loaded).keys() == {"kind", "clear"}
    calibrate(workshop, loaded, "kind", 0.7)
    calibrate(workshop, loaded, "clear", 0.5)
    found = why(workshop, loaded)
    assert found.keys() == {"clear"}
    assert "κ 0.90, is not surely 0.6 or more" in found["clear"]
    for changed in (TABLES.replace('"big"', '"bigger"'), TABLES.replace("kind?", "very kind?")):
        assert "not calibrated" in why(workshop, suite(changed))["kind"]
    modest = TABLES.replace('model = "big"', 'model = "big"\nkappa = 0.4')
    assert why(workshop, suite(modest)) == {}
    calibrate(workshop, loaded, "clear", 0.65)
    assert why(workshop, loaded) == {}  # the newest measurement counts


def test_a_gate_on_a_judge_that_is_not_trusted_is_inconclusive(workshop, add_suite):
    path = add_suite("gated", 2)
    rules = '\n[gate.floors]\nkind = 0.0\n[gate.slice_floors."parity=0"]\nkind = 0.0\n'
    path.write_text(path.read_text().partition("[gate]")[0] + WITHOUT_JUDGE + '[gate]\nprimary = "correct"' + rules)
    [done] = workshop.run(suite="gated")
    verdict = workshop.evaluations.gate(done.run.run_id, None, "gated").verdict
    assert verdict.verdict != "pass"
    assert verdict.reasons[0] == "kind cannot gate: no judge is configured"
