"""The models that are tried on the wines."""

from __future__ import annotations

from typing import Any

from labs.candidates import Candidate, Parameters


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
