"""An eval set is an MLflow evaluation dataset once for each content, and runs say which one they were scored on."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from llmops.evaluation.eval_set import EvalRow
from llmops.recording import find_eval_set, register_eval_set

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


def test_an_eval_set_becomes_a_dataset_of_its_rows(desk, digest):
    dataset_id = register_eval_set(desk.store, "sums-rows", digest, rows(3), "sums")
    made = desk.client.get_dataset(dataset_id)
    assert (made.name, made.tags["llmops.content_hash"], made.tags["llmops.rows"]) == ("sums-rows", digest, "3")
    found = {record.tags["row_id"]: record for record in records(desk, dataset_id)}
    assert found.keys() == {"r0", "r1", "r2"}
    assert found["r1"].inputs == {"question": "1?\ufffd"}
    assert found["r1"].expectations == {"answers": [1]}
    assert found["r1"].tags["odd"] == "1"


def test_the_same_content_is_registered_once_and_not_read_again(desk, digest):
    first = register_eval_set(desk.store, "again", digest, rows(2), "sums")
    assert register_eval_set(desk.store, "again", digest, (pytest.fail("read") for _ in "x"), "sums") == first
    assert find_eval_set(desk.store, "again", digest) == first
    assert find_eval_set(desk.store, "other", digest) is None
    assert register_eval_set(desk.store, "again", "0" * 64, rows(1)) != first


def test_each_suite_that_uses_an_eval_set_shows_it(desk, digest):
    for suite in ("sums", "others", "sums"):
        dataset_id = register_eval_set(desk.store, "shared", digest, rows(1), suite)
    for suite in ("sums", "others"):
        shown = desk.client.search_datasets(experiment_ids=[desk.store.experiment(suite)])
        assert [dataset.dataset_id for dataset in shown].count(dataset_id) == 1


def test_a_registration_that_was_cut_short_is_completed(desk, digest):
    def cut_short() -> Any:
        yield rows(1)[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        register_eval_set(desk.store, "cut", digest, cut_short(), "sums")
    dataset_id = register_eval_set(desk.store, "cut", digest, rows(3), "sums")
    assert len(records(desk, dataset_id)) == 3
    assert len(desk.client.search_datasets(filter_string="name = 'cut'")) == 1


def test_an_input_that_mlflow_takes_for_a_session_is_wrapped(desk, digest):
    dataset_id = register_eval_set(desk.store, "goals", digest, rows(1, goal="win"), "sums")
    assert records(desk, dataset_id)[0].inputs == {"inputs": {"question": "0?\ufffd", "goal": "win"}}


def test_a_run_points_to_the_registered_dataset(desk, report):
    cell = desk.cell("pointing", eval_sets=("pointed",))
    dataset_id = register_eval_set(desk.store, "pointed", cell.eval_sets["pointed"], rows(2), "pointing")
    run = desk.recorder.record(cell, report(2), "bulk")
    [found] = desk.client.get_run(run.run_id).inputs.dataset_inputs
    assert found.dataset.source_type == "mlflow_evaluation_dataset"
    assert json.loads(found.dataset.source)["dataset_id"] == dataset_id
