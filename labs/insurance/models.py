"""The models of the insurance lab: the company's old formula, Poisson regression and boosting, both with and without
the accidents; how they are judged; and how one is brought to a new level of claims."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from labs.data import LabelledRows, Split
from labs.evaluation import MetricEstimate, PredictionScorer, poisson_deviance, poisson_metrics
from labs.insurance.splits import SCHEMA, first_split, folds
from labs.training import Candidate, Parameters, Trained, one_thread, train, train_all
from llmops.evaluation.gate_rules import GateRules


def _deviance(truth: float, said: str) -> float:
    rate = float(said)
    return 2 * ((truth * math.log(truth / rate) if truth else 0.0) - truth + rate)


DEVIANCE = PredictionScorer("deviance", _deviance)
"""Poisson deviance of a row: how much less likely its claims are than under a perfect forecast. In the long run it is
least for the true rate, unlike the absolute error, which is least for a model that says 0 to everyone."""
SCORERS = (DEVIANCE,)
RULES = GateRules(primary="deviance", rule="better")


def _poisson(alpha: float) -> Any:
    from sklearn.linear_model import PoissonRegressor

    return PoissonRegressor(alpha=alpha, solver="newton-cholesky", max_iter=1000)


def _formula(parameters: Parameters) -> Any:  # noqa: ARG001 - it has none
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import Binarizer

    steps = (("driver_age", 24.5), ("driver_age", 69.5), ("vehicle_group", 15.5), ("vehicle_group", 30.5))
    columns = ColumnTransformer(
        [(f"{name} above {edge:.0f}", Binarizer(threshold=edge), [name]) for name, edge in steps]
    )
    return Pipeline([("columns", columns), ("regression", _poisson(0.0))])


def design(with_accidents: bool) -> Any:
    """What the logarithm of the claims is linear in, unfitted: the columns of `simulation.TRUE_COEFFICIENTS` after the
    intercept, in their order; then the logarithm of the rate of accidents."""
    from sklearn.compose import ColumnTransformer
    from sklearn.preprocessing import Binarizer, FunctionTransformer, OneHotEncoder

    # One line that falls from 1 at 25 to 0 at 30, and stays what it is outside.
    young = FunctionTransformer(np.interp, kw_args={"xp": [25.0, 30.0], "fp": [1.0, 0.0]})
    accidents = [("accidents", FunctionTransformer(np.log), ["accident_rate"])] if with_accidents else []
    return ColumnTransformer(
        [
            ("young", young, ["driver_age"]),
            ("old", Binarizer(threshold=69.5), ["driver_age"]),
            ("convicted", Binarizer(threshold=0), ["conviction_points"]),
            ("lines", "passthrough", ["vehicle_group", "ncd_years"]),
            ("band", OneHotEncoder(drop="first", sparse_output=False), ["band"]),
            *accidents,
        ]
    )


def _glm(with_accidents: bool) -> Any:
    from sklearn.pipeline import Pipeline

    return lambda parameters: Pipeline([("design", design(with_accidents)), ("regression", _poisson(0.0))])  # noqa: ARG005


def _boosting(with_accidents: bool) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OrdinalEncoder

    names = [name for name in SCHEMA.names if name != "band" and (with_accidents or name != "accident_rate")]

    def build(parameters: Parameters) -> Any:
        columns = ColumnTransformer([("band", OrdinalEncoder(), ["band"]), ("others", "passthrough", names)])
        boosting = HistGradientBoostingRegressor(
            loss="poisson", learning_rate=0.05, min_samples_leaf=500, random_state=0, **parameters
        )
        return Pipeline([("columns", columns), ("regression", boosting)])

    return build


def _informed(candidate: Candidate, build: Callable[[Parameters], Any]) -> Candidate:
    """The candidate that knows the accidents too."""
    described = "the same, with the accidents of the area"
    return replace(candidate, name=f"{candidate.name}+accidents", description=described, build=build)


FORMULA = Candidate(
    name="formula",
    description="the company's old formula: factors for three classes of age and of power, fitted anew",
    build=_formula,
)
GLM = Candidate(name="glm", description="Poisson regression on all that is rated", build=_glm(False))
GLM_ACCIDENTS = _informed(GLM, _glm(True))
BOOSTING = Candidate(
    name="boosting",
    description="gradient boosting with Poisson's loss",
    build=_boosting(False),
    grid={"max_leaf_nodes": (3, 6), "max_iter": (50, 100, 200)},
    growing="max_iter",
)
BOOSTING_ACCIDENTS = _informed(BOOSTING, _boosting(True))
CANDIDATES = (FORMULA, GLM, GLM_ACCIDENTS, BOOSTING, BOOSTING_ACCIDENTS)


def train_first(table: Any, source: str) -> tuple[Trained, ...]:
    """A model of each candidate, the formula first. `labs.training.best_of` says which to take."""
    split = first_split(table, source)
    return train_all(CANDIDATES, SCHEMA, split, folds(split.training), mean_deviance, evaluate)


def mean_deviance(truth: Any, predictions: Any) -> float:
    """Of two numpy arrays, a row's on average."""
    return float(poisson_deviance(truth, predictions).mean())


def evaluate(rows: LabelledRows, predictions: Any) -> dict[str, MetricEstimate]:
    """deviance, actual_over_expected and gini, with intervals that count areas and quarters."""
    return poisson_metrics(rows.truth, predictions, rows.clusters)


def train_on(split: Split, candidate: Candidate, parameters: Parameters) -> Trained:
    """A model with given parameters, fitted and judged on a split."""
    return train(candidate, parameters, SCHEMA, split, evaluate)


def rebased(model: Trained, rows: LabelledRows) -> Trained:
    """The model with its level brought to that of some rows: claims per policy change from one quarter to the next for
    all alike far sooner than a quarter's claims could say how each kind of policy differs.

    All models have a logarithmic link. So one that is fitted anew on claims times a factor predicts its old values
    times that factor, and nothing else changes.

    rows: none of the model's holdout.
    """
    from sklearn.base import clone

    with one_thread():
        factor = float(rows.truth.sum() / model.estimator.predict(rows.features).sum())
        estimator = clone(model.estimator).fit(model.training.features, factor * model.training.truth)
        predictions = estimator.predict(model.holdout.features)
    metrics = evaluate(model.holdout, predictions)
    return replace(model, estimator=estimator, predictions=predictions, metrics=metrics)
