"""Scorers are made by type; a type or parameter that does not exist is a usage error naming it."""

from __future__ import annotations

import functools
import math
import subprocess
import sys
from collections.abc import Callable, MutableMapping
from typing import Any

import numpy as np
import pytest

from llmops.errors import UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score
from llmops.evaluation.scorers import SCORER_TYPES, Scorer, make_scorer, scorer_types
from llmops.evaluation.scorers.protocol import BoundedScorer, best_of, limits_of
from llmops.evaluation.scorers.similarity import SemanticSimilarity

PARAMETERS: dict[str, dict[str, Any]] = {
    "json_schema": {"schema": {"type": "object"}},
    "cost": {"per_million_in": 1, "per_million_out": 2},
    "regex": {"pattern": "4"},
}
TYPES: dict[str, Callable[..., Scorer]] = {
    **SCORER_TYPES,
    "semantic_similarity": functools.partial(SemanticSimilarity, embed=lambda texts: np.ones((len(texts), 1))),
}
CHEAP = [name for name in scorer_types() if not name.startswith("ragas.")]


def test_types_are_sorted_and_cover_text_json_and_ragas() -> None:
    types = scorer_types()

    assert types == sorted(types)
    assert {"contains", "exact_match", "refusal", "latency_ms", "json_fields", "ragas.RougeScore"} <= set(types)


@pytest.mark.parametrize("type_name", scorer_types())
def test_every_type_makes_a_scorer_that_bears_the_suites_name(type_name: str) -> None:
    scorer = make_scorer("mine", type_name, PARAMETERS.get(type_name, {}), TYPES)

    assert scorer.name == "mine"
    assert scorer.higher_is_better in (True, False, None)
    # Where a direction is better and values are bounded, a missing score has a worst value to count as.
    assert scorer.worst in (None, 0.0, 1.0)


@pytest.mark.parametrize("type_name", scorer_types())
def test_every_type_says_between_which_values_its_scores_lie(type_name: str) -> None:
    scorer = make_scorer("mine", type_name, PARAMETERS.get(type_name, {}), TYPES)
    low, high = limits_of(scorer)

    assert isinstance(scorer, BoundedScorer)
    assert low < high
    assert scorer.worst is None or low <= scorer.worst <= high
    assert best_of(scorer) == {True: 1.0, False: 0.0, None: None}[scorer.higher_is_better]


@pytest.mark.parametrize(
    ("higher", "worst", "limits"),
    [
        (True, 0.0, (0.0, math.inf)),
        (False, 5.0, (-math.inf, 5.0)),
        (None, 0.0, (-math.inf, math.inf)),
        (True, None, (-math.inf, math.inf)),
    ],
)
def test_a_scorer_that_names_no_limits_ends_at_its_worst_value(
    scorer: Any, higher: bool | None, worst: float | None, limits: tuple[float, float]
) -> None:
    made = scorer("mine", higher_is_better=higher, worst=worst)

    assert limits_of(made) == limits
    assert best_of(made) is None


@pytest.mark.parametrize("type_name", CHEAP)
def test_every_cheap_type_scores_a_plain_row(type_name: str) -> None:
    expectations: dict[str, Any] = {
        "answers": ["4"],
        "expected_json": {"n": 4},
        "choices": ["4", "5"],
        "answer_index": 0,
    }
    expectations["tool_calls"] = []
    row = EvalRow("r1", {"q": "x"}, expectations)
    output = Output(
        '{"n": 4}', tokens_in=1, tokens_out=1, latency_ms=2.0, first_token_ms=1.0, choice_logprobs=(-1.0, -2.0)
    )

    score = make_scorer("mine", type_name, PARAMETERS.get(type_name, {}), TYPES).score(row, output)

    assert score.error is None
    assert isinstance(score.value, (bool, float))


@pytest.mark.parametrize(
    ("type_name", "higher", "worst"),
    [
        ("contains", True, 0.0),
        ("json_fields", True, 0.0),
        ("ragas.BleuScore", True, 0.0),
        ("refusal", False, 1.0),
        ("latency_ms", False, None),
        ("tokens_out", False, None),
        ("cost", False, None),
        ("first_token_ms", False, None),
        ("numeric", True, 0.0),
        ("label", True, 0.0),
        ("semantic_similarity", True, 0.0),
        ("words", None, None),
        ("readability", None, None),
        ("repetition", None, None),
        ("characters", None, None),
    ],
)
def test_direction_and_worst_value_of_each_kind(type_name: str, higher: bool | None, worst: float | None) -> None:
    scorer = make_scorer("mine", type_name, PARAMETERS.get(type_name, {}), TYPES)

    assert (scorer.higher_is_better, scorer.worst) == (higher, worst)


def test_an_unknown_type_is_named_with_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"type: unknown scorer type 'good'; known: bleu, characters, "):
        make_scorer("mine", "good", {})


@pytest.mark.parametrize("type_name", CHEAP)
def test_an_unknown_parameter_is_named(type_name: str) -> None:
    parameters = {**PARAMETERS.get(type_name, {}), "strict": True}

    with pytest.raises(UsageError, match=f"{type_name}: .*strict"):
        make_scorer("mine", type_name, parameters, TYPES)


def test_a_larger_table_makes_more_types_and_the_built_in_one_stays_as_it_is() -> None:
    class Kind:
        name, higher_is_better, worst = "kind", True, 0.0

        def __init__(self, name: str) -> None:
            pass

        def score(self, row: EvalRow, output: Output) -> Score:
            return Score(True)

    types = {**SCORER_TYPES, "kind": Kind}

    assert isinstance(make_scorer("mine", "kind", {}, types), Kind)
    assert "kind" in scorer_types(types)
    assert "kind" not in scorer_types()
    assert not isinstance(SCORER_TYPES, MutableMapping)
    with pytest.raises(UsageError, match="unknown scorer type 'kind'"):
        make_scorer("mine", "kind", {})


def test_a_parameter_cannot_take_the_name_away() -> None:
    with pytest.raises(UsageError, match=r"^words: .*'name'"):
        make_scorer("mine", "words", {"name": "other"})


def test_the_scorers_load_nothing_heavy_until_they_score() -> None:
    heavy = ("numpy", "matplotlib", "sacrebleu", "rouge_score", "nltk", "ragas", "torch", "jsonschema_rs")
    code = f"import sys, llmops.evaluation.scorers; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
