"""What MLflow's own paired comparison says of two eval runs: `mlflow.genai.compare_evaluations`, of MLflow 3.18."""

import logging
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from llmops.errors import CannotRun
from llmops.hashing import JsonData
from llmops.registry.store import Store, translated


@dataclass(frozen=True, slots=True)
class ScorerOpinion(JsonData):
    """MLflow's comparison of one scorer, difference b − a. n: rows compared; what follows is None where they are fewer
    than six. method: the test of `p_value`. ci95: a BCa bootstrap interval. moved: rows whose values differ."""

    n: int
    method: str | None = None
    difference: float | None = None
    ci95: tuple[float, float] | None = None
    p_value: float | None = None
    moved: int | None = None


def mlflow_opinions(store: Store, run_a: str, run_b: str) -> dict[str, ScorerOpinion]:
    """Reads the traces of both runs, and records nothing. By scorer: those with a score in both runs. Raises CannotRun:
    the installed MLflow cannot compare. StoreUnavailable, UsageError: as MLflow says."""
    import mlflow.genai

    if not hasattr(mlflow.genai, "compare_evaluations"):
        installed = version("mlflow")
        raise CannotRun(f"--second-opinion: MLflow {installed} is installed, and cannot compare runs; 3.18.0 can")
    store.make_current()
    logging.getLogger("mlflow.genai.evaluation").setLevel(logging.ERROR)  # rows left out are told with each scorer
    with translated(f"MLflow's comparison of {run_a} and {run_b}"):
        compared = mlflow.genai.compare_evaluations(candidate_run_id=run_b, baseline_run_id=run_a)
    return {name: _opinion(scorer) for name, scorer in compared.scorers.items()}


def _opinion(scorer: Any) -> ScorerOpinion:
    if scorer.status != "ok":
        return ScorerOpinion(scorer.n_paired)
    return ScorerOpinion(
        scorer.n_paired, scorer.method, scorer.diff, (scorer.ci_low, scorer.ci_high), scorer.p_value, scorer.n_nonzero
    )
