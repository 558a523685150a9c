"""Writes eval runs, verdicts, calibrations and monitoring runs into MLflow, and reads them back.

Outputs and scores are complete before they are recorded, so no judge is asked twice and MLflow shows exactly the
numbers that comparisons and gates use. There are two recorders, which write equal runs: `evaluate` (MLflow's own
`mlflow.genai.evaluate`) and `bulk` (one transaction per row). The stored assessments are then counted, because MLflow
only warns when it loses some.
"""

from llmops.recording.cell import (
    CellIdentity,
    EvalRun,
    find_calibration,
    record_calibration,
    record_comparison,
    record_report,
    record_test_session,
    record_verdict,
    recorded_rows,
)
from llmops.recording.datasets import MAX_TRACED_ROWS, register_eval_set
from llmops.recording.mlflow_evaluate import mlflow_scorers
from llmops.recording.monitoring import nameless, record_monitoring_run
from llmops.recording.runs import EVALUATE_UP_TO, EvalRecorder
from llmops.recording.tabular import UsedData, evaluate_tabular, record_training
from llmops.registry.releases import LoggedTabular

__all__ = [
    "EVALUATE_UP_TO", "MAX_TRACED_ROWS", "CellIdentity", "EvalRecorder", "EvalRun", "LoggedTabular", "UsedData",
    "evaluate_tabular", "find_calibration", "mlflow_scorers", "nameless", "record_calibration", "record_comparison",
    "record_monitoring_run", "record_report", "record_test_session", "record_training", "record_verdict",
    "recorded_rows", "register_eval_set",
]  # fmt: skip
