"""Of a large eval set MLflow shows a sample: the same rows in every run, while files and metrics hold all."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.recording import EvalRecorder
from llmops.recording.datasets import sampled, traced

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


def test_the_rule_is_the_smallest_sha256_of_the_row_id():
    ids = [f"row-{i}" for i in range(50)]
    by_hash = sorted(ids, key=lambda row_id: hashlib.sha256(row_id.encode()).hexdigest())
    assert set(sampled(zip(ids, ids, strict=True), 7)) == set(by_hash[:7])


def test_up_to_the_limit_every_row_is_traced(report):
    rows = report(4).results
    assert [number for number, _ in traced(rows, 4)] == [0, 1, 2, 3]
    assert len(list(traced(rows, 3))) == 3


@pytest.mark.parametrize("recorder", ["bulk", "evaluate"])
def test_a_sampled_run_keeps_all_rows_and_says_what_it_shows(desk, report, recorder):
    made = report(9)
    chosen = {result.row.id for _, result in traced(made.results, 3)}
    run = EvalRecorder(desk.store, max_traced_rows=3).record(desk.cell(), made, recorder)
    assert desk.traces(run.run_id).keys() == chosen
    assert (run.params["traced_rows"], run.params["traced_rule"]) == ("3", "smallest sha256 of the row id")
    assert list(desk.recorder.rows(run)) == list(made.results)
    assert run.rows == 9
    assert desk.client.get_run(run.run_id).data.metrics["correct/n_scored"] == 9
