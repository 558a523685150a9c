"""Judges: scorers that ask a language model. None may gate before it is calibrated against human labels.

Every factory in `TYPES` takes `(name, *, endpoint, embed=None, **options)`; a wrong option is a UsageError that
starts with its name. Creating a scorer opens no connection and loads nothing heavy.
"""

from collections.abc import Callable, Mapping

from llmops.evaluation.scorers.protocol import Scorer
from llmops.judges import mlflow_judges, ragas_judges
from llmops.judges.client import JudgeEndpoint
from llmops.judges.ragas_judges import NEEDS_EMBEDDINGS, NEEDS_NO_JUDGE
from llmops.judges.scorer import RubricJudge

__all__ = ["NEEDS_EMBEDDINGS", "NEEDS_NO_JUDGE", "TYPES", "JudgeEndpoint"]

TYPES: Mapping[str, Callable[..., Scorer]] = {
    "judge.rubric": RubricJudge,
    **ragas_judges.TYPES,
    **mlflow_judges.TYPES,
}
