"""An eval set is one MLflow evaluation dataset for each content; of a large one it is the same sample in every run."""

import hashlib
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.evaluation.eval_set import EvalRow
from llmops.recording import register_eval_set
from llmops.recording.datasets import sampled, traced
from tests.recording.conftest import report

_hashes = (f"{number:064x}" for number in itertools.count(1))


@pytest.fixture
def digest():
    """A content hash that no other test uses."""
    return next(_hashes)


def rows(n: int, **inputs: str) -> list[EvalRow]:
    return [
        EvalRow(f"r{i}", {"question": f"{i}?\x00", **inputs}, {"answers": [i]}, (), {"odd": str(i % 2)})
        for i in range(n)
    ]


def records(desk: Any, dataset_id: str) -> list[Any]:
    return list(desk.client.get_dataset(dataset_id).records)


def test_an_eval_set_becomes_a_dataset_of_its_rows_and_what_looks_like_a_session_is_wrapped(desk, digest):
    dataset_id = register_eval_set(desk.store, "sums-rows", digest, rows(3), "sums")
    made = desk.client.get_dataset(dataset_id)
    assert (made.name, made.tags["llmops.content_hash"], made.tags["llmops.rows"]) == ("sums-rows", digest, "3")
    found = {record.tags["row_id"]: record for record in records(desk, dataset_id)}
    assert found.keys() == {"r0", "r1", "r2"}
    assert found["r1"].inputs == {"question": "1?\ufffd"}
    assert found["r1"].expectations == {"answers": [1]}
    assert found["r1"].tags["odd"] == "1"
    dataset_id = register_eval_set(desk.store, "goals", digest, rows(1, goal="win"), "sums")
    assert records(desk, dataset_id)[0].inputs == {"inputs": {"question": "0?\ufffd", "goal": "win"}}


def test_the_same_content_is_registered_once_and_not_read_again(desk, digest):
    first = register_eval_set(desk.store, "again", digest, rows(2), "sums")
    assert register_eval_set(desk.store, "again", digest, (pytest.fail("read") for _ in "x"), "sums") == first
    assert register_eval_set(desk.store, "again", "0" * 64, rows(1)) != first


def test_each_suite_that_uses_an_eval_set_shows_it_and_a_run_points_to_it(desk, digest):
    for suite in ("sums", "others", "sums"):
        dataset_id = register_eval_set(desk.store, "shared", digest, rows(1), suite)
    for suite in ("sums", "others"):
        shown = desk.client.search_datasets(experiment_ids=[desk.store.experiment(suite)])
        assert [dataset.dataset_id for dataset in shown].count(dataset_id) == 1
    cell = desk.cell("pointing", eval_sets=("pointed",))
    dataset_id = register_eval_set(desk.store, "pointed", cell.eval_sets["pointed"], rows(2), "pointing")
    run = desk.recorder.record(cell, report(2), "bulk")
    [found] = desk.client.get_run(run.run_id).inputs.dataset_inputs
    assert found.dataset.source_type == "mlflow_evaluation_dataset"
    assert json.loads(found.dataset.source)["dataset_id"] == dataset_id


def test_a_registration_that_was_cut_short_is_completed(desk, digest):
    def cut_short() -> Any:
        yield rows(1)[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        register_eval_set(desk.store, "cut", digest, cut_short(), "sums")
    dataset_id = register_eval_set(desk.store, "cut", digest, rows(3), "sums")
    assert len(records(desk, dataset_id)) == 3
    assert len(desk.client.search_datasets(filter_string="name = 'cut'")) == 1


IDS = st.lists(st.text(max_size=5), unique=True, max_size=30)


@given(IDS, st.integers(1, 10), st.randoms(use_true_random=False))
def test_the_same_rows_are_chosen_in_any_order(ids, limit, random):
    shuffled = random.sample(ids, len(ids))
    assert set(sampled(zip(ids, ids, strict=True), limit)) == set(sampled(zip(shuffled, shuffled, strict=True), limit))


@given(IDS, st.integers(1, 10))
def test_the_chosen_rows_keep_their_order(ids, limit):
    chosen = sampled(((row_id, number) for number, row_id in enumerate(ids)), limit)
    assert len(chosen) == min(limit, len(ids))
    assert chosen == sorted(chosen)


def test_up_to_the_limit_every_row_is_traced_and_above_those_with_the_smallest_sha256():
    rows = report(4).results
    assert [number for number, _ in traced(rows, 4)] == [0, 1, 2, 3]
    assert len(list(traced(rows, 3))) == 3
    ids = [f"row-{i}" for i in range(50)]
    by_hash = sorted(ids, key=lambda row_id: hashlib.sha256(row_id.encode()).hexdigest())
    assert set(sampled(zip(ids, ids, strict=True), 7)) == set(by_hash[:7])


@pytest.mark.parametrize("recorder", ["bulk", "evaluate"])
def test_a_sampled_run_keeps_all_rows_and_says_what_it_shows(desk, recorder, monkeypatch):
    monkeypatch.setattr("llmops.recording.runs.MAX_TRACED_ROWS", 3)
    made = report(9)
    chosen = {result.row.id for _, result in traced(made.results, 3)}
    run = desk.recorder.record(desk.cell(), made, recorder)
    assert desk.traces(run.run_id).keys() == chosen
    assert (run.params["traced_rows"], run.params["traced_rule"]) == ("3", "smallest sha256 of the row id")
    assert list(desk.recorder.rows(run)) == list(made.results)
    assert run.rows == 9
    assert desk.client.get_run(run.run_id).data.metrics["correct/n_scored"] == 9
