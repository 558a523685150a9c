"""The models of the bike lab: the candidates, the first ones, trained on 2011, and those that follow them month by
month; and what a new one must show."""

from typing import Any

import numpy as np

from labs.bike.splits import SCHEMA, WORKSHOP_COLUMNS, first_split, folds, split_until
from labs.data import LabData, LabelledRows, Split
from labs.evaluation import ABSOLUTE_ERROR, SQUARED_ERROR, Judgement, MetricEstimate, judge, regression_metrics, rmse
from labs.training import Candidate, Parameters, Trained, train, train_all
from llmops.evaluation.gate_rules import GateRules

SCORERS = (ABSOLUTE_ERROR, SQUARED_ERROR)
"""Both are compared; the squared error, whose mean is the RMSE's square, is not gated: in the 7 days that judge a
challenger a single wild hour decides it."""
RULES = GateRules(
    primary="absolute_error",
    rule="better",
    # With or without a champion, forecasts that are off by more than this are of no use to those who move bicycles.
    ceilings={"absolute_error": 60.0},
)


def _forest(parameters: Parameters) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.pipeline import Pipeline

    # One thread for each core; trees do not depend on it.
    forest = RandomForestRegressor(random_state=42, n_jobs=-1, **parameters)
    columns = ColumnTransformer([("columns", "passthrough", list(WORKSHOP_COLUMNS))])
    return Pipeline([("columns", columns), ("forest", forest)])


def _linear(parameters: Parameters) -> Any:
    from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OneHotEncoder, PolynomialFeatures, StandardScaler

    # The rush hours are those of working days: each hour has a level of its own on working days and on others.
    hours = Pipeline(
        [
            ("levels", OneHotEncoder(handle_unknown="ignore")),
            ("pairs", PolynomialFeatures(2, interaction_only=True, include_bias=False)),
        ]
    )
    weather = Pipeline([("scaled", StandardScaler()), ("squares", PolynomialFeatures(2, include_bias=False))])
    columns = ColumnTransformer(
        [
            ("hours", hours, ["hour", "workingday"]),
            ("levels", OneHotEncoder(handle_unknown="ignore"), ["season", "weekday", "weathersit"]),
            ("weather", weather, ["temp", "humidity", "windspeed"]),
            ("scaled", StandardScaler(), ["year", "holiday"]),
        ]
    )
    # Rain halves what the hour brings, it does not take 50 off: effects are sums of logarithms.
    model = Pipeline([("columns", columns), ("ridge", Ridge(**parameters))])
    return TransformedTargetRegressor(model, func=np.log1p, inverse_func=np.expm1)


def _boosting(parameters: Parameters) -> Any:
    from sklearn.ensemble import HistGradientBoostingRegressor

    # Counts: Poisson's loss sums effects on the logarithm too, and needs no transformed target.
    return HistGradientBoostingRegressor(loss="poisson", l2_regularization=1.0, random_state=0, **parameters)


BASELINE = Candidate(
    name="forest",
    description="the random forest of the workshop this lab grew from, on its columns and its grid",
    build=_forest,
    grid={"max_depth": (5, 10, 15, 20), "n_estimators": (50, 100, 150, 200)},
    growing="n_estimators",
)
LINEAR = Candidate(
    name="linear",
    description="ridge regression of the logarithm of the count",
    build=_linear,
    grid={"alpha": (0.1, 1.0, 10.0, 100.0)},
)
BOOSTING = Candidate(
    name="boosting",
    description="gradient boosting with Poisson's loss",
    build=_boosting,
    grid={"max_leaf_nodes": (8, 15, 31), "learning_rate": (0.05, 0.1), "max_iter": (100, 200, 300)},
    growing="max_iter",
)
CANDIDATES = (BASELINE, LINEAR, BOOSTING)


def train_first(data: LabData) -> tuple[Trained, ...]:
    """A model of each candidate, the workshop's forest first, with parameters found on January to October 2011 and
    judged on November and December. `labs.training.best_of` says which to take."""
    split = first_split(data.table, data.fetched.source)
    return train_all(CANDIDATES, SCHEMA, split, folds(split.training), rmse, evaluate)


def train_challenger(data: LabData, month: str, candidate: Candidate, parameters: Parameters) -> Trained:
    """A model of the same kind on every hour up to the end of `month` (`2012-03`) but for the month's last 10 days,
    which judge it against the champion. `year` among the columns lets it tell this year's level from the last's, so
    older rows need not count less.

    Raises:
        UsageError: the data has no hour of that month.
    """
    return train_on(split_until(data.table, month, data.fetched.source), candidate, parameters)


def train_on(split: Split, candidate: Candidate, parameters: Parameters) -> Trained:
    """A model with given parameters, fitted and judged on a split."""
    return train(candidate, parameters, SCHEMA, split, evaluate)


def evaluate(rows: LabelledRows, predictions: Any) -> dict[str, MetricEstimate]:
    """rmse, mae, relative_error and r2 with intervals that count days."""
    return regression_metrics(rows.truth, predictions, rows.clusters)


def judge_challenger(challenger: tuple[str, Any], champion: tuple[str, Any] | None, holdout: LabelledRows) -> Judgement:
    """The gate's verdict. challenger, champion: a name and the predictions for the rows held out."""
    return judge(challenger, champion, holdout, SCORERS, RULES)
