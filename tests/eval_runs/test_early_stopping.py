"""Two cells on as few rows as it takes: decided early where they differ clearly, undecided after all rows else."""

from typing import Any

import pytest

from llmops.engines.fake import FakeEngine, echo
from llmops.errors import CannotRun, EngineRejected, UsageError
from llmops.eval_runs import matrix
from llmops.eval_runs.early_stopping import EarlyStop
from llmops.eval_runs.evaluations import CellRun
from llmops.eval_runs.matrix import RunOptions
from llmops.evaluation.comparison import sampling_position
from llmops.generation import GenerationRequest
from tests.eval_runs.conftest import add_three_cells
from tests.registered_home import Workshop

N = 120


@pytest.fixture(scope="module")
def early(workshop: Workshop) -> Workshop:
    """Every row is answered right by early@1 and early@3, and wrong by early@2."""
    add_three_cells(workshop, "early", N, "odd")
    return workshop


def stop(early: Workshop, *prompts: str, suite: str = "early", **options: Any) -> tuple[list[CellRun], EarlyStop]:
    evaluations = early.evaluations
    loaded = evaluations.suite(suite)
    cells = evaluations.cells(loaded, prompts)
    chosen = RunOptions(**{"recorder": "bulk", **options})
    return evaluations.run_until_decided(loaded, cells, chosen, lambda *_: None)


@pytest.fixture(scope="module")
def decided(early: Workshop) -> tuple[list[CellRun], EarlyStop]:
    return stop(early, "early@1", "early@2")


def test_a_clear_difference_is_decided_early_and_another_seed_draws_other_rows(decided, early):
    done, told = decided
    assert told.decided
    assert 5 <= told.rows < N / 2
    assert (told.of, told.to_json()["of"], told.to_json()["decided"]) == (N, N, True)
    assert told.p_value <= 0.05
    assert -1 <= told.ci95[0] < told.ci95[1] < 0
    assert [(item.run.rows, item.generated + item.from_cache) for item in done] == [(told.rows, told.rows)] * 2
    done, told = stop(early, "early@1", "early@2")
    assert told == decided[1]
    assert [item.run.run_id for item in done] == [item.run.run_id for item in decided[0]]
    done, told = stop(early, "early@1", "early@2", seed=5)
    assert told.decided
    first, second = (
        {result.row.id for result in early.evaluations.rows(item.run)} for item in (done[0], decided[0][0])
    )
    assert first != second
    assert done[0].run.params["stopped_early"].startswith("5: ")


def test_a_run_that_was_stopped_early_says_so_has_the_rows_drawn_first_and_stands_for_no_full_one(early, decided):
    done, told = decided
    rows = sorted((f"early-{number}" for number in range(N)), key=lambda row_id: sampling_position(0, row_id))
    first = set(rows[: told.rows])
    for item in done:
        assert item.run.params["stopped_early"] == f"0: after {told.rows} of {N} rows"
        assert {result.row.id for result in early.evaluations.rows(item.run)} == first
    with pytest.raises(CannotRun, match=r"was not run on early yet \(as the suite is now, with the engine fake\); run"):
        early.evaluations.resolve("early@2")


def test_a_comparison_of_such_runs_is_the_one_that_decided_and_with_a_full_run_it_is_refused(early, decided):
    done, told = decided
    found = early.evaluations.compare(done[0].run.run_id, done[1].run.run_id)
    assert found.sequential
    metric = found.metrics["correct"]
    assert (found.rows, metric.test, metric.difference) == (told.rows, "sequential-betting", -1.0)
    assert metric.p_value == pytest.approx(told.p_value, rel=1e-9)  # the looks add up in another order
    assert metric.ci95 == pytest.approx(told.ci95)
    assert "words" not in found.metrics  # it has no bounds
    [full] = early.run(["early@3"], suite="early")
    for a, b in ((full, decided[0][1]), (decided[0][1], full)):
        with pytest.raises(CannotRun, match="can be compared only with the run it was stopped against"):
            early.evaluations.compare(a.run.run_id, b.run.run_id)


def test_cells_that_do_not_differ_are_undecided_after_all_rows(early):
    done, told = stop(early, "early@1", "early@3", limit=40)
    assert not told.decided
    assert (told.rows, told.of) == (40, 40)
    assert told.ci95[0] < 0 < told.ci95[1]
    assert [item.run.rows for item in done] == [40, 40]
    assert done[0].run.params["stopped_early"] == "0: after 40 of 40 rows"


@pytest.mark.parametrize(("failing", "seed"), [("early@1", 8), ("early@3", 9)])
def test_rows_that_fail_on_either_side_neither_stop_a_run_nor_pass_a_gate(early, monkeypatch, failing, seed):
    """Failed rows count as the worst, so that by the scores alone the other side is surely better."""
    system = "Be right." if failing == "early@1" else "Be right too."

    def answer(request: GenerationRequest) -> str:
        if request.messages[0]["content"] == system:
            raise EngineRejected("out of order")
        return echo(request)

    monkeypatch.setattr(matrix, "open_engine", lambda *_: FakeEngine(answer))
    done, told = stop(early, "early@1", "early@3", seed=seed, limit=20)

    assert (told.decided, told.rows, told.failed) == (False, 20, 20)
    assert told.p_value < 0.05
    verdict = early.evaluations.gate(done[1].run.run_id, done[0].run.run_id, "early").verdict
    assert verdict.verdict == "inconclusive"
    assert "of 20 rows 20 failed (100 %)" in "\n".join(verdict.reasons)


@pytest.mark.parametrize(
    ("prompts", "head", "primary", "problem"),
    [
        (["early@1"], "", "correct", "two cells; 1 were given"),
        (["early@1", "early@2", "early@3"], "", "correct", "two cells; 3 were given"),
        (["early@1", "early@2"], "", "words", "words is none"),
        (["early@1", "early@2"], 'cluster_by = "tags.half"\n', "correct", "this suite has cluster_by"),
    ],
)
def test_it_needs_two_cells_a_bounded_metric_and_independent_rows(early, add_suite, prompts, head, primary, problem):
    text = (early.folder / "early.toml").read_text().replace('primary = "correct"', f'primary = "{primary}"')
    add_suite("odd", 0).write_text(head + text)
    with pytest.raises(UsageError, match=problem):
        stop(early, *prompts, suite="odd")
