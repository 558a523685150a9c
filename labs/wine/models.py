"""The models of the wine lab: the first ones, and one trained on readings of the new instrument."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from labs.candidates import Candidate, Parameters
from labs.evaluation import Estimate, classification_metrics, error_rate
from labs.gating import Judgement, judge
from labs.labelled_rows import LabelledRows, joined
from labs.scorers import Correct
from labs.training import Fold, Trained, train, train_all
from labs.wine.candidates import CANDIDATES
from labs.wine.data import SCHEMA, Halves
from labs.wine.shift import Batch
from llmops.errors import UsageError
from llmops.evaluation.gate_rules import GateRules

SCORERS = (Correct(),)
RULES = GateRules(primary="correct", rule="better", floors={"correct": 0.85})


METRIC = "accuracy"


def train_first(wines: Halves) -> tuple[Trained, ...]:
    """A model of each candidate, the majority class first, with parameters found on the training half and judged on the
    other. `labs.training.best_of` says which to take."""
    training = wines.training
    return train_all(CANDIDATES, SCHEMA, training, wines.holdout, folds(training), error_rate, evaluate)


def train_challenger(batches: Sequence[Batch], candidate: Candidate, parameters: Parameters) -> Trained:
    """A model of labelled batches alone: those since the readings changed, as older ones speak of another instrument.

    Raises:
        UsageError: no batches, or too few wines in them.
    """
    split = challenger_split(batches)
    return train(candidate, parameters, SCHEMA, split.training, split.holdout, evaluate)


def challenger_split(batches: Sequence[Batch]) -> Halves:
    """Every other wine of each cultivar judges a challenger, and none of its bottles is trained on.

    Raises:
        UsageError: no batches, or too few wines in them.
    """
    if not batches:
        raise UsageError("a challenger needs a batch whose cultivars are known")
    rows = joined(f"wine {batches[0].name} to {batches[-1].name}", [batch.rows for batch in batches])
    judging = _every_other_wine(rows)
    positions: dict[bool, list[int]] = {True: [], False: []}
    for position, wine in enumerate(rows.clusters):
        positions[wine in judging].append(position)
    if not positions[True] or not positions[False]:
        raise UsageError(f"{rows.name} has too few wines to train on some and judge by others")
    return Halves(
        rows.take(f"{rows.name}, training", positions[False]), rows.take(f"{rows.name}, held out", positions[True])
    )


def folds(rows: LabelledRows) -> list[Fold]:
    """For the search: five folds with the same shares of each cultivar, three times over, since which wine falls into
    which fold makes more of a difference than most parameters do."""
    from sklearn.model_selection import RepeatedStratifiedKFold

    folding = RepeatedStratifiedKFold(n_splits=5, n_repeats=3, random_state=0)
    return [(fit.tolist(), judge.tolist()) for fit, judge in folding.split(rows.features, rows.truth)]


def evaluate(rows: LabelledRows, predictions: Any) -> dict[str, Estimate]:
    """accuracy and macro_f1 with intervals; bottles of one wine count as one."""
    return classification_metrics(rows.truth, predictions, rows.clusters)


def judge_challenger(challenger: tuple[str, Any], champion: tuple[str, Any] | None, holdout: LabelledRows) -> Judgement:
    """The gate's verdict. challenger, champion: a name and the predictions for the rows held out."""
    return judge(challenger, champion, holdout, SCORERS, RULES)


def _every_other_wine(rows: LabelledRows) -> set[str]:
    wines = sorted({(str(cultivar), wine) for cultivar, wine in zip(rows.truth, rows.clusters, strict=True)})
    return {wine for _, wine in wines[1::2]}
