"""The table of judge types: made by name and endpoint, without a network and without anything heavy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from llmops.errors import UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output
from llmops.evaluation.scorers import SCORER_TYPES
from llmops.evaluation.scorers.protocol import KeptScorer, best_of
from llmops.judges import NEEDS_EMBEDDINGS, NEEDS_NO_JUDGE, TYPES, JudgeEndpoint
from tests.judges.conftest import fitting

NOWHERE = JudgeEndpoint("nowhere", "http://127.0.0.1:9/v1", "m", key_variable="NO_SUCH_KEY")
PARAMETERS = {
    "judge.rubric": {"instructions": "x"},
    "mlflow.Guidelines": {"guidelines": "x"},
    "mlflow.ConversationalGuidelines": {"guidelines": "x"},
    "mlflow.make_judge": {"instructions": "{{ outputs }}"},
}


@pytest.mark.parametrize("type_name", sorted(TYPES))
def test_every_type_makes_a_kept_scorer_that_bears_the_suites_name(type_name: str) -> None:
    scorer = TYPES[type_name]("mine", endpoint=NOWHERE, embed=lambda texts: [], **PARAMETERS.get(type_name, {}))

    assert isinstance(scorer, KeptScorer)
    assert (scorer.name, scorer.side_by_side) == ("mine", 4)
    assert (scorer.higher_is_better, scorer.worst) in ((True, 0.0), (False, 1.0))


@pytest.mark.parametrize("type_name", sorted(name for name in TYPES if not name.startswith(("judge.", "mlflow.make"))))
def test_an_unknown_parameter_is_refused_by_its_name(type_name: str) -> None:
    with pytest.raises(UsageError, match=f"^strict: {type_name} has no such parameter"):
        TYPES[type_name]("mine", endpoint=NOWHERE, strict=True)


EXPECTATIONS = {
    "answers": ["Москва"], "guidelines": ["Be brief."], "reference_contexts": ["Москва — столица."],
    "reference_topics": ["cities"],
    "rubrics": {f"score{points}_description": f"worth {points}" for points in range(1, 6)},
}  # fmt: skip
CAPITAL = EvalRow("r1", {"question": "Столица?"}, EXPECTATIONS, ("Москва — столица.",))
# Verdicts that say the worst where others say the best.
FOR_WORSE = {"noncommittal": 0, "refused_to_answer": False}


def best_answer(name: str, part: dict[str, Any]) -> Any:
    """The verdict of a judge that finds everything as good as can be."""
    if name in FOR_WORSE:
        return FOR_WORSE[name]
    if name in ("FP", "FN"):
        return []
    if part.get("type") == "boolean":
        return True
    choices = part.get("enum", [])
    return next((good for good in ("yes", "pass", "none", "1") if good in choices), max(choices, default=None))


@pytest.mark.parametrize("type_name", sorted(set(TYPES) - NEEDS_NO_JUDGE))
def test_the_best_verdicts_on_the_expected_answer_give_the_best_value(type_name: str) -> None:
    def embed(texts: Sequence[str]) -> Any:
        return [[1.0, 0.0] for _ in texts]

    class Client:
        def ask(self, messages: Any, schema: Any) -> Any:
            return fitting(schema, best_answer)

    judge: Any = TYPES[type_name]("s", endpoint=NOWHERE, embed=embed, **PARAMETERS.get(type_name, {}))
    judge.client = Client()

    score = judge.score(CAPITAL, Output("Москва"))

    assert score.error is None
    if type_name == "ragas.SummaryScore":  # by half for brevity: an answer as long as its source has none
        assert 0.5 < score.value < 1
    else:
        assert score.value == pytest.approx(best_of(judge), abs=1e-6)


def test_names_stand_for_one_scorer_each() -> None:
    assert not TYPES.keys() & SCORER_TYPES.keys()
    assert TYPES.keys() >= NEEDS_EMBEDDINGS | NEEDS_NO_JUDGE


def test_making_scorers_loads_nothing_heavy() -> None:
    code = (
        "import sys; from llmops.judges import TYPES, JudgeEndpoint;"
        "e = JudgeEndpoint('n', 'http://localhost/v1', 'm');"
        "TYPES['ragas.Faithfulness']('s', endpoint=e); TYPES['mlflow.Safety']('s', endpoint=e);"
        "TYPES['judge.rubric']('s', endpoint=e, instructions='x');"
        "print([name for name in ('mlflow', 'ragas', 'openai', 'torch', 'scipy', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
