"""Both recorders write the same run, whole or not at all, and it reads back as it was."""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import mlflow
import pytest

from llmops.errors import RecordingIncomplete, UnknownVersion
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, RowResult, Score
from llmops.recording import EVALUATE_UP_TO, EvalRun
from tests.recording.conftest import report, row

RECORDERS = ("bulk", "evaluate")
ROWS = 7


@pytest.fixture(scope="module")
def recorded(desk):
    """The same report written by each recorder."""
    return {
        recorder: desk.recorder.record(
            desk.cell(eval_sets=("sums-rows", "more-rows")),
            report(ROWS),
            recorder,
            extra_params={"cache": "on"},
            extra_metrics={"cost": 0.5},
        )
        for recorder in RECORDERS
    }


def run_as_stored(desk: Any, run: EvalRun) -> dict[str, Any]:
    """All that MLflow holds of a run but for ids, times and the recorder's name."""
    found = desk.client.get_run(run.run_id)
    own = ("llmops.cell_hash", "llmops.cell", "llmops.recorder")
    return {
        "status": found.info.status,
        "name": found.info.run_name,
        "params": {name: value for name, value in found.data.params.items() if name != "seed"},
        "metrics": found.data.metrics,
        "metric history": {name: len(desk.client.get_metric_history(run.run_id, name)) for name in found.data.metrics},
        "tags": {name: value for name, value in found.data.tags.items() if name not in own},
        "datasets": {(d.dataset.name, d.dataset.digest, d.dataset.source) for d in found.inputs.dataset_inputs},
        "models": [item.model_id for item in found.inputs.model_inputs],
        "files": desk.files(run),
    }


def row_as_stored(trace: Any) -> dict[str, Any]:
    """All that MLflow holds of a row but for ids and times."""
    info, span = trace.info, trace.data.spans[0]
    own = ("mlflow.sourceRun", "mlflow.assessment.sourceRunId", "mlflow.assessment.scorerDigest")
    return {
        "tags": {name: value for name, value in info.tags.items() if name != "mlflow.artifactLocation"},
        "metadata": {name: value for name, value in info.trace_metadata.items() if name not in own},
        "previews": (info.request_preview, info.response_preview),
        "state": (info.state, info.execution_duration, span.status, span.end_time_ns - span.start_time_ns),
        "span": (span.name, span.inputs, span.outputs, len(trace.data.spans)),
        "assessments": sorted(
            (
                a.name,
                repr(a.feedback or a.expectation),
                a.rationale or "",
                repr(a.source),
                sorted((key, value) for key, value in (a.metadata or {}).items() if key not in own),
                a.span_id == span.span_id,
            )
            for a in info.assessments
        ),
    }


def test_both_recorders_write_the_same_run_and_rows(desk, recorded):
    bulk, evaluate = (run_as_stored(desk, recorded[recorder]) for recorder in RECORDERS)
    assert bulk == evaluate
    bulk, evaluate = (desk.traces(recorded[recorder].run_id) for recorder in RECORDERS)
    assert bulk.keys() == evaluate.keys() == {f"row-{i}" for i in range(ROWS)}
    for row_id, trace in bulk.items():
        assert row_as_stored(trace) == row_as_stored(evaluate[row_id])


def test_runs_that_are_recorded_side_by_side_are_whole_and_evaluated_one_after_the_other(desk, monkeypatch):
    evaluate, under_way, seen = mlflow.genai.evaluate, threading.Semaphore(1), []

    def watched(**arguments):
        alone = under_way.acquire(blocking=False)
        seen.append(alone)
        try:
            return evaluate(**arguments)
        finally:
            if alone:
                under_way.release()

    monkeypatch.setattr(mlflow.genai, "evaluate", watched)
    cells = {recorder: desk.cell("side by side") for recorder in ("evaluate", "bulk", "auto")}  # nothing of it is there
    with ThreadPoolExecutor(len(cells)) as pool:
        runs = list(pool.map(lambda item: desk.recorder.record(item[1], report(10), item[0]), cells.items()))
    for run in runs:
        assert desk.traces(run.run_id).keys() == {f"row-{i}" for i in range(10)}
    assert seen == [True, True]  # by `evaluate`, and by `auto` for so few rows


def test_the_stored_rows_are_those_handed_over(desk, recorded):
    traces = desk.traces(recorded["bulk"].run_id)
    for result in map(row, range(ROWS)):
        trace = traces[result.row.id]
        given = {a.name: a for a in trace.info.assessments}
        assert (trace.data.spans[0].inputs, trace.data.spans[0].outputs) == (result.row.inputs, result.output.text)
        assert {name: a.value for name, a in given.items() if a.expectation is not None} == result.row.expectations
        for name, score in result.scores.items():
            assert given[name].value == score.value
            assert (given[name].error.error_message if given[name].error else None) == score.error
            assert (given[name].rationale or "") == score.rationale
        assert trace.info.tags["odd"] == result.row.tags["odd"]
        assert trace.info.state == ("ERROR" if result.output.error else "OK")
        counted = trace.info.token_usage
        assert (None if counted is None else counted["output_tokens"]) == result.output.tokens_out


def test_a_run_shows_its_prompt_model_eval_sets_and_numbers_and_the_prompts_page_its_rows(desk, recorded):
    found = run_as_stored(desk, recorded["bulk"])
    model_id = desk.registry.models.get("tiny@1").model_id

    assert found["tags"]["mlflow.runType"] == "genai_evaluate"
    assert found["tags"]["mlflow.linkedPrompts"] == '[{"name": "qa", "version": "1"}]'
    assert {name for name, _, _ in found["datasets"]} == {"sums", "sums-rows", "more-rows"}
    assert found["models"] == [model_id]
    assert (
        found["params"] | {"cache": "on", "traced_rows": "7", "traced_rule": "all", "cleaned_texts": "0"}
        == (found["params"])
    )
    metrics = found["metrics"]
    assert (metrics["correct/mean"], metrics["correct/ci95_low"], metrics["judge/n_failed"]) == (0.5, 0.25, 7)
    assert "judge/mean" not in metrics
    assert (metrics["correct/macro_f1"], metrics["correct/f1_größe_"]) == (0.25, 0.5)
    assert (metrics["cost"], metrics["tokens_out"], metrics["rows"]) == (0.5, 18, 7)
    assert set(found["metric history"].values()) == {1}
    assert found["files"] == {"rows.jsonl", "summary.json", "findings/correct/confusion.json"}
    on_model = {(m.key, m.run_id): m.value for m in desk.client.get_logged_model(model_id).metrics}
    assert on_model["correct/mean", recorded["bulk"].run_id] == 0.5
    found = desk.client.search_traces(
        locations=[desk.store.experiment("sums")], filter_string="prompt = 'qa/1'", max_results=500
    )
    for run in recorded.values():
        assert sum(trace.info.trace_metadata["mlflow.sourceRun"] == run.run_id for trace in found) == ROWS


@pytest.mark.parametrize("recorder", RECORDERS)
def test_a_run_reads_back_as_it_was(desk, recorded, recorder):
    run = recorded[recorder]
    rows = desk.recorder.rows(run)
    assert desk.recorder.get(run.run_id) == run
    assert (run.rows, run.cell, run.seconds) == (ROWS, "qa@1,tiny@1", 2.0)
    assert (run.params["engine.slots"], run.params["cache"]) == ("4", "on")
    assert run.usage == {"tokens_in": 42, "tokens_out": 18, "cost": 0.5}
    assert run.tokens_per_second == 15
    assert len(rows) == ROWS
    assert list(rows) == list(rows) == [row(i) for i in range(ROWS)]


def test_rows_are_read_from_a_local_copy_that_goes_with_the_object_and_keep_their_separators(desk, recorded):
    rows = desk.recorder.rows(recorded["bulk"])
    path = rows._path
    assert path.exists()
    del rows
    gc.collect()
    assert not path.parent.exists()
    odd = RowResult(EvalRow("a", {"question": "x\u2028y\x85z\r\n"}), Output("\x0c"), {})
    run = desk.recorder.record(desk.cell(), replace(report([odd, odd][:1]), metrics={}, findings={}), "bulk")
    assert list(desk.recorder.rows(run)) == [odd]


def test_a_complete_run_is_found_by_its_cell_and_nothing_else_is_read_as_one(desk):
    cell = desk.cell()
    assert desk.recorder.find(cell.suite, cell.hash) is None
    first, second = (desk.recorder.record(cell, report(2), "bulk") for _ in range(2))
    assert first.run_id != second.run_id
    assert desk.recorder.find(cell.suite, cell.hash) == second
    run = desk.client.create_run(desk.store.experiment("sums"))
    for run_id in (run.info.run_id, "0" * 32):
        with pytest.raises(UnknownVersion):
            desk.recorder.get(run_id)


def test_few_rows_are_evaluated_and_many_written_in_bulk(desk):
    few = desk.recorder.record(desk.cell(), report(2))
    bare = [RowResult(EvalRow(f"{i}", {"q": "?"}), Output("!"), {}) for i in range(EVALUATE_UP_TO + 1)]
    many = desk.recorder.record(desk.cell(), replace(report(bare), metrics={}, findings={}))
    assert desk.client.get_run(few.run_id).data.tags["llmops.recorder"] == "evaluate"
    assert desk.client.get_run(many.run_id).data.tags["llmops.recorder"] == "bulk"


@pytest.mark.parametrize("recorder", RECORDERS)
def test_what_is_not_known_of_a_run_is_in_no_metric_and_null_when_read(desk, recorder):
    rows = [replace(row(number), output=Output("an answer")) for number in range(2)]
    unknown = replace(report(2), results=rows, tokens_in=None, tokens_out=None, generated_tokens=None)
    run = desk.recorder.record(desk.cell(), unknown, recorder)
    logged = desk.client.get_run(run.run_id).data.metrics
    assert not {"tokens_in", "tokens_out", "tokens_per_second", "cost"} & logged.keys()
    found = desk.recorder.get(run.run_id)
    assert (found.tokens_per_second, dict(found.usage)) == (None, {})
    for result in desk.recorder.rows(found):
        assert (result.output.tokens_in, result.output.latency_ms, result.output.first_token_ms) == (None, None, None)
    for trace in desk.traces(run.run_id).values():
        assert not trace.info.execution_duration
        assert "mlflow.trace.tokenUsage" not in trace.info.trace_metadata


@pytest.mark.parametrize("recorder", RECORDERS)
def test_progress_ends_at_the_rows_written(desk, recorder):
    told: list[tuple[int, int]] = []
    desk.recorder.record(desk.cell(), report(3), recorder, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (3, 3)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


@pytest.mark.parametrize("recorder", RECORDERS)
def test_characters_that_databases_refuse_are_replaced_and_counted(desk, recorder):
    bad = RowResult(
        EvalRow("id\x00", {"question": "a\x00b\ud800"}, {"answers": ["\udfff"]}, (), {"tag": "\x00"}),
        Output("half \ud83d of a pair"),
        {"correct": Score(True, "why\x00"), "judge": Score(error="no\x00")},
    )
    run = desk.recorder.record(desk.cell(), report([bad]), recorder)
    [(row_id, trace)] = desk.traces(run.run_id).items()
    given = {a.name: a for a in trace.info.assessments}
    assert (row_id, trace.info.tags["tag"]) == ("id\ufffd", "\ufffd")
    assert trace.data.spans[0].inputs == {"question": "a\ufffdb\ufffd"}
    assert trace.data.spans[0].outputs == "half \ufffd of a pair"
    assert given["answers"].value == ["\ufffd"]
    assert (given["correct"].rationale, given["judge"].error.error_message) == ("why\ufffd", "no\ufffd")
    assert run.params["cleaned_texts"] == "7"
    assert list(desk.recorder.rows(run)) == [bad]


def delete_one(desk: Any, run_id: str, name: str) -> None:
    from mlflow.tracing.client import TracingClient

    trace = next(iter(desk.traces(run_id).values()))
    lost = next(a for a in trace.info.assessments if a.name == name)
    TracingClient(desk.store.uri).delete_assessment(trace.info.trace_id, lost.assessment_id)


@pytest.mark.parametrize(("recorder", "lost"), [("bulk", "correct"), ("bulk", "answers"), ("evaluate", "answers")])
def test_what_gets_lost_in_the_store_is_noticed(desk, recorder, lost):
    cell, told = desk.cell(), []

    def lose(done: int, _total: int) -> None:
        told.append(done)
        if len(told) == 1:
            delete_one(desk, desk.runs(cell)[0].info.run_id, lost)

    with pytest.raises(RecordingIncomplete, match=f"{lost} 2 of 3"):
        desk.recorder.record(cell, report(3), recorder, progress=lose)
    [broken] = desk.runs(cell)
    assert broken.info.status == "FAILED"
    assert desk.recorder.find(cell.suite, cell.hash) is None
    with pytest.raises(UnknownVersion, match="no complete eval run"):
        desk.recorder.get(broken.info.run_id)


def test_what_goes_wrong_while_mlflow_scores_is_noticed(desk):
    rows = [replace(row(number), scores={"judge": row(number).scores["judge"]}) for number in range(3)]
    with pytest.raises(RecordingIncomplete, match="failed score correct 3 of 0"):  # the scorer has nothing to give
        desk.recorder.record(desk.cell(), report(rows), "evaluate")
