"""A training in MLflow: one run for each candidate, with its data, metrics with intervals, pictures, and the model."""

from __future__ import annotations

import json
from collections.abc import Mapping

from labs.evaluation import numbers
from labs.figures import figures
from labs.labelled_rows import LabelledRows
from labs.quality import QualityReport
from labs.training import Trained
from llmops.recording.tabular import LoggedTabular, UsedData, evaluate_tabular, record_training
from llmops.registry.store import Store

_EXAMPLE_ROWS = 5


def record(
    store: Store,
    lab: str,
    model: Trained,
    quality: QualityReport,
    *,
    with_evaluate: bool = True,
    tags: Mapping[str, str] | None = None,
) -> LoggedTabular:
    """Writes the run of one model into the lab's experiment, with everything it was made of and found to be.

    with_evaluate: MLflow's own evaluation of the logged model on the rows held out as well; its metrics stand beside
    ours.

    Raises:
        CannotRun: the model cannot be written as skops. StoreUnavailable.
    """
    logged = record_training(
        store,
        experiment=lab,
        run_name=f"{model.name} on {model.training.name}",
        estimator=model.estimator,
        schema=model.schema,
        example=model.holdout.features.head(_EXAMPLE_ROWS),
        parameters={"candidate": model.name, **model.parameters, **_size(model)},
        metrics=numbers(model.metrics),
        figures=figures(model),
        files=_files(model, quality),
        datasets=[_used(model.training, "training"), _used(model.holdout, "test")],
        tags={"llmops.lab": lab, "llmops.candidate": model.name, **(tags or {})},
    )
    if with_evaluate:
        evaluate_tabular(store, logged.run_id, logged, model.holdout.frame, model.holdout.target, model.schema.task)
    return logged


def _size(model: Trained) -> dict[str, int]:
    return {"rows_trained_on": len(model.training), "rows_held_out": len(model.holdout)}


def _used(rows: LabelledRows, context: str) -> UsedData:
    return UsedData(rows.name, rows.frame, rows.sha256, rows.source, context)


def _files(model: Trained, quality: QualityReport) -> dict[str, str]:
    files = {
        "data_quality.md": quality.to_markdown(),
        "data_quality.json": json.dumps(quality.to_json(), indent=2),
        "metrics.json": json.dumps({name: metric.to_json() for name, metric in model.metrics.items()}, indent=2),
    }
    if model.search is not None:
        files["search.json"] = json.dumps(model.search.to_json(), indent=2)
    return files
