from __future__ import annotations

from pathlib import Path

import pytest
from skops.io import dump

from labs.data import Split
from labs.training import Candidate, Trained, best_of, train
from labs.wine.data import SCHEMA
from labs.wine.models import (
    BASELINE,
    CANDIDATES,
    LINEAR,
    evaluate,
    folds,
    judge_challenger,
    train_challenger,
    train_first,
)
from labs.wine.shift import stream
from llmops.errors import UsageError
from llmops.tabular.model import TabularModel
from llmops.tabular.storage import read_estimator


def first(wines: Split, candidate: Candidate = LINEAR) -> Trained:
    parameters = {"linear": {"C": 0.1}, "boosting": {"max_iter": 20}, "majority": {}}[candidate.name]
    return train(candidate, parameters, SCHEMA, wines, evaluate)


@pytest.mark.parametrize("candidate", CANDIDATES, ids=lambda candidate: candidate.name)
def test_every_candidate_is_written_without_pickle_and_predicts_the_same_from_rows(
    wines: Split, candidate: Candidate, tmp_path: Path
) -> None:
    model = first(wines, candidate)
    dump(model.estimator, tmp_path / "model.skops")
    said = TabularModel(read_estimator(tmp_path / "model.skops"), SCHEMA).predict(model.holdout.rows())
    assert said.values == model.predictions.tolist()
    assert said.probabilities is not None
    assert set(said.probabilities[0]) == {"class_0", "class_1", "class_2"}


def test_a_model_beats_the_majority_at_the_gate(wines: Split) -> None:
    linear, majority = first(wines), first(wines, BASELINE)
    assert majority.metrics["accuracy"].value == pytest.approx(0.39, abs=0.02)
    assert linear.metrics["accuracy"].ci95[0] > 0.9
    judgement = judge_challenger(("wine@2", linear.predictions), ("wine@1", majority.predictions), wines.holdout)
    assert judgement.passed, judgement.verdict.reasons


def test_the_new_instrument_hurts_and_retraining_on_its_readings_mends_it(wines: Split) -> None:
    champion, batches = first(wines), stream(wines.holdout)

    def accuracy(model: Trained, number: int) -> float:
        rows = batches[number - 1].rows
        return evaluate(rows, model.estimator.predict(rows.features))["accuracy"].value

    assert min(accuracy(champion, number) for number in range(1, 7)) > 0.95
    assert max(accuracy(champion, number) for number in range(7, 13)) < 0.85
    challenger = train_challenger(batches[6:8], champion.candidate, champion.parameters)
    old = champion.estimator.predict(challenger.holdout.features)
    judgement = judge_challenger(("wine@2", challenger.predictions), ("wine@1", old), challenger.holdout)
    assert judgement.passed, judgement.verdict.reasons
    assert min(accuracy(challenger, number) for number in range(9, 13)) > 0.95


def test_no_wine_that_judges_a_challenger_was_trained_on(wines: Split) -> None:
    challenger = train_challenger(stream(wines.holdout)[6:8], LINEAR, {"C": 0.1})
    assert not set(challenger.training.clusters) & set(challenger.holdout.clusters)
    assert set(challenger.training.truth) == set(challenger.holdout.truth)
    assert challenger.training.name == "wine batch 07 to batch 08, training"


def test_a_challenger_needs_labelled_batches(wines: Split) -> None:
    with pytest.raises(UsageError, match="needs a batch whose cultivars are known"):
        train_challenger([], LINEAR, {"C": 0.1})


def test_folds_judge_every_wine_three_times(wines: Split) -> None:
    judged = [position for _, judge_on in folds(wines.training) for position in judge_on]
    assert sorted(judged) == sorted(list(range(89)) * 3)


@pytest.mark.slow
def test_the_search_chooses_a_simple_model_for_so_few_wines(wines: Split) -> None:
    models = train_first(wines)
    assert [model.name for model in models] == ["majority", "linear", "boosting"]
    assert best_of(models).name == "linear"
