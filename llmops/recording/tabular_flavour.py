"""A fitted estimator as MLflow's scikit-learn model: skops, with our schema beside MLflow's signature."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmops.errors import CannotRun
from llmops.hashing import file_sha256
from llmops.tabular import Column, RowSchema
from llmops.tabular.model import check_fits
from llmops.tabular.storage import ALLOWED_TYPES, SCHEMA_KEY, make_canonical

_ESTIMATOR = "model.skops"


def log_estimator(run_id: str, estimator: Any, schema: RowSchema, example: Any) -> tuple[Any, str]:
    """MLflow's ModelInfo of the estimator, logged in a run that is active, and the sha256 of its file.

    Raises:
        CannotRun: skops cannot write it or would not read it with our list of types, or it is not one of the schema.
    """
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
            raise CannotRun(f"{type(sk_model).__name__}: {str(error).splitlines()[0]}") from error
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
    known = (".*Any type hint is inferred as AnyType", "Hint: Inferred schema contains integer column",
             "Precision is ill-defined")  # fmt: skip
    with warnings.catch_warnings():
        for message in known:
            warnings.filterwarnings("ignore", message=message)
        yield
