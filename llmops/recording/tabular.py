"""Training runs of tabular models in MLflow: parameters, metrics, figures, data, and the model itself as skops."""

import json
import logging
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops.errors import CannotRun, first_line
from llmops.hashing import file_sha256
from llmops.recording.cell import shown_param
from llmops.registry.releases import LoggedTabular
from llmops.registry.store import Store, translated
from llmops.tabular import Column, RowSchema, Task
from llmops.tabular.model import check_fits
from llmops.tabular.storage import ALLOWED_TYPES, SCHEMA_KEY, make_canonical

DATA_TAG = "llmops.data_sha256"
_LONGEST_DIGEST = 36  # MLflow's limit
_MLFLOW_TYPES = {"i": "long", "u": "long", "f": "double", "b": "boolean", "M": "datetime"}
_ESTIMATOR = "model.skops"


@dataclass(frozen=True, slots=True)
class UsedData:
    """A table that a training run used, as MLflow shows it among the run's datasets.

    frame: a pandas DataFrame. target: the name of its column; None where there is none. sha256: of
    the table's content; MLflow's digest is its beginning. source: where the table came from. context: what it was used
    for: `training`, `validation`, `test`.
    """

    name: str
    frame: Any
    sha256: str
    source: str
    context: str = "training"


def record_training(
    store: Store,
    *,
    experiment: str,
    run_name: str,
    estimator: Any,
    schema: RowSchema,
    example: Any,
    parameters: Mapping[str, Any],
    metrics: Mapping[str, float],
    figures: Mapping[str, Any] | None = None,
    files: Mapping[str, Path | str] | None = None,
    datasets: Sequence[UsedData] = (),
    tags: Mapping[str, str] | None = None,
) -> LoggedTabular:
    """Writes one training run with the model it made.

    estimator: fitted on a frame with the schema's inputs.
    example: a frame of a few such rows.
    metrics: by name; the ends of an interval are metrics too (`rmse_low`, `rmse_high`).
    figures: matplotlib's, by file name.
    files: texts, or paths of files to copy, by the name they get.

    Raises CannotRun: the estimator cannot be written as skops, or could not be served. StoreUnavailable.
    """
    from mlflow.entities import Metric

    experiment_id = store.experiment(experiment)
    with (
        translated(f"recording the training of {run_name}"),
        # nested: a caller may be within a run of its own.
        store.start_run(experiment_id=experiment_id, run_name=run_name, tags=dict(tags or {}), nested=True) as run,
    ):
        run_id = str(run.info.run_id)
        _log_data(store, run_id, datasets)
        now = int(time.time() * 1000)
        points = [Metric(name, float(value), now, 0) for name, value in metrics.items()]
        store.log_numbers(run_id, points, {name: shown_param(value) for name, value in parameters.items()})
        for name, figure in (figures or {}).items():
            store.client.log_figure(run_id, figure, name)
        for name, file in (files or {}).items():
            if isinstance(file, str):
                store.client.log_text(run_id, file, name)
                continue
            folder, _, base = name.rpartition("/")
            with tempfile.TemporaryDirectory() as scratch:  # the artifact gets the name of a file
                copied = shutil.copyfile(file, Path(scratch) / base)
                store.client.log_artifact(run_id, str(copied), folder or None)
        logged, sha256 = log_estimator(run_id, estimator, schema, example)
    return LoggedTabular(run_id, str(logged.model_id), str(logged.model_uri), sha256, schema.to_json())


def evaluate_tabular(
    store: Store, run_id: str, logged: LoggedTabular, frame: Any, target: str, task: Task
) -> Mapping[str, float]:
    """MLflow's own evaluation of a logged model on a frame with features and target; its metrics and figures are
    written to the run and shown with the model. Returns the metrics. Raises StoreUnavailable."""
    import mlflow

    # Of classes that are numbers it says at every evaluation that they look like none.
    logging.getLogger("mlflow.models.evaluation.evaluators.classifier").setLevel(logging.ERROR)
    with (
        translated(f"evaluating {logged.model_uri}"),
        store.start_run(run_id=run_id, nested=True),
        quiet_mlflow(),
    ):
        result = mlflow.models.evaluate(
            logged.model_uri,
            frame,
            targets=target,
            model_type="regressor" if task == "regression" else "classifier",
            evaluators="default",
            evaluator_config={"log_model_explainability": False, "log_explainer": False},
        )
    return {name: float(value) for name, value in result.metrics.items()}


def _log_data(store: Store, run_id: str, datasets: Sequence[UsedData]) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = []
    for used in datasets:
        columns = [
            {"type": _MLFLOW_TYPES.get(dtype.kind, "string"), "name": str(name), "required": True}
            for name, dtype in used.frame.dtypes.items()
        ]
        entity = Dataset(
            used.name,
            used.sha256[:_LONGEST_DIGEST],
            "catalogue",
            json.dumps({"uri": used.source}),
            schema=json.dumps({"mlflow_colspec": columns}),
            profile=json.dumps({"num_rows": len(used.frame), "num_elements": int(used.frame.size)}),
        )
        tags = {"mlflow.data.context": used.context, DATA_TAG: used.sha256}
        inputs.append(DatasetInput(entity, [InputTag(name, value) for name, value in tags.items()]))
    if inputs:
        store.client.log_inputs(run_id, datasets=inputs)


def log_estimator(run_id: str, estimator: Any, schema: RowSchema, example: Any) -> tuple[Any, str]:
    """MLflow's ModelInfo of the estimator, logged in a run that is active, and the sha256 of its file. Raises
    CannotRun: skops cannot write it or would not read it with our list of types, or it is not one of the schema."""
    from mlflow.models import Model

    check_fits(estimator, schema)
    flavour = _CanonicalSkops()
    with quiet_mlflow():
        logged = Model.log(
            None,
            flavour,
            name="model",
            run_id=run_id,
            metadata={SCHEMA_KEY: schema.to_json()},
            flavor_name="mlflow.sklearn",
            sk_model=estimator,
            signature=signature_of(schema),
            input_example=example,
            validate_serving_input=False,  # it would load the model once more
        )
    return logged, flavour.sha256


class _CanonicalSkops:
    """MLflow's scikit-learn flavour, whose file is written so that the same estimator is the same bytes."""

    sha256 = ""

    def save_model(
        self,
        path: str,
        mlflow_model: Any,
        sk_model: Any,
        signature: Any,
        input_example: Any,
        validate_serving_input: bool,  # noqa: ARG002  for MLflow, which passes all on
    ) -> None:
        """What MLflow calls with a folder that is to be made."""
        import mlflow.sklearn
        from mlflow.exceptions import MlflowException

        try:
            mlflow.sklearn.save_model(
                sk_model,
                path,
                mlflow_model=mlflow_model,
                signature=signature,
                input_example=input_example,
                serialization_format=mlflow.sklearn.SERIALIZATION_FORMAT_SKOPS,
                skops_trusted_types=list(ALLOWED_TYPES),
                # Left to itself, MLflow finds them by loading the model in a process that imports everything: seconds.
                pip_requirements=mlflow.sklearn.get_default_pip_requirements(include_skops=True),
            )
        except MlflowException as error:
            raise CannotRun(f"{type(sk_model).__name__}: {first_line(error)}") from error
        make_canonical(Path(path) / _ESTIMATOR)
        self.sha256 = file_sha256(Path(path) / _ESTIMATOR)


def signature_of(schema: RowSchema) -> Any:
    """MLflow's signature of the rows. A column that may hold null is one of floats, as pandas has it."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    inputs = [ColSpec(_mlflow_type(column), column.name) for column in schema.inputs]
    # A regression gives floats whatever it counts.
    output = "double" if schema.task == "regression" else _mlflow_type(schema.output)
    return ModelSignature(Schema(inputs), Schema([ColSpec(output)]))


def _mlflow_type(column: Column) -> str:
    if column.nullable and column.kind != "text":
        return "double"
    return {"integer": "long", "number": "double", "text": "string", "boolean": "boolean"}[column.kind]


@contextmanager
def quiet_mlflow() -> Iterator[None]:
    """Without warnings that nobody can act on: of MLflow's own type hints as it is imported, of integer columns with
    missing values (`RowSchema` says which can have them), and of classes that a model never predicts."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Any type hint is inferred as AnyType")
        warnings.filterwarnings("ignore", message="Hint: Inferred schema contains integer column")
        warnings.filterwarnings("ignore", message="Precision is ill-defined")
        yield
