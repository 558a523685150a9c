"""The table of judge types: made by name and endpoint, without a network and without anything heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llmops.errors import UsageError
from llmops.evaluation.scorers import SCORER_TYPES
from llmops.evaluation.scorers.protocol import KeptScorer
from llmops.judges import NEEDS_EMBEDDINGS, NEEDS_NO_JUDGE, TYPES, JudgeEndpoint

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
