import io
import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from labs.data import DataFinding, LabelledRows, QualityReport, Split
from labs.evaluation import MetricEstimate, classification_metrics, regression_metrics
from labs.recording import figures, record, replay_figure
from labs.training import Candidate, Trained, train
from llmops.recording.tabular import evaluate_tabular
from llmops.registry import Store
from llmops.settings import Settings
from llmops.tabular import Column, RowSchema
from llmops.tabular.storage import load
from tests.labs.conftest import numbers

INPUTS = (Column("a", "integer"), Column("b", "number"))


def regression() -> Trained:
    def evaluate(rows: LabelledRows, predictions: Any) -> dict[str, MetricEstimate]:
        return regression_metrics(rows.truth, predictions, rows.clusters)

    schema = RowSchema(INPUTS, Column("y", "number"), "regression")
    return train(Candidate("line", "", lambda p: Ridge(**p)), {}, schema, Split(numbers(), numbers(seed=1)), evaluate)


def classification() -> Trained:
    def evaluate(rows: LabelledRows, predictions: Any) -> dict[str, MetricEstimate]:
        return classification_metrics(rows.truth, predictions)

    def named(rows: LabelledRows) -> LabelledRows:
        classes = np.where(rows.truth > 20, "many", "few")
        return LabelledRows(rows.name, rows.features, classes, "y", rows.ids, rows.clusters, rows.source)

    schema = RowSchema(INPUTS, Column("y", "text", categories=("few", "many")), "classification")
    candidate = Candidate("line", "", lambda p: LogisticRegression(**p))
    return train(candidate, {}, schema, Split(named(numbers()), named(numbers(seed=1))), evaluate)


def png(figure: Any) -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def test_a_regression_is_shown_by_its_errors_and_what_they_depend_on():
    drawn = figures(regression())
    assert sorted(drawn) == ["feature_importance.png", "predicted_vs_true.png", "residuals.png"]
    assert all(png(figure).startswith(b"\x89PNG") for figure in drawn.values())
    bars = [label.get_text() for label in drawn["feature_importance.png"].axes[0].get_yticklabels()]
    assert bars == ["b", "a"]  # the most important on top


def test_a_classification_is_shown_by_its_confusions():
    drawn = figures(classification())
    assert sorted(drawn) == ["confusion.png", "feature_importance.png"]
    assert [label.get_text() for label in drawn["confusion.png"].axes[0].get_yticklabels()] == ["few", "many"]


QUALITY = QualityReport("file:a.csv", "ab" * 32, 5, 3, (DataFinding("imputed", "x", 3, "empty"),), ())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(Settings(home=tmp_path_factory.mktemp("home")))


def test_a_run_holds_data_metrics_with_intervals_pictures_and_the_model_that_was_judged(store, tmp_path):
    model = regression()
    logged = record(store, "tiny", model, QUALITY, "7")
    run = store.client.get_run(logged.run_id)
    assert run.data.metrics["rmse"] == model.metrics["rmse"].value
    assert run.data.metrics["rmse_low"] < run.data.metrics["rmse"] < run.data.metrics["rmse_high"]
    assert run.data.params == {"candidate": "line", "rows_trained_on": "60", "rows_held_out": "60"}
    assert (run.data.tags["llmops.lab"], run.data.tags["llmops.cycle"]) == ("tiny", "7")
    contexts = {
        used.dataset.digest: tag.value
        for used in run.inputs.dataset_inputs
        for tag in used.tags
        if tag.key == "mlflow.data.context"
    }
    assert contexts == {model.training.sha256[:36]: "training", model.holdout.sha256[:36]: "test"}
    assert {file.path for file in store.client.list_artifacts(logged.run_id)} == {
        "data_quality.json", "data_quality.md", "feature_importance.png", "metrics.json", "predicted_vs_true.png",
        "residuals.png",
    }  # fmt: skip
    quality = store.client.download_artifacts(logged.run_id, "data_quality.json", str(tmp_path))
    assert json.loads(Path(quality).read_text())["findings"][0]["count"] == 3
    served = load(Path(mlflow.artifacts.download_artifacts(logged.model_uri)))
    assert served.predict(model.holdout.rows()).values == pytest.approx(model.predictions.tolist())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "theirs", "ours"),
    [(regression, "root_mean_squared_error", "rmse"), (classification, "accuracy_score", "accuracy")],
)
def test_mlflows_own_evaluation_stands_beside_ours(store, make, theirs, ours):
    model = make()
    logged = record(store, "tiny", model, QUALITY, "7")
    evaluate_tabular(store, logged.run_id, logged, model.holdout.frame, model.holdout.target, model.schema.task)
    metrics = store.client.get_run(logged.run_id).data.metrics
    assert metrics[theirs] == pytest.approx(metrics[ours])


ERRORS = {"2012-01": 90.0, "2012-02": 45.0, "2012-03": 50.0}


def result() -> dict[str, Any]:
    looked = [{"window": name, "error": error, "alarm": name == "2012-01"} for name, error in ERRORS.items()]
    return {"lab": "bike", "monitoring": looked, "retrained": [{"at": "2012-01", "to": "bike@2"}]}


def test_errors_alarms_promotions_and_what_would_have_been_are_drawn():
    unchanged = {"2012-01": 90.0, "2012-02": 106.0, "2012-03": 149.0}
    figure = replay_figure(result(), unchanged)
    (axes,) = figure.axes
    never_retrained, served, promotion = axes.lines
    assert list(never_retrained.get_ydata()) == list(unchanged.values())
    assert list(served.get_ydata()) == list(ERRORS.values())
    assert promotion.get_xdata()[0] == 0.5  # between January and February
    assert axes.collections[0].get_offsets().tolist() == [[0, 90.0]]
    assert [text.get_text() for text in axes.texts] == ["bike@2 ▸"]
    assert axes.get_ylabel() == "RMSE, rentals an hour"
    assert png(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize("alarm", [True, False])
def test_a_year_without_promotion_is_one_line(alarm):
    quiet = {**result(), "retrained": []}
    quiet["monitoring"] = [{**each, "alarm": alarm} for each in quiet["monitoring"]]
    (axes,) = replay_figure(quiet).axes
    assert len(axes.lines) == 1
    assert len(axes.collections[0].get_offsets()) == 3 * alarm
    assert not axes.texts
