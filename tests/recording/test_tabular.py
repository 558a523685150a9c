"""Training runs of tabular models in MLflow, and what can be done with the models there."""

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from llmops.errors import CannotRun
from llmops.hashing import content_hash, file_sha256
from llmops.recording import LoggedTabular, UsedData, evaluate_tabular, record_training
from llmops.tabular import Column, RowSchema, load
from tests.tabular.fitted import CLASSES, NUMBERED, REGRESSION, fitted, frame, rows_of, target

DATA = frame(60)


def record(desk: Any, name: str, schema: RowSchema = REGRESSION, **changed: Any) -> LoggedTabular:
    estimator = changed.pop("estimator", None) or fitted(name, schema)
    given: dict[str, Any] = {"experiment": "lab-bike", "run_name": name, "estimator": estimator, "schema": schema,
                              "example": DATA[:2], "parameters": {}, "metrics": {}}  # fmt: skip
    return record_training(desk.store, **given | changed)


def labelled(schema: RowSchema) -> Any:
    return DATA.assign(**{schema.output.name: target(DATA, schema)})


def test_a_training_run_has_all_that_was_handed_over(desk, tmp_path):
    figure = Figure()
    figure.subplots().plot([1, 2])
    (tmp_path / "rows.csv").write_bytes(b"a,b\n")
    data = labelled(REGRESSION)
    sha256 = content_hash("bike")
    used = [UsedData("bike", data, sha256, "pypi:bike"), UsedData("bike", data[:9], sha256[::-1], "pypi:bike", "test")]
    parameters = {"max_iter": 20, "loss": "poisson", "grid": {"depth": [1, 2]}, **{f"p{i}": i for i in range(120)}}

    logged = record(
        desk,
        "ridge",
        parameters=parameters,
        metrics={"rmse": 40.5, "rmse_low": 38, "rmse_high": 42.25},
        figures={"figures/residuals.png": figure},
        files={"quality/report.json": '{"ok": 1}', "data/r.csv": tmp_path / "rows.csv"},
        datasets=used,
        tags={"llmops.lab": "bike"},
    )

    run = desk.client.get_run(logged.run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "ridge")
    assert run.data.tags["llmops.lab"] == "bike"
    assert len(run.data.params) == 123
    assert (run.data.params["max_iter"], run.data.params["grid"]) == ("20", '{"depth":[1,2]}')
    assert run.data.metrics == {"rmse": 40.5, "rmse_low": 38.0, "rmse_high": 42.25}
    files = Path(desk.client.download_artifacts(logged.run_id, "", str(tmp_path)))
    assert (files / "figures/residuals.png").read_bytes().startswith(b"\x89PNG")
    assert (files / "quality/report.json").read_text() == '{"ok": 1}'
    assert (files / "data/r.csv").read_bytes() == b"a,b\n"
    inputs = {
        tag.value: item.dataset
        for item in run.inputs.dataset_inputs
        for tag in item.tags
        if tag.key == "mlflow.data.context"
    }
    assert inputs["training"].digest == sha256[:36]
    assert json.loads(inputs["training"].profile) == {"num_rows": 60, "num_elements": 360}
    assert json.loads(inputs["training"].schema)["mlflow_colspec"][0] == {"type": "long", "name": "hour",
                                                                          "required": True}  # fmt: skip
    assert inputs["test"].name == "bike"
    assert [model.model_id for model in run.outputs.model_outputs] == [logged.model_id]


def model_folder(desk: Any, logged: LoggedTabular, tmp_path: Path) -> Path:
    import mlflow

    desk.store.make_current()
    return Path(mlflow.artifacts.download_artifacts(logged.model_uri, dst_path=str(tmp_path)))


def test_the_model_is_read_back_with_its_schema(desk, tmp_path):
    logged = record(desk, "logistic", CLASSES)
    folder = model_folder(desk, logged, tmp_path)
    read = load(folder)
    assert read.schema == CLASSES
    assert logged.schema == CLASSES.to_json()
    assert read.predict(rows_of(DATA)).values == fitted("logistic", CLASSES).predict(DATA).tolist()
    assert file_sha256(folder / "model.skops") == logged.sha256
    described = (folder / "MLmodel").read_text()
    assert "serialization_format: skops" in described
    assert not list(folder.rglob("*.pkl"))


def test_an_estimator_logged_again_has_the_same_sha256(desk):
    first, second = record(desk, "mean"), record(desk, "mean")
    assert first.sha256 == second.sha256
    assert first.model_id != second.model_id


def test_the_signature_is_that_of_the_schema(desk):
    import mlflow

    logged = record(desk, "ridge")
    found = mlflow.models.get_model_info(logged.model_uri)
    assert [(column.name, column.type.name) for column in found.signature.inputs] == [
        ("hour", "long"),
        ("holiday", "boolean"),
        ("temp", "double"),
        ("sky", "string"),
        ("wind", "double"),
    ]
    assert [column.type.name for column in found.signature.outputs] == ["double"]
    assert found.saved_input_example_info is not None


def test_mlflow_serves_the_champion_by_its_alias(desk):
    import mlflow

    schema = RowSchema(REGRESSION.inputs, Column("count", "integer"), "regression")
    logged = record(desk, "boosting of logarithms", schema)
    version, _ = desk.registry.tabular_versions.register("bike", logged)
    desk.registry.tabular_versions.promote(version, why="the first one")
    desk.store.make_current()
    served = mlflow.pyfunc.load_model("models:/bike@champion")
    assert served.predict(DATA).tolist() == fitted("boosting of logarithms", schema).predict(DATA).tolist()
    fetched = load(desk.registry.tabular_versions.fetch(version))
    assert fetched.predict(rows_of(DATA)).values == pytest.approx(served.predict(DATA).tolist())


def test_an_estimator_that_could_not_be_served_or_of_another_schema_fails_its_run(desk):
    from sklearn.preprocessing import FunctionTransformer

    estimator = fitted("ridge")
    estimator.steps.insert(1, ("own", FunctionTransformer(rows_of)))
    with pytest.raises(CannotRun, match="rows_of"):
        record(desk, "ridge", estimator=estimator, experiment="lab-refused")
    (run,) = desk.client.search_runs([desk.store.experiment("lab-refused")])
    assert run.info.status == "FAILED"
    with pytest.raises(CannotRun, match="no model for classification"):
        record(desk, "mean", CLASSES, estimator=fitted("ridge"))


@pytest.mark.parametrize(("name", "schema", "expected"), [("ridge", REGRESSION, "root_mean_squared_error"),
                                                          ("forest", CLASSES, "f1_score"),
                                                          ("majority", NUMBERED, "accuracy_score")])  # fmt: skip
def test_mlflows_evaluation_stands_in_the_run(desk, name, schema, expected):
    logged = record(desk, name, schema, metrics={"ours": 1.0})
    found = evaluate_tabular(desk.store, logged.run_id, logged, labelled(schema), schema.output.name, schema.task)
    run = desk.client.get_run(logged.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics[expected] == found[expected]
    assert run.data.metrics["ours"] == 1.0
    assert expected in {metric.key for metric in desk.client.get_logged_model(logged.model_id).metrics}
