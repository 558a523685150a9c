"""Scorers are made by type; a type or parameter that does not exist is a usage error naming it."""

from __future__ import annotations

import pytest

from llmops.errors import UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output
from llmops.evaluation.scorers import make_scorer, scorer_types

PARAMETERS = {"json_schema": {"schema": {"type": "object"}}}


def test_types_are_sorted_and_cover_text_json_and_ragas() -> None:
    types = scorer_types()

    assert types == sorted(types)
    assert {"contains", "exact_match", "refusal", "latency_ms", "json_fields", "ragas.RougeScore"} <= set(types)


@pytest.mark.parametrize("type_name", scorer_types())
def test_every_type_makes_a_scorer_that_bears_the_suites_name(type_name: str) -> None:
    scorer = make_scorer("mine", type_name, PARAMETERS.get(type_name, {}))

    assert scorer.name == "mine"
    assert scorer.higher_is_better in (True, False, None)
    # Where a direction is better and values are bounded, a missing score has a worst value to count as.
    assert scorer.worst in (None, 0.0, 1.0)


@pytest.mark.parametrize("type_name", [name for name in scorer_types() if not name.startswith("ragas.")])
def test_every_cheap_type_scores_a_plain_row(type_name: str) -> None:
    row = EvalRow("r1", {"q": "x"}, {"answers": ["4"], "expected_json": {"n": 4}})

    score = make_scorer("mine", type_name, PARAMETERS.get(type_name, {})).score(row, Output('{"n": 4}'))

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
        ("words", None, None),
        ("characters", None, None),
    ],
)
def test_direction_and_worst_value_of_each_kind(type_name: str, higher: bool | None, worst: float | None) -> None:
    scorer = make_scorer("mine", type_name, {})

    assert (scorer.higher_is_better, scorer.worst) == (higher, worst)


def test_an_unknown_type_is_named_with_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"type: unknown scorer type 'rouge'; known: characters, contains, "):
        make_scorer("mine", "rouge", {})


@pytest.mark.parametrize("type_name", ["contains", "json_valid", "json_schema", "words", "refusal"])
def test_an_unknown_parameter_is_named(type_name: str) -> None:
    parameters = {**PARAMETERS.get(type_name, {}), "strict": True}

    with pytest.raises(UsageError, match=f"{type_name}: .*strict"):
        make_scorer("mine", type_name, parameters)
