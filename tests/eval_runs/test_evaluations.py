"""Runs, comparisons and gates end to end: fake engine, real MLflow store."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from llmops.engines.fake import FakeEngine
from llmops.errors import (
    CannotRun,
    EngineRejected,
    EngineUnavailable,
    GateRefused,
    UnknownVersion,
    UsageError,
)
from llmops.eval_runs import matrix as module
from llmops.eval_runs.evaluations import CellRun, RunOptions
from llmops.prompt_file import parse_prompt
from llmops.recording import EvalRecorder

SCORERS = {"correct", "exact_match", "words", "fields"}


def run(
    workshop: Any, suite: str = "sums", prompts: Sequence[str] = ("qa@1",), releases: Sequence[str] = (), **options: Any
) -> list[CellRun]:
    evaluations = workshop.evaluations
    loaded = evaluations.suite(suite)
    cells = evaluations.cells(loaded, () if releases else prompts, (), releases)
    return list(evaluations.run(loaded, cells, RunOptions(**options), lambda *_: None))


def no_engine(*_: Any) -> Any:
    raise AssertionError("an engine was loaded")


def stored(workshop: Any, done: CellRun) -> list[Any]:
    """The traces of a run, by MLflow's own client."""
    return list(
        workshop.registry.store.client.search_traces(
            locations=[done.run.experiment_id],
            filter_string=f"metadata.`mlflow.sourceRun` = '{done.run.run_id}'",
            max_results=500,
        )
    )


@pytest.fixture(scope="module")
def first(workshop: Any) -> CellRun:
    return run(workshop)[0]


def test_the_store_holds_every_score_of_every_row_as_it_was_made(workshop, first):
    traces = stored(workshop, first)
    counted = Counter(a.name for trace in traces for a in trace.info.assessments if a.feedback is not None)
    assert (len(traces), counted) == (24, dict.fromkeys(SCORERS, 24))
    made = {result.row.id: result for result in EvalRecorder(workshop.registry.store).rows(first.run)}
    for trace in traces:
        result = made.pop(trace.info.tags["row_id"])
        given = {a.name: a.feedback for a in trace.info.assessments if a.feedback is not None}
        values = {name: feedback.value for name, feedback in given.items()}
        assert values == {name: score.value for name, score in result.scores.items()}
        assert "expected_json" in given["fields"].error.error_message
        assert json.loads(trace.data.request) == dict(result.row.inputs)
        assert json.loads(trace.data.response) == result.output.text
        assert trace.info.tags["parity"] == result.row.tags["parity"]
    assert not made


def test_metrics_count_scored_and_failed_rows_and_reasons_are_counted_together(workshop, first):
    counted = {name: (found.mean, found.n_scored, found.n_failed) for name, found in first.run.metrics.items()}
    assert counted.keys() == SCORERS
    assert (counted["correct"], counted["fields"]) == ((0.5, 24, 0), (None, 0, 24))
    assert (first.run.rows, first.run.prompt, first.run.model) == (24, "qa@1", "tiny@1")
    why = "MissingExpectation: expectations hold no expected_json"
    assert [failure.to_json() for failure in workshop.evaluations.failures(first)] == [
        {"why": why, "rows": 24, "first": "sums-0", "scorers": ["fields"]}
    ]


def test_a_run_names_its_prompt_model_and_eval_set(workshop: Any, first: CellRun) -> None:
    found = workshop.registry.store.client.get_run(first.run.run_id)
    model = workshop.registry.models.get("tiny@1")
    assert json.loads(found.data.tags["mlflow.linkedPrompts"]) == [{"name": "qa", "version": "1"}]
    assert model.model_id in {item.model_id for item in found.inputs.model_inputs}
    assert "sums-rows" in {item.dataset.name for item in found.inputs.dataset_inputs}
    assert found.data.params["model_sha256"] == model.sha256
    assert found.data.metrics["correct/n_scored"] == 24
    assert found.data.metrics["fields/n_failed"] == 24


def test_an_identical_run_is_reused_and_force_records_a_new_one_and_generates_nothing(workshop, first, monkeypatch):
    monkeypatch.setattr(module, "open_engine", no_engine)
    again, forced = run(workshop)[0], run(workshop, force=True)[0]
    assert [(item.generated, item.from_cache) for item in (again, forced)] == [(0, 24)] * 2
    assert again.run == first.run
    assert forced.run.run_id != first.run.run_id
    assert forced.run.metrics == first.run.metrics


def test_a_limited_run_does_not_stand_for_the_full_one(workshop: Any, first: CellRun) -> None:
    limited = run(workshop, limit=5)[0]
    assert limited.run.rows == 5
    assert workshop.evaluations.resolve("qa@1").rows == 24


def test_a_seed_is_another_run_and_the_same_seed_the_same(workshop: Any, first: CellRun) -> None:
    one, two, again = (run(workshop, seed=seed, limit=3)[0] for seed in (1, 2, 1))
    assert len({one.run.run_id, two.run.run_id, first.run.run_id}) == 3
    assert (one.generated, two.generated) == (3, 3)
    assert again.run.run_id == one.run.run_id


def test_by_default_every_version_of_the_suites_prompt_is_a_cell_and_a_release_is_given_alone(workshop):
    workshop.add_suite("orphan", 2, prompt="absent")
    evaluations = workshop.evaluations
    cells = evaluations.cells(evaluations.suite("sums"))
    assert [(cell.prompt.ref, cell.model.ref) for cell in cells] == [("qa@1", "tiny@1"), ("qa@2", "tiny@1")]
    with pytest.raises(UsageError, match="--release"):
        evaluations.cells(evaluations.suite("sums"), ["qa@1"], [], ["assistant@1"])
    with pytest.raises(UnknownVersion, match="llmops prompts register"):
        evaluations.cells(evaluations.suite("orphan"))
    (workshop.folder / "orphan.toml").unlink()


def test_rows_that_fail_are_recorded_as_failed(workshop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine(slots=4, failure=EngineRejected("not today"))
    monkeypatch.setattr(module, "open_engine", lambda *_: engine)
    done = run(workshop, limit=4, seed=99)[0]
    assert (done.run.metrics["correct"].n_scored, done.run.metrics["correct"].n_failed) == (0, 4)
    assert len(stored(workshop, done)) == 4
    assert engine.closed


@pytest.mark.slow
def test_an_engine_that_goes_away_leaves_no_run_and_is_closed(workshop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine(slots=4, failure=EngineUnavailable("gone"))
    monkeypatch.setattr(module, "open_engine", lambda *_: engine)
    before = len(workshop.registry.store.client.search_runs([workshop.registry.store.experiment("sums")]))
    with pytest.raises(EngineUnavailable):
        run(workshop, limit=4, seed=98)
    assert engine.closed
    assert len(workshop.registry.store.client.search_runs([workshop.registry.store.experiment("sums")])) == before


def test_one_engine_serves_all_cells_of_a_model(workshop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def opening(*_: Any) -> FakeEngine:
        opened.append(FakeEngine(slots=4))
        return opened[-1]

    monkeypatch.setattr(module, "open_engine", opening)

    done = run(workshop, prompts=["qa@1", "qa@2"], limit=3, seed=55)

    assert [item.generated for item in done] == [3, 3]
    assert len(opened) == 1
    assert opened[0].closed


def test_a_run_compared_with_itself_does_not_differ(workshop: Any, first: CellRun) -> None:
    found = workshop.evaluations.compare(first.run.run_id, "qa@1,tiny@1")
    assert found.rows == 24
    assert found.metrics.keys() == SCORERS - {"fields"}
    assert found.not_compared["fields"].failed_a == found.not_compared["fields"].failed_b == 24
    for metric in found.metrics.values():
        assert (metric.difference, metric.p_value, metric.wins, metric.losses) == (0, 1, 0, 0)
    assert set(found.slices) == {"parity=0", "parity=1"}


def test_runs_of_two_suites_cannot_be_compared(workshop: Any, first: CellRun) -> None:
    workshop.add_suite("other", 3)
    try:
        other = run(workshop, "other")[0]
        with pytest.raises(CannotRun, match="give runs of one suite"):
            workshop.evaluations.compare(first.run.run_id, other.run.run_id)
        with pytest.raises(CannotRun, match="ran on suite other, not on sums"):
            workshop.evaluations.gate(other.run.run_id, None, "sums")
        with pytest.raises(UsageError, match="other, sums uses the prompt qa; name one with --suite"):
            workshop.evaluations.resolve("qa@1")
        assert workshop.evaluations.resolve("qa@1", "other").run_id == other.run.run_id
    finally:
        (workshop.folder / "other.toml").unlink()


def test_a_run_is_found_by_id_prompt_and_cell(workshop: Any, first: CellRun) -> None:
    resolve = workshop.evaluations.resolve
    assert resolve(first.run.run_id) == first.run
    assert resolve("qa@1").cell == resolve("qa@1,tiny@1").cell == "qa@1,tiny@1"
    assert resolve("qa@1").run_id == resolve("qa@1,tiny").run_id


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0" * 32, "0" * 32),
        ("qa@9", "there are qa@1, qa@2"),
        ("qa@1,tiny@9", "there are tiny@1"),
        ("absent@1", "no prompt 'absent'"),
        ("qa@2", "llmops eval run sums --prompt qa@2 --model tiny@1"),
    ],
)
def test_what_was_not_run_says_what_to_do(workshop: Any, first: CellRun, text: str, message: str) -> None:
    with pytest.raises(UnknownVersion, match=re.escape(message)):
        workshop.evaluations.resolve(text)


def test_gates_are_kept_on_releases_and_open_promotion(workshop: Any, first: CellRun) -> None:
    registry, evaluations = workshop.registry, workshop.evaluations
    model = registry.models.get("tiny@1")
    prompts = [registry.prompts.get(ref) for ref in ("qa@1", "qa@2")]
    one, two = (
        registry.release_versions.create("assistant", prompt, model, prompt.template.parameters)[0]
        for prompt in prompts
    )

    with pytest.raises(UnknownVersion, match="llmops eval run sums --release assistant@2"):
        evaluations.gate("assistant@2", None, "sums")
    released = run(workshop, releases=["assistant@1", "assistant@2"])
    assert [item.to_json()["release"] for item in released] == ["assistant@1", "assistant@2"]
    assert evaluations.resolve("assistant@1").cell == "qa@1,tiny@1"

    gated = evaluations.gate("assistant@1", None, "sums")
    verdict, comparison = gated.verdict, gated.comparison
    assert (verdict.verdict, comparison) == ("pass", None)
    registry.release_versions.promote(one)

    with pytest.raises(GateRefused):
        registry.release_versions.promote(two)
    gated = evaluations.gate("assistant@2", None, "sums")
    verdict, comparison = gated.verdict, gated.comparison
    assert verdict.verdict == "pass"
    assert comparison is not None
    assert (comparison.a, comparison.b, comparison.rows) == ("assistant@1", "assistant@2", 24)
    assert registry.release_versions.gates(two)["sums"]["against"] == "assistant@1"
    registry.release_versions.promote(two)

    assert registry.release_versions.champion("assistant").ref == "assistant@2"
    names = [item.path for item in registry.store.client.list_artifacts(released[1].run.run_id, "gate")]
    assert names == ["gate/against-assistant-1.json"]


def test_a_cell_is_gated_without_a_release(workshop: Any, first: CellRun) -> None:
    gated = workshop.evaluations.gate("qa@1", "qa@1,tiny@1", "sums")
    verdict, comparison = gated.verdict, gated.comparison
    assert verdict.verdict == "pass"
    assert comparison is not None
    assert comparison.metrics["correct"].ties == 24


# Served as evaluated


def test_a_gate_names_the_mode_in_which_other_answers_would_be_served(workshop: Any, first: CellRun) -> None:
    as_evaluated = workshop.evaluations.gate(first.run.run_id, None, "sums")
    assert not any("evaluated by" in reason for reason in as_evaluated.verdict.reasons)
    busier = workshop.with_settings(engine_slots=9)
    gated = busier.evaluations.gate(first.run.run_id, None, "sums")
    assert gated.verdict.reasons[-1] == (
        "evaluated by fake with slots 4, served by fake with slots 9: how many answers differ is not known"
    )
    assert gated.verdict.verdict == as_evaluated.verdict.verdict


def test_a_format_that_the_engine_cannot_enforce_is_refused_before_anything_is_answered(workshop, monkeypatch):
    monkeypatch.setattr(module, "open_engine", no_engine)
    form = '{"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {"type": "null"}}}}'
    text = f"---\ninput_variable: question\nresponse_format: {form}\n---\n# user\n{{{{ question }}}}\n"
    prompt, _ = workshop.registry.prompts.register("formed", parse_prompt(text))
    with pytest.raises(UsageError, match=r"^response_format\.json_schema\.schema\.not: the llamacpp engine cannot"):
        run(workshop.with_settings(engine="llamacpp"), prompts=[prompt.ref])
