"""A run's files and numbers: every row as a line, the summary that runs are read back from, what scorers found."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmops.evaluation.results import AnswerCounts, EvalReport
from llmops.hashing import canonical_json
from llmops.recording.cell import ROWS_FILE, SUMMARY_FILE

_NOT_IN_METRIC_NAMES = re.compile(r"[^\w\-. :/]")


def log_files(client: Any, run_id: str, report: EvalReport, usage: Mapping[str, float]) -> AnswerCounts:
    """Writes `rows.jsonl`, `summary.json` and `findings/<scorer>/…`, made on disk, row by row; says what became of the
    rows. MLflow's errors pass through.
    """
    answers = AnswerCounts()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        with (folder / ROWS_FILE).open("wb") as file:
            for result in report.results:
                answers = answers.plus(result.output)
                # Half a surrogate pair cannot be UTF-8; escaped with a backslash it is what JSON calls it.
                file.write(canonical_json(result.to_json()).encode(errors="backslashreplace") + b"\n")
        summary = {
            "rows": len(report.results),
            "answers": answers.to_json(),
            "seconds": report.seconds,
            "tokens_per_second": report.tokens_per_second,
            "usage": dict(usage),
            "metrics": {name: metric.to_json() for name, metric in report.metrics.items()},
        }
        (folder / SUMMARY_FILE).write_text(json.dumps(summary, indent=2), encoding="utf-8")
        for scorer, findings in report.findings.items():
            for name, content in findings.files.items():
                path = folder / "findings" / scorer / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        client.log_artifacts(run_id, made)
    return answers


def usage_of(report: EvalReport, extra_metrics: Mapping[str, float]) -> dict[str, float]:
    """Tokens of all answers, and their cost, as far as they are known."""
    known = {"tokens_in": report.tokens_in, "tokens_out": report.tokens_out, "cost": extra_metrics.get("cost")}
    return {name: value for name, value in known.items() if value is not None}


def run_metrics(
    report: EvalReport, answers: AnswerCounts, usage: Mapping[str, float], extra: Mapping[str, float]
) -> dict[str, float]:
    """Every number of a run by MLflow's name for it; means as `mlflow.genai.evaluate` names them."""
    logged: dict[str, float | None] = {
        "rows": len(report.results),
        "generated": report.generated,
        "from_cache": report.from_cache,
        "seconds": report.seconds,
        "tokens_per_second": report.tokens_per_second,
        **{f"answers/{name}": value for name, value in answers.to_json().items() if name != "rows"},
        **usage,
    }
    for name, metric in report.metrics.items():
        logged |= {f"{name}/n_scored": metric.n_scored, f"{name}/n_failed": metric.n_failed}
        if metric.mean is not None:
            logged[f"{name}/mean"] = metric.mean
        if metric.ci95 is not None:
            logged |= {f"{name}/ci95_low": metric.ci95[0], f"{name}/ci95_high": metric.ci95[1]}
    for scorer, findings in report.findings.items():
        logged |= {f"{scorer}/{name}": value for name, value in findings.metrics.items()}
    # A class or language may be part of a finding's name.
    return {
        _NOT_IN_METRIC_NAMES.sub("_", name): float(value)
        for name, value in {**logged, **extra}.items()
        if value is not None
    }
