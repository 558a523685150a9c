"""Runs of pipelines in one process: begun, gone on with after a failure, found finished."""

import contextlib
import dataclasses
import logging
import sqlite3
import threading

import pytest

from llmops.errors import CannotRun, StoreUnavailable, UnknownVersion, UsageError
from llmops.pipelines import Pipeline, Pipelines, StepFailed


def statuses(run):
    return {step.name: step.status for step in run.steps}


def test_a_run_gives_its_result_as_json_and_the_same_cycle_again_repeats_nothing(pipelines, sums, book):
    first = pipelines.run(sums.pipeline(), {"number": 5}, cycle="one")
    again = pipelines.run(sums.pipeline(), cycle="one")
    assert first.status == again.status == "finished"
    assert first.result == again.result == {"sum": 116, "of": [16, 100]}
    assert sums.called == ["first", "second", "third"]
    assert statuses(first) == dict.fromkeys(("first", "second", "third"), "done")
    assert statuses(again) == dict.fromkeys(("first", "second", "third"), "skipped")
    assert first.inputs == again.inputs == {"number": 5}
    assert all(step.seconds >= 0 and step.started_at.year > 2000 for step in first.steps)
    assert book.begun == [("sums", "one", {"number": 5})]
    assert [(step.number, step.name, step.arguments, step.output["sum"]) for step in book.steps] == [
        (1, "first", [5, 1], 6),
        (2, "second", [6, 10], 16),
        (3, "third", [16, 100], 116),
    ]
    assert book.ended == [({"sum": 116, "of": [16, 100]}, None)]


def test_a_failed_run_names_its_step_and_goes_on_from_there(pipelines, sums, book, told, capfd):
    sums.wrong["second"] = UnknownVersion("no data\nof today")
    with pytest.raises(StepFailed) as raised:
        pipelines.run(sums.pipeline(), cycle="x")
    failed = pipelines.get("sums@x")
    sums.wrong.clear()
    done = pipelines.run(sums.pipeline(), cycle="x")
    assert str(raised.value) == "sums@x: step second: no data"
    assert (raised.value.step, raised.value.run.status, raised.value.exit_code) == ("second", "failed", 3)
    assert statuses(raised.value.run) == statuses(failed) == {"first": "done", "second": "failed"}
    assert (failed.status, failed.error) == ("failed", "no data")
    assert book.ended[0] == (None, "step second: no data")
    assert sums.called == ["first", "second", "second", "third"]
    assert statuses(done) == {"first": "skipped", "second": "done", "third": "done"}
    assert done.result["sum"] == 112
    assert told[2:] == ["sums@x: going on; 1 of its steps had finished", "sums@x: second", "sums@x: third"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (UsageError("no such suite"), 2, "no such suite"),
        (ZeroDivisionError("division by zero"), 3, "ZeroDivisionError: division by zero"),
    ],
)
def test_the_exit_code_of_a_failure_is_its_causes(pipelines, sums, error, code, text):
    sums.wrong["first"] = error
    with pytest.raises(StepFailed) as raised:
        pipelines.run(sums.pipeline(), cycle="x")
    assert (raised.value.exit_code, str(raised.value)) == (code, f"sums@x: step first: {text}")
    assert raised.value.__cause__ is error


def test_what_fails_between_steps_goes_on_after_the_last_one(pipelines, sums):
    broken = [True]

    def function(steps, inputs):
        steps.do("first", sums.step("first"), 1)
        if broken:
            raise CannotRun("half way")
        return steps.do("second", sums.step("second"), 2)

    pipeline = Pipeline("halves", function, "")
    with pytest.raises(StepFailed, match="halves@x: between its steps: half way"):
        pipelines.run(pipeline, cycle="x")
    broken.clear()
    assert pipelines.run(pipeline, cycle="x").result["sum"] == 2
    assert sums.called == ["first", "second"]


def test_a_step_is_tried_again_but_not_after_a_usage_error(pipelines):
    left, tried = [CannotRun("away")], []

    def work():
        tried.append("work")
        if left:
            raise left.pop()
        return "fine"

    pipeline = Pipeline("tries", lambda steps, inputs: {"said": steps.do("work", work, retries=2)}, "")
    assert pipelines.run(pipeline, cycle="mends").result == {"said": "fine"}
    left.append(UsageError("wrong"))
    with pytest.raises(StepFailed, match="step work: wrong"):
        pipelines.run(pipeline, cycle="never")
    assert len(tried) == 3


def test_a_step_that_cannot_be_written_down_is_done_again_and_a_failure_is_told_all_the_same(
    pipelines, sums, book, caplog
):
    book.wrong = dict.fromkeys(("step", "end"), StoreUnavailable("MLflow is away"))
    with caplog.at_level(logging.WARNING), pytest.raises(StepFailed, match="step first: MLflow is away"):
        pipelines.run(sums.pipeline(), cycle="x")
    assert "the failure of sums@x is not recorded: MLflow is away" in caplog.text
    book.wrong.clear()
    pipelines.run(sums.pipeline(), cycle="x")
    assert sums.called == ["first", "first", "second", "third"]


def test_inputs_are_completed_and_checked_before_anything_begins(pipelines, sums):
    def complete(inputs):
        if set(inputs) - {"number"}:
            raise UsageError("only a number")
        return {"number": 7, **inputs}

    pipeline = dataclasses.replace(sums.pipeline(), complete=complete)
    with pytest.raises(UsageError, match="only a number"):
        pipelines.run(pipeline, {"letter": "a"}, cycle="x")
    assert pipelines.runs() == []
    assert pipelines.run(pipeline, cycle="x").inputs == {"number": 7}
    assert pipelines.run(pipeline, {"number": 7}, cycle="x").result["sum"] == 118
    with pytest.raises(UsageError, match=r"sums@x began with number=7: leave the inputs out"):
        pipelines.run(pipeline, {"number": 8}, cycle="x")
    for cycle in ("", "a b", "a/b", "a@b", "-a", "x" * 81):
        with pytest.raises(UsageError, match="cycle"):
            pipelines.run(pipeline, cycle=cycle)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda steps: steps.do("odd", lambda: {1, 2}), "odd@x: step odd: its result is no JSON: TypeError: "),
        (lambda steps: steps.do("odd", lambda: float("nan")), "odd@x: step odd: its result is no JSON: ValueError: "),
        (lambda steps: steps.do("outer", lambda: steps.do("inner", lambda: 1)), "only the pipeline's own function may"),
    ],
)
def test_results_that_are_no_json_and_steps_within_steps_fail(pipelines, function, said):
    with pytest.raises(StepFailed, match=said):
        pipelines.run(Pipeline("odd", lambda steps, _inputs: {"a": function(steps)}, ""), cycle="x")


def test_a_cycle_that_older_code_began_gets_new_inputs_and_other_steps_ask_for_another_cycle(pipelines, sums):
    sums.wrong["third"] = CannotRun("later")
    with pytest.raises(StepFailed):
        pipelines.run(sums.pipeline(), {}, cycle="x")

    def changed(steps, inputs):
        return steps.do("zeroth", sums.step("zeroth"))

    with pytest.raises(StepFailed, match="the pipeline has changed; begin another cycle"):
        pipelines.run(Pipeline("sums", changed, ""), cycle="x")
    assert "zeroth" not in sums.called
    sums.wrong["first"] = CannotRun("later")
    with pytest.raises(StepFailed):
        pipelines.run(sums.pipeline(), {}, cycle="y")
    sums.wrong.clear()
    newer = dataclasses.replace(sums.pipeline(), complete=lambda inputs: {"number": 7, **inputs})
    assert pipelines.run(newer, cycle="y").result["sum"] == 118


def test_a_second_caller_of_the_same_cycle_waits_and_gets_the_same_result(settings, sums):
    begun, waits = threading.Event(), threading.Event()

    def slow(number):
        begun.set()
        assert waits.wait(30)
        return number

    pipeline = Pipeline("slow", lambda steps, inputs: {"n": steps.do("slow", slow, 3)}, "")
    results = []
    first = threading.Thread(target=lambda: results.append(Pipelines(settings).run(pipeline, cycle="x")))
    first.start()
    assert begun.wait(30)
    told = []
    reader = Pipelines(settings, tell=lambda text: (told.append(text), waits.set()))  # type: ignore[func-returns-value]
    assert (reader.get("slow@x").status, [run.status for run in reader.runs()]) == ("running", ["running"])
    with pytest.raises(CannotRun, match="a pipeline runs in this process already"):
        reader.run(sums.pipeline(), cycle="x")
    results.append(reader.run(pipeline, cycle="x"))
    first.join()
    assert told == ["slow@x: another process is at it; waiting for it to end"]
    assert [run.result for run in results] == [{"n": 3}] * 2


def test_runs_are_listed_newest_first_and_by_pipeline(pipelines, settings, sums):
    assert pipelines.runs() == []
    with pytest.raises(UnknownVersion):
        pipelines.get("sums@x")
    assert not (settings.home / "pipelines.db").exists(), "asking makes nothing"
    for name, cycle in (("sums", "a"), ("sums-too", "b"), ("sums", "c")):
        pipelines.run(sums.pipeline(name), cycle=cycle)
    assert [run.ref for run in pipelines.runs()] == ["sums@c", "sums-too@b", "sums@a"]
    assert [run.ref for run in pipelines.runs("sums", limit=1)] == ["sums@c"]
    with pytest.raises(UnknownVersion, match="no run sums@z"):
        pipelines.get("sums@z")


def test_the_tables_hold_json_and_no_pickles(pipelines, sums, settings):
    sums.wrong["third"] = CannotRun("later")
    with pytest.raises(StepFailed):
        pipelines.run(sums.pipeline(), {"number": 5}, cycle="x")
    with contextlib.closing(sqlite3.connect(settings.home / "pipelines.db")) as database:
        stored = list(database.execute("SELECT output, error, serialization FROM operation_outputs"))
        kinds = {row[0] for row in database.execute("SELECT serialization FROM workflow_status")}
    assert {row[2] for row in stored} | kinds == {"llmops_json"}
    assert ('{"value": {"sum": 6, "of": [5, 1]}}', None, "llmops_json") in stored
    assert (None, '{"error": "later"}', "llmops_json") in stored
