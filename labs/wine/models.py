"""The models of the wine lab: the candidates, the first ones, and one trained on readings of the new instrument."""

from collections.abc import Sequence
from typing import Any

from labs.data import LabelledRows, Split, joined
from labs.evaluation import CORRECT, Judgement, MetricEstimate, classification_metrics, error_rate, judge
from labs.training import Candidate, Fold, Parameters, Trained, train, train_all
from labs.wine.data import SCHEMA
from labs.wine.shift import Batch
from llmops.errors import UsageError
from llmops.evaluation.gate_rules import GateRules

SCORERS = (CORRECT,)
RULES = GateRules(primary="correct", rule="better", floors={"correct": 0.85})


def _majority(parameters: Parameters) -> Any:  # noqa: ARG001 - it has none
    from sklearn.dummy import DummyClassifier

    return DummyClassifier(strategy="most_frequent")


def _linear(parameters: Parameters) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    regression = LogisticRegression(max_iter=1000, **parameters)
    return Pipeline([("scaled", StandardScaler()), ("regression", regression)])


def _boosting(parameters: Parameters) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(min_samples_leaf=5, learning_rate=0.1, random_state=0, **parameters)


BASELINE = Candidate(
    name="majority", description="always the commonest cultivar: what any model must beat", build=_majority
)
LINEAR = Candidate(
    name="linear",
    description="logistic regression of standardised measurements",
    build=_linear,
    grid={"C": (0.1, 1.0, 10.0)},
)
BOOSTING = Candidate(
    name="boosting",
    description="gradient boosting",
    build=_boosting,
    grid={"max_leaf_nodes": (3, 8), "max_iter": (30, 60, 120)},
    growing="max_iter",
)
CANDIDATES = (BASELINE, LINEAR, BOOSTING)


def train_first(wines: Split) -> tuple[Trained, ...]:
    """A model of each candidate, the majority class first, with parameters found on the training half and judged on the
    other. `labs.training.best_of` says which to take."""
    return train_all(CANDIDATES, SCHEMA, wines, folds(wines.training), error_rate, evaluate)


def train_challenger(batches: Sequence[Batch], candidate: Candidate, parameters: Parameters) -> Trained:
    """A model of labelled batches alone: those since the readings changed, as older ones speak of another instrument.

    Raises:
        UsageError: no batches, or too few wines in them.
    """
    return train(candidate, parameters, SCHEMA, challenger_split(batches), evaluate)


def challenger_split(batches: Sequence[Batch]) -> Split:
    """Every other wine of each cultivar judges a challenger, and none of its bottles is trained on.

    Raises:
        UsageError: no batches, or too few wines in them.
    """
    if not batches:
        raise UsageError("a challenger needs a batch whose cultivars are known")
    rows = joined(f"wine {batches[0].name} to {batches[-1].name}", [batch.rows for batch in batches])
    wines = sorted({(str(cultivar), wine) for cultivar, wine in zip(rows.truth, rows.clusters, strict=True)})
    judging = {wine for _, wine in wines[1::2]}
    judges = [position for position, wine in enumerate(rows.clusters) if wine in judging]
    trains = [position for position, wine in enumerate(rows.clusters) if wine not in judging]
    if not judges or not trains:
        raise UsageError(f"{rows.name} has too few wines to train on some and judge by others")
    return Split(rows.take(f"{rows.name}, training", trains), rows.take(f"{rows.name}, held out", judges))


def folds(rows: LabelledRows) -> list[Fold]:
    """For the search: five folds with the same shares of each cultivar, three times over, since which wine falls into
    which fold makes more of a difference than most parameters do."""
    from sklearn.model_selection import RepeatedStratifiedKFold

    folding = RepeatedStratifiedKFold(n_splits=5, n_repeats=3, random_state=0)
    return [(fit.tolist(), judge.tolist()) for fit, judge in folding.split(rows.features, rows.truth)]


def evaluate(rows: LabelledRows, predictions: Any) -> dict[str, MetricEstimate]:
    """accuracy and macro_f1 with intervals; bottles of one wine count as one."""
    return classification_metrics(rows.truth, predictions, rows.clusters)


def judge_challenger(challenger: tuple[str, Any], champion: tuple[str, Any] | None, holdout: LabelledRows) -> Judgement:
    """The gate's verdict. challenger, champion: a name and the predictions for the rows held out."""
    return judge(challenger, champion, holdout, SCORERS, RULES)
