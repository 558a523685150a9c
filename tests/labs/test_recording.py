from __future__ import annotations

import json
from pathlib import Path

import pytest

from labs.quality import Finding, QualityReport
from labs.recording import record
from labs.training import Trained
from llmops.registry import Store
from llmops.settings import Settings
from llmops.tabular.storage import load
from tests.labs.test_figures import classification, regression

QUALITY = QualityReport("file:a.csv", "ab" * 32, 5, 3, (Finding("imputed", "x", 3, "empty"),), ())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(Settings(home=tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="module")
def model() -> Trained:
    return regression()


def test_a_run_holds_data_metrics_with_intervals_pictures_and_the_model(
    store: Store, model: Trained, tmp_path: Path
) -> None:
    logged = record(store, "tiny", model, QUALITY, with_evaluate=False, tags={"cycle": "7"})
    run = store.client.get_run(logged.run_id)
    assert run.data.metrics["rmse"] == model.metrics["rmse"].value
    assert run.data.metrics["rmse_low"] < run.data.metrics["rmse"] < run.data.metrics["rmse_high"]
    assert run.data.params == {"candidate": "line", "rows_trained_on": "60", "rows_held_out": "60"}
    assert (run.data.tags["llmops.lab"], run.data.tags["cycle"]) == ("tiny", "7")
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


def test_the_model_that_was_recorded_predicts_what_was_judged(store: Store, model: Trained) -> None:
    import mlflow

    logged = record(store, "tiny", model, QUALITY, with_evaluate=False)
    served = load(Path(mlflow.artifacts.download_artifacts(logged.model_uri)))
    assert served.predict(model.holdout.rows()).values == pytest.approx(model.predictions.tolist())


@pytest.mark.slow
def test_mlflows_own_evaluation_stands_beside_ours(store: Store, model: Trained) -> None:
    metrics = store.client.get_run(record(store, "tiny", model, QUALITY).run_id).data.metrics
    assert metrics["root_mean_squared_error"] == pytest.approx(metrics["rmse"])
    metrics = store.client.get_run(record(store, "tiny", classification(), QUALITY).run_id).data.metrics
    assert metrics["accuracy_score"] == pytest.approx(metrics["accuracy"])
