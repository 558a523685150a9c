"""Every scorer that ships gives the best value to the expected answer, in every script, and less to what is not it."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output
from llmops.evaluation.scorers import SCORER_TYPES, Scorer, make_scorer
from llmops.evaluation.scorers.protocol import best_of
from llmops.evaluation.scorers.reference_scorers import SemanticSimilarity
from llmops.evaluation.suite import Suite, load_suite, suite_names

SHIPPED = Path(__file__).parents[2] / "eval_sets"
# What an answer took says nothing of what it says.
SPENT = {"latency_ms", "first_token_ms", "tokens_in", "tokens_out", "cost"}
WITHOUT_DIRECTION = {"words", "characters", "sentences", "readability", "repetition"}

TEXTS = [
    "Paris", "a", "A", "42", "It is Paris.", "The cat sat on the mat. It slept.", "C++", "−5", "don't", "?",
    "Москва", "Москва — столица России.", "北京", "北京是中国的首都。", "東京タワーです", "القاهرة عاصمة مصر.",
    "नई दिल्ली भारत की राजधानी है।", "กรุงเทพมหานคร", "서울은 수도입니다.", "Cafe\u0301 Zoë", "👍", "½", "1,234.5",
    "1\u202f234,5 €",    "  spaces around ", "two\nlines", '{"k": 1}', "{{ output }}",
]  # fmt: skip


def letters(texts: Sequence[str]) -> Any:
    """An embedding of no meaning: how often each letter stands in a text, at length 1."""
    vectors = np.zeros((len(texts), 64), dtype=np.float32)
    for place, text in enumerate(texts):
        for sign in text:
            vectors[place, ord(sign) % 64] += 1
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


TYPES: dict[str, Callable[..., Scorer]] = {
    **SCORER_TYPES,
    "semantic_similarity": functools.partial(SemanticSimilarity, embed=letters),
}
# Of reference and output, both texts; those of the second kind are content where the answer stands in more.
WHOLE = [
    "exact_match", "token_f1", "rouge", "bleu", "chrf", "semantic_similarity", "label", "ragas.BleuScore",
    "ragas.CHRFScore", "ragas.ExactMatch", "ragas.NonLLMStringSimilarity", "ragas.RougeScore",
]  # fmt: skip
WITHIN = ["contains", "ragas.StringPresence"]


def value_of(type_name: str, output: str, row: EvalRow, **options: Any) -> tuple[Any, Scorer]:
    scorer = make_scorer("s", type_name, options, TYPES)
    score = scorer.score(row, Output(output, choice_logprobs=(-1.0, -2.0)))
    assert score.error is None, score.error
    return score.value, scorer


def texts_of(type_name: str) -> list[str]:
    """The texts that can be expected of a type: a class of nothing but punctuation is an error of its row."""
    return [text for text in TEXTS if type_name != "label" or text != "?"]


def asked(*answers: str, **expectations: Any) -> EvalRow:
    return EvalRow("r1", {"q": "x"}, {"answers": list(answers), **expectations}, ("The cat sat on the mat.",))


@pytest.mark.parametrize("type_name", [*WHOLE, *WITHIN])
def test_the_expected_text_scores_best_in_every_script(type_name: str) -> None:
    for text in texts_of(type_name):
        for answers in ([text], ["something else", text], [text, "something else"]):
            value, scorer = value_of(type_name, text, asked(*answers))
            assert value == pytest.approx(best_of(scorer), abs=1e-9), text


@pytest.mark.parametrize("type_name", [*WHOLE, *WITHIN])
def test_a_text_with_one_other_letter_scores_less(type_name: str) -> None:
    for text in texts_of(type_name):
        middle = len(text) // 2
        value, _ = value_of(type_name, f"{text[:middle]}zq{text[middle + 1 :]}", asked(text))
        assert value < 1, text


@pytest.mark.parametrize("type_name", WHOLE)
@pytest.mark.parametrize(
    "nonsense", [" Completely wrong nonsense follows here.", "\n\nignore {{ output }}", " Ерунда и чепуха."]
)
def test_nonsense_after_the_expected_text_costs_something(type_name: str, nonsense: str) -> None:
    for text in texts_of(type_name):
        value, _ = value_of(type_name, text + nonsense, asked(text))
        assert value < 0.999, text


@pytest.mark.parametrize("type_name", [*WHOLE, *WITHIN])
@pytest.mark.parametrize("output", ["", " ", "I am not sure."])
def test_an_empty_or_evasive_output_scores_less(type_name: str, output: str) -> None:
    for text in texts_of(type_name):
        if type_name == "ragas.StringPresence" and text in output:
            continue  # it says that it does not count where words end
        value, _ = value_of(type_name, output, asked(text))
        assert value < 0.999, text


DATED = {"properties": {"d": {"format": "date"}}}
OBJECT = {"city": "Москва", "n": 10**18 + 1, "share": 0.5, "open": True, "tags": ["a", {"b": None}], "empty": []}
CALLS = [{"name": "f", "args": {"x": 1, "city": "北京"}}, {"name": "f", "args": {"x": 1, "city": "北京"}}]
MORE_CALLS = [*CALLS, CALLS[0]]
IDS = {"retrieved_context_ids": ["a", 2], "reference_context_ids": ["a", 2]}
# Type, options, expectations, what is right, and what is not.
OTHERS: list[tuple[str, dict[str, Any], dict[str, Any], str, str]] = [
    ("numeric", {}, {"expected_number": 1234.5}, "1\u202f234,5", "1.2345"),
    ("regex", {"pattern": "^Моск"}, {}, "Москва", "Минск"),
    ("json_valid", {}, {}, json.dumps(OBJECT), json.dumps(OBJECT)[:-1]),
    ("json_schema", {"schema": DATED}, {}, '{"d": "2024-02-29"}', '{"d": "2023-02-29"}'),
    ("json_fields", {}, {"expected_json": OBJECT}, json.dumps(OBJECT), json.dumps({**OBJECT, "n": 10**18})),
    ("json_f1", {}, {"expected_json": OBJECT}, json.dumps(OBJECT), json.dumps({**OBJECT, "more": 1})),
    ("json_f1", {"ordered": False}, {"expected_json": OBJECT}, json.dumps(OBJECT), json.dumps({**OBJECT, "more": 1})),
    ("label", {"labels": ["возврат", "заказ"]}, {"expected_response": "заказ"}, "заказ", "возврат"),
    ("tool_calls", {}, {"tool_calls": CALLS}, json.dumps(CALLS), json.dumps(CALLS[:1])),
    ("tool_calls", {"ordered": True, "exact": True}, {"tool_calls": CALLS}, json.dumps(CALLS), json.dumps(MORE_CALLS)),
    ("ragas.ToolCallAccuracy", {}, {"tool_calls": CALLS}, json.dumps(CALLS), json.dumps(CALLS[:1])),
    ("ragas.ToolCallF1", {}, {"tool_calls": CALLS}, json.dumps(CALLS), '[{"name": "f", "args": {}}]'),
    ("ragas.ToolCallF1", {}, {"tool_calls": []}, "It is Paris.", json.dumps(CALLS)),
    ("ragas.QuotedSpansAlignment", {}, {}, "It's “the cat sat on the mat”.", "It's “the dog sat on the mat”."),
    ("refusal", {}, {}, "Paris.", "I refuse to answer."),
    ("choice_accuracy", {}, {"choices": ["yes", "no"], "answer_index": 0}, "yes", ""),
    ("choice_accuracy_norm", {}, {"choices": ["да", "нет"], "answer_index": 0}, "да", ""),
    ("ragas.NonLLMContextRecall", {}, {"reference_contexts": ["The cat sat on the mat."]}, "", ""),
    ("ragas.NonLLMContextPrecisionWithReference", {}, {"reference_contexts": ["The cat sat on the mat."]}, "", ""),
    ("ragas.IDBasedContextRecall", {}, IDS, "", ""),
    ("ragas.IDBasedContextPrecision", {}, IDS, "", ""),
]  # fmt: skip


@pytest.mark.parametrize(("type_name", "options", "expectations", "right", "wrong"), OTHERS)
def test_what_is_expected_scores_best_and_a_near_miss_less(
    type_name: str, options: dict[str, Any], expectations: dict[str, Any], right: str, wrong: str
) -> None:
    row = EvalRow("r1", {"q": "x"}, expectations, ("The cat sat on the mat.",))
    value, scorer = value_of(type_name, right, row, **options)
    assert value == best_of(scorer)
    if wrong:
        assert value_of(type_name, wrong, row, **options)[0] != best_of(scorer)


def test_every_type_that_ships_is_tried_here() -> None:
    assert {*WHOLE, *WITHIN, *(case[0] for case in OTHERS)} == SCORER_TYPES.keys() - SPENT - WITHOUT_DIRECTION


@functools.cache
def shipped(name: str) -> Suite:
    return load_suite(SHIPPED, name)


def perfect(row: EvalRow) -> list[str]:
    """Every text that is an expected answer of a row."""
    if "expected_json" in row.expectations:
        return [json.dumps(row.expectations["expected_json"])]
    return [str(answer) for answer in row.expectations["answers"]]


@pytest.mark.parametrize("name", suite_names(SHIPPED))
def test_the_expected_answers_of_a_shipped_suite_score_best_by_each_of_its_scorers(name: str) -> None:
    suite = shipped(name)
    judging = [
        scorer for scorer, spec in zip(suite.make_scorers(), suite.scorer_specs, strict=True) if spec.type not in SPENT
    ]
    for row in suite.rows:
        for text in perfect(row):
            for scorer in judging:
                score = scorer.score(row, Output(text))
                assert score.error is None
                if scorer.higher_is_better is not None:
                    assert score.value == pytest.approx(best_of(scorer), abs=1e-9), (row.id, scorer.name, text)


@pytest.mark.parametrize("name", suite_names(SHIPPED))
@pytest.mark.parametrize(
    "hostile", ["I am not sure, but I think that the answer could be X.", "{{ answers }}", '{"x": 1}']
)
def test_an_answer_that_fits_no_row_of_a_shipped_suite_scores_far_below_its_best(name: str, hostile: str) -> None:
    suite = shipped(name)
    for scorer, spec in zip(suite.make_scorers(), suite.scorer_specs, strict=True):
        if scorer.higher_is_better and spec.type not in SPENT | {"json_valid"}:
            values = [float(scorer.score(row, Output(hostile)).value or 0) for row in suite.rows]
            assert sum(values) / len(values) < 0.35, scorer.name
