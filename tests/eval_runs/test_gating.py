"""A verdict never hides a failure, on every surface that tells it: fake engine, real MLflow store and audit log."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmops.engines.fake import FakeEngine
from llmops.errors import CannotRun, EngineRejected, GateRefused
from llmops.eval_runs import matrix
from llmops.eval_runs.evaluations import Evaluations
from llmops.eval_runs.matrix import CellRun, RunOptions
from llmops.eval_runs.report_contents import report_contents
from llmops.evaluation.reports.junit import junit
from llmops.evaluation.results import AnswerCounts
from llmops.factsheet.collecting import make_factsheet
from llmops.factsheet.rendering import markdown as factsheet_markdown
from llmops.recording import EvalRecorder
from llmops.registry import Registry
from llmops.versions import Release
from tests.registered_home import Workshop


@pytest.fixture(scope="module")
def evaluations(workshop: Workshop) -> Evaluations:
    """With a suite of 200 rows, `long`, and one of 30, `short`."""
    workshop.add_suite("long", 200)
    workshop.add_suite("short", 30)
    return workshop.evaluations


def run(workshop: Workshop, suite: str, prompt: str = "qa@1", **options: Any) -> CellRun:
    return workshop.run([prompt], suite=suite, **options)[0]


def app_of(workshop: Workshop, name: str) -> list[Release]:
    """An app with a release of each prompt."""
    registry, model = workshop.registry, workshop.registry.models.get("tiny@1")
    versions = [registry.prompts.get(ref) for ref in ("qa@1", "qa@2")]
    return [
        registry.release_versions.create(name, version, model, version.template.parameters)[0] for version in versions
    ]


def test_a_champion_whose_every_row_failed_lets_nobody_pass(workshop, evaluations, monkeypatch):
    books, client = workshop.registry.release_versions, workshop.registry.store.client
    one, two = app_of(workshop, "outage")
    books.promote(one, why="the first one")
    with monkeypatch.context() as during:
        during.setattr(matrix, "open_engine", lambda *_: FakeEngine(slots=4, failure=EngineRejected("out of order")))
        failed = run(workshop, "short", releases=[one.ref])
    run(workshop, "short", releases=[two.ref])

    gated = evaluations.gate(two.ref, None, "short")

    assert gated.verdict.verdict == "inconclusive"
    told = "\n".join(gated.verdict.reasons)
    assert f"correct was scored in no row (30 failed) of {one.ref}" in told
    assert f"{one.ref}: of 30 rows 30 failed (100 %)" in told
    assert client.get_run(failed.run.run_id).data.metrics["answers/failed"] == 30
    assert len(list(evaluations.rows(failed.run))) == 30
    tags = client.get_run(gated.runs["b"].run_id).data.tags
    assert (tags["llmops.gate"], tags["llmops.gate.reasons"]) == ("inconclusive", told)
    with pytest.raises(GateRefused, match="short: inconclusive"):
        books.promote(two)
    assert gated.comparison is not None
    suite = evaluations.suite("short")
    report = report_contents(evaluations, suite, gated.runs, two.ref, gated.comparison, gated.verdict)
    assert "30 failed" in junit(report)
    sheet = factsheet_markdown(make_factsheet(workshop.registry, two.ref))
    assert "was scored in no row (30 failed)" in sheet


@pytest.mark.parametrize("short", ["challenger", "champion"])
def test_a_run_of_25_rows_against_one_of_200_is_inconclusive(workshop, evaluations, short):
    part, whole = run(workshop, "long", limit=25), run(workshop, "long", "qa@2")
    challenger, champion = (part, whole) if short == "challenger" else (whole, part)
    gated = evaluations.gate(challenger.run.run_id, champion.run.run_id, "long")
    assert gated.verdict.verdict == "inconclusive"
    told = "\n".join(gated.verdict.reasons)
    assert "25 rows are in both runs" in told
    assert f"{whole.run.run_id}: 200 rows, none failed, cut off or empty, 175 not in the other run (87.5 %)" in told
    assert "only 25 of the suite's 200 rows were judged" in told


@pytest.mark.slow
def test_two_runs_of_the_same_25_rows_say_nothing_of_a_suite_of_200(workshop, evaluations):
    made = [run(workshop, "long", prompt, limit=25) for prompt in ("qa@1", "qa@2")]
    assert [(each.to_json()["rows"], each.to_json()["suite_rows"]) for each in made] == [(25, 200)] * 2
    one, two = (each.run.run_id for each in made)
    most = run(workshop, "long", limit=180).run.run_id
    gated = evaluations.gate(two, one, "long")
    assert gated.verdict.verdict == "inconclusive"
    [told] = [check.detail for check in gated.verdict.checks if check.kind == "rows"]
    assert "only 25 of the suite's 200 rows were judged; too much is missing of the suite" in told
    assert gated.comparison is not None
    assert gated.comparison.to_json()["suite_rows"] == 200
    assert "only 25 of the suite's 200 rows were judged" in gated.comparison.rows_told()
    first = evaluations.gate(most, most, "long").verdict
    assert first.verdict == "pass"
    assert any("only 180 of the suite's 200 rows were judged" in reason for reason in first.reasons)
    assert first.reasons[-1] == f"{most} was compared with itself: both are run {most}"
    assert not any("compared with itself" in reason for reason in gated.verdict.reasons)


def test_a_run_that_was_scored_by_another_definition_of_a_scorer_decides_nothing(workshop):
    """A suite whose scorer was made stricter after the champion, or the challenger, was scored."""
    path = workshop.add_suite("redefined", 20)
    lenient = run(workshop, "redefined").run.run_id
    path.write_text(path.read_text().replace('type = "contains"', 'type = "exact_match"'))
    evaluations = workshop.evaluations
    strict = run(workshop, "redefined", "qa@2").run.run_id
    for challenger, champion in ((lenient, strict), (strict, lenient), (lenient, lenient)):
        gated = evaluations.gate(challenger, champion, "redefined")
        assert gated.verdict.verdict == "inconclusive"
        told = "\n".join(gated.verdict.reasons)
        assert f"correct cannot gate: {lenient} was scored by another definition of it" in told
    found = evaluations.compare(strict, lenient)
    assert "correct" not in found.metrics
    assert "other definitions of it" in found.not_compared["correct"].reason
    assert "exact_match" in found.metrics


def test_runs_on_rows_that_the_suite_has_no_more_say_nothing_of_it(workshop):
    workshop.add_suite("moving", 22)
    path = workshop.folder / "moving-rows" / "rows.jsonl"
    before = run(workshop, "moving").run.run_id
    assert workshop.evaluations.gate(before, before, "moving").verdict.verdict == "pass"
    path.write_text(path.read_text().replace("purple", "mauve"))
    evaluations = workshop.evaluations
    for against in (before, None):
        verdict = evaluations.gate(before, against, "moving").verdict
        assert verdict.verdict == "inconclusive"
        assert f"the suite's rows are others now than those of {before}" in "\n".join(verdict.reasons)
    now = run(workshop, "moving").run.run_id
    with pytest.raises(CannotRun, match="different expectations"):
        evaluations.gate(now, before, "moving")
    first = run(workshop, "moving", limit=20).run.run_id
    assert evaluations.gate(first, first, "moving").verdict.verdict == "pass"


def test_answers_that_are_cut_off_are_counted_on_the_run_in_mlflow_and_in_its_json(workshop, evaluations):
    done = run(workshop, "short", seed=7)
    [short] = evaluations.cells(evaluations.suite("short"), ["qa@1"])
    short = replace(short, parameters=replace(short.parameters, max_tokens=2))
    cut = evaluations.run(evaluations.suite("short"), [short], RunOptions(recorder="bulk"), lambda *_: None)[0]
    assert done.run.answers == AnswerCounts(30)
    assert cut.run.answers == AnswerCounts(30, cut_off=30)
    assert cut.to_json()["answers"] == {
        "rows": 30, "failed": 0, "cut_off": 30, "empty": 0, "off_format": 0, "cut_off_share": 1.0, "empty_share": 0.0
    }  # fmt: skip
    metrics = workshop.registry.store.client.get_run(cut.run.run_id).data.metrics
    assert (metrics["answers/cut_off"], metrics["answers/cut_off_share"], metrics["answers/empty"]) == (30, 1.0, 0)


def test_the_answers_of_a_run_recorded_before_they_were_counted_are_counted_from_its_rows(workshop, evaluations):
    done = run(workshop, "short", limit=20, seed=8)
    client, run_id = workshop.registry.store.client, done.run.run_id
    summary = json.loads(Path(client.download_artifacts(run_id, "summary.json")).read_text(encoding="utf-8"))
    del summary["answers"]
    client.log_text(run_id, json.dumps(summary), "summary.json")
    assert EvalRecorder(workshop.registry.store).get(run_id).answers == AnswerCounts(20)


def test_a_rule_that_was_loosened_stands_in_the_verdict_the_promotion_and_the_fact_sheet_with_who_did_it(workshop):
    path = workshop.add_suite("loose", 24)
    rules = path.read_text()

    def gate(actor: str, floor: float) -> Any:
        """Of the same release by suite rules with this floor, in a process of its own."""
        path.write_text(rules.replace("correct = 0.4", f"correct = {floor:g}"))
        evaluations = Evaluations(workshop.settings, Registry(workshop.settings, actor=actor))
        return evaluations.gate("lax@1", None, "loose").verdict

    (one, _), books = app_of(workshop, "lax"), workshop.registry.release_versions
    run(workshop, "loose", releases=[one.ref])
    strict, loose, again = gate("anna", 0.6), gate("boris", 0.1), gate("clara", 0.1)
    books.promote(one)

    changed = "correct floor lowered from 0.6 to 0.1"
    assert (strict.verdict, loose.verdict, again.verdict) == ("fail", "pass", "pass")
    assert loose.reasons[-1] == again.reasons[-1] == f"looser than an earlier gate: {changed}, by boris"
    assert not any("looser" in reason for reason in strict.reasons)
    assert books.history("lax")[-1]["why"] == f"gate passed, by looser rules: {changed} by boris"
    sheet = make_factsheet(workshop.registry, one.ref)
    assert any(f"asked less than one before it: {changed}, by boris" in limit for limit in sheet.limits)
    assert f"rules loosened | {changed}, by boris" in factsheet_markdown(sheet)
    assert sheet.history.periods[0].forced is False
