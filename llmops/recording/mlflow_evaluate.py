"""`mlflow.genai.evaluate` over rows that are scored already: it makes their assessments as it would make any others.

Left to itself it stores each score in a transaction of its own and then reads every trace again. So it works on a store
that holds the traces in memory, and all that it made is written with the traces at once.
"""

import contextlib
import io
import logging
import threading
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from llmops.evaluation.eval_set import EvalRow, as_text
from llmops.evaluation.results import Output, Score
from llmops.evaluation.runner import one_score
from llmops.evaluation.scorers.protocol import Scorer
from llmops.hashing import canonical_json
from llmops.recording.traces import RowTrace, TextCleaner, assessment_id, feedback
from llmops.registry.store import Store

_SCORERS_DIGEST = "mlflow.genaiEvaluate.scorersDigest"
_ALONE = threading.Lock()
"""One evaluation at a time in a process. mlflow 3.17.2 imports modules while it holds the lock of its import hooks, for
which every import of another evaluation's scoring threads asks: each may wait for the other for ever. And what is done
to stdout, stderr and warnings here is done to the whole process."""


def evaluate_traces(
    store: Store,
    run_id: str,
    model_id: str,
    dataset: Any,
    traces: Sequence[RowTrace],
    scorers: Sequence[str],
    scores: Mapping[str, Mapping[str, Score]],
    clean: TextCleaner,
) -> None:
    """Adds to each trace the assessments that `mlflow.genai.evaluate` makes inside the active run.

    scorers: their names.
    scores: by trace id, then by scorer.

    MLflow's errors pass through; what it loses with a warning is counted when the traces are written.
    """
    import mlflow
    import pandas as pd
    from mlflow.entities import Trace, TraceData
    from mlflow.genai.datasets.evaluation_dataset import compute_records_sha256
    from mlflow.genai.scorers import scorer
    from mlflow.utils.mlflow_tags import MLFLOW_GENAI_EVALUATE_DATASET_IDENTITY

    held = [Trace(trace.info, TraceData(spans=[trace.span])) for trace in traces]
    data = pd.DataFrame({"trace": held})
    # The way `EvaluationDataset.to_df` says which data set it is; without it MLflow logs one named "dataset".
    data.attrs[MLFLOW_GENAI_EVALUATE_DATASET_IDENTITY] = {
        **dict(dataset),
        "records_sha256": compute_records_sha256(data),
    }

    def replaying(name: str) -> Any:
        """A scorer that gives each trace the score it already has. The run's means are logged by us."""

        def replayed(trace: Any) -> Any:
            return feedback(name, scores[trace.info.trace_id][name], clean, run_id)

        return scorer(name=name, aggregations=[])(replayed)

    # MLflow prints a banner to stdout, which belongs to the command's own output, and draws a bar beside ours; what it
    # warns of (failed scores, its own type hints) is counted and shown by us, or no business of the user's.
    logging.getLogger("mlflow.genai.evaluation.harness").setLevel(logging.ERROR)
    with (
        _ALONE,
        store.holding_traces(held),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        mlflow.genai.evaluate(data=data, scorers=list(map(replaying, scorers)), model_id=model_id or None)
    for trace in traces:
        for made in trace.info.assessments:
            made.assessment_id = assessment_id(trace.trace_id, made)
    # A digest of the replaying functions, which are the same for all scorers: it would call any two runs alike.
    if _SCORERS_DIGEST in store.client.get_run(run_id).data.tags:
        store.client.delete_tag(run_id, _SCORERS_DIGEST)


def mlflow_scorers(scorers: Sequence[Scorer]) -> list[Any]:
    """Scorers as MLflow's, for its own `evaluate` on rows of `inputs`, `outputs` and `expectations`."""
    from mlflow.genai.scorers import scorer

    def as_mlflows(ours: Scorer) -> Any:
        def scored(inputs: Any = None, outputs: Any = None, expectations: Any = None) -> Any:
            text = outputs if isinstance(outputs, str) else canonical_json(outputs)
            named = {str(name): as_text(value) for name, value in dict(inputs or {}).items()}
            row = EvalRow("a row of MLflow's", named, dict(expectations or {}))
            return feedback(ours.name, one_score(ours, row, Output(text)), TextCleaner(), None)

        return scorer(name=ours.name)(scored)

    return [as_mlflows(each) for each in scorers]
