"""The `evaluate` recorder: MLflow's own evaluation, given finished traces and scorers that replay finished scores."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmops.evaluation.results import Score
from llmops.recording.texts import TextCleaner
from llmops.recording.traces import RowTrace, feedback

_SCORERS_DIGEST = "mlflow.genaiEvaluate.scorersDigest"


def evaluate_traces(
    client: Any,
    run_id: str,
    model_id: str,
    dataset: Any,
    traces: Sequence[RowTrace],
    scores: Mapping[str, Mapping[str, Score]],
    clean: TextCleaner,
    scored: Callable[[int], None],
) -> None:
    """`mlflow.genai.evaluate` inside the active run. scores: by scorer name, then by trace id. scored: is told of rows.

    MLflow's errors pass through; what it loses with a warning is counted afterwards.
    """
    import mlflow
    import pandas as pd
    from mlflow.entities import Trace, TraceData
    from mlflow.genai.datasets.evaluation_dataset import compute_records_sha256
    from mlflow.utils.mlflow_tags import MLFLOW_GENAI_EVALUATE_DATASET_IDENTITY

    data = pd.DataFrame({"trace": [Trace(trace.info, TraceData(spans=[trace.span])) for trace in traces]})
    # The way `EvaluationDataset.to_df` says which data set it is; without it MLflow logs one named "dataset".
    data.attrs[MLFLOW_GENAI_EVALUATE_DATASET_IDENTITY] = {
        **dict(dataset),
        "records_sha256": compute_records_sha256(data),
    }
    first = next(iter(scores))
    scorers = [
        _replay(name, by_trace, clean, run_id, scored if name == first else None) for name, by_trace in scores.items()
    ]
    # MLflow prints a banner to stdout, which belongs to the command's own output; what it warns of (failed scores, its
    # own type hints) is counted and shown by us, or no business of the user's.
    logging.getLogger("mlflow.genai.evaluation.harness").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.genai.evaluate(data=data, scorers=scorers, model_id=model_id or None)
    # A digest of the replaying functions, which are the same for all scorers: it would call any two runs alike.
    if _SCORERS_DIGEST in client.get_run(run_id).data.tags:
        client.delete_tag(run_id, _SCORERS_DIGEST)


def _replay(
    name: str, scores: Mapping[str, Score], clean: TextCleaner, run_id: str, scored: Callable[[int], None] | None
) -> Any:
    """An MLflow scorer that gives each trace the score it already has. The run's means are logged by us."""
    from mlflow.genai.scorers import scorer

    def replayed(trace: Any) -> Any:
        if scored is not None:
            scored(1)
        return feedback(name, scores[trace.info.trace_id], clean, run_id)

    made: Callable[..., Any] = scorer(name=name, aggregations=[])
    return made(replayed)
