from __future__ import annotations

import io
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge

from labs.candidates import Candidate
from labs.evaluation import Estimate, classification_metrics, regression_metrics
from labs.figures import figures
from labs.labelled_rows import LabelledRows
from labs.training import Trained, train
from llmops.tabular import Column, RowSchema
from tests.labs.conftest import numbers

INPUTS = (Column("a", "integer"), Column("b", "number"))


def regression() -> Trained:
    def evaluate(rows: LabelledRows, predictions: Any) -> dict[str, Estimate]:
        return regression_metrics(rows.truth, predictions, rows.clusters)

    schema = RowSchema(INPUTS, Column("y", "number"), "regression")
    return train(Candidate("line", "", lambda p: Ridge(**p)), {}, schema, numbers(), numbers(seed=1), evaluate)


def classification() -> Trained:
    def evaluate(rows: LabelledRows, predictions: Any) -> dict[str, Estimate]:
        return classification_metrics(rows.truth, predictions)

    def named(rows: LabelledRows) -> LabelledRows:
        classes = np.where(rows.truth > 20, "many", "few")
        return LabelledRows(rows.name, rows.features, classes, "y", rows.ids, rows.clusters, rows.source)

    schema = RowSchema(INPUTS, Column("y", "text", categories=("few", "many")), "classification")
    candidate = Candidate("line", "", lambda p: LogisticRegression(**p))
    return train(candidate, {}, schema, named(numbers()), named(numbers(seed=1)), evaluate)


def png(figure: Any) -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def test_a_regression_is_shown_by_its_errors_and_what_they_depend_on() -> None:
    drawn = figures(regression())
    assert sorted(drawn) == ["feature_importance.png", "predicted_vs_true.png", "residuals.png"]
    assert all(png(figure).startswith(b"\x89PNG") for figure in drawn.values())
    bars = [label.get_text() for label in drawn["feature_importance.png"].axes[0].get_yticklabels()]
    assert bars == ["b", "a"]  # the most important on top


def test_a_classification_is_shown_by_its_confusions() -> None:
    drawn = figures(classification())
    assert sorted(drawn) == ["confusion.png", "feature_importance.png"]
    assert [label.get_text() for label in drawn["confusion.png"].axes[0].get_yticklabels()] == ["few", "many"]
