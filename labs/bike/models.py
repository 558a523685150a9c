"""The models of the bike lab: the first ones, trained on 2011, and those that follow them month by month."""

from __future__ import annotations

from typing import Any

from labs.bike.candidates import CANDIDATES
from labs.bike.data import BikeData
from labs.bike.features import SCHEMA
from labs.bike.gate import RULES, SCORERS
from labs.bike.splits import Split, first_split, folds, split_until
from labs.candidates import Candidate, Parameters
from labs.evaluation import Estimate, regression_metrics, rmse
from labs.gating import Judgement, judge
from labs.labelled_rows import LabelledRows
from labs.training import Trained, train, train_all

METRIC = "rmse"


def train_first(data: BikeData) -> tuple[Trained, ...]:
    """A model of each candidate, the workshop's forest first, with parameters found on January to October 2011 and
    judged on November and December. `labs.training.best_of` says which to take."""
    split = first_split(data.table, data.fetched.source)
    return train_all(CANDIDATES, SCHEMA, split.training, split.holdout, folds(split.training), rmse, evaluate)


def train_challenger(data: BikeData, month: str, candidate: Candidate, parameters: Parameters) -> Trained:
    """A model of the same kind on every hour up to the end of `month` (`2012-03`) but for the month's last 10 days,
    which judge it against the champion. `year` among the columns lets it tell this year's level from the last's, so
    older rows need not count less.

    Raises:
        UsageError: the data has no hour of that month.
    """
    split = split_until(data.table, month, data.fetched.source)
    return train_on(split, candidate, parameters)


def train_on(split: Split, candidate: Candidate, parameters: Parameters) -> Trained:
    """A model with given parameters, fitted and judged on a split."""
    return train(candidate, parameters, SCHEMA, split.training, split.holdout, evaluate)


def evaluate(rows: LabelledRows, predictions: Any) -> dict[str, Estimate]:
    """rmse, mae, relative_error and r2 with intervals that count days."""
    return regression_metrics(rows.truth, predictions, rows.clusters)


def judge_challenger(challenger: tuple[str, Any], champion: tuple[str, Any] | None, holdout: LabelledRows) -> Judgement:
    """The gate's verdict. challenger, champion: a name and the predictions for the rows held out."""
    return judge(challenger, champion, holdout, SCORERS, RULES)
