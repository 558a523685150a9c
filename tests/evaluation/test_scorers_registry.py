"""Scorers are made by type, their options are checked, and each is tried on a made-up row when a suite loads."""

import functools
import json
import math
from collections.abc import Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmops.errors import UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score
from llmops.evaluation.scorers import SCORER_TYPES, Scorer, make_scorer, try_scorer
from llmops.evaluation.scorers.protocol import Correctness, MissingExpectation, best_of, limits_of
from llmops.evaluation.scorers.reference_scorers import SemanticSimilarity
from llmops.evaluation.suite import Suite, load_suite, suite_names

NEEDED: dict[str, dict[str, Any]] = {
    "json_schema": {"schema": {"type": "object"}},
    "cost": {"per_million_in": 1, "per_million_out": 2},
    "regex": {"pattern": "4"},
}


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
WITHOUT_DIRECTION = {"words", "characters", "sentences", "readability", "repetition"}
SPENT = {"latency_ms", "first_token_ms", "tokens_in", "tokens_out", "cost"}
"""What an answer took says nothing of what it says."""
LESS_IS_BETTER = {*SPENT, "refusal"}


def made(type_name: str) -> Scorer:
    return make_scorer("mine", type_name, NEEDED.get(type_name, {}), TYPES)


class Crashing(Correctness):
    """Fails as the function tells it to."""

    answer: Callable[[Output], Score]

    def score(self, row: EvalRow, output: Output) -> Score:
        return self.answer(output)


def raising(error: Exception) -> Callable[[Output], Score]:
    def answer(_: Output) -> Score:
        raise error

    return answer


def test_types_are_sorted_and_an_unknown_one_is_named_with_those_there_are():
    assert SCORER_TYPES.keys() >= {"contains", "refusal", "latency_ms", "json_fields", "ragas.RougeScore"}
    with pytest.raises(UsageError, match=r"type: unknown scorer type 'good'; known: bleu, characters, "):
        make_scorer("mine", "good", {})


@pytest.mark.parametrize("type_name", sorted(SCORER_TYPES))
def test_every_type_makes_a_scorer_with_a_name_a_direction_and_limits_that_can_score(type_name):
    scorer = made(type_name)
    low, high = limits_of(scorer)
    higher = None if type_name in WITHOUT_DIRECTION else type_name not in LESS_IS_BETTER
    worst = None if type_name in WITHOUT_DIRECTION | SPENT else 0.0 if higher else 1.0
    assert (scorer.name, scorer.higher_is_better, scorer.worst) == ("mine", higher, worst)
    assert low < high
    assert worst is None or low <= worst <= high
    assert best_of(scorer) == {True: 1.0, False: 0.0, None: None}[higher]
    try_scorer(scorer)
    if not type_name.startswith("ragas."):
        expectations = {"answers": ["4"], "expected_json": {"n": 4}, "choices": ["4", "5"], "tool_calls": []}
        row = EvalRow("r1", {"q": "x"}, {**expectations, "answer_index": 0})
        output = Output('{"n": 4}', "stop", 1, 1, latency_ms=2.0, first_token_ms=1.0, choice_logprobs=(-1.0, -2.0))
        score = scorer.score(row, output)
        assert score.error is None
        assert isinstance(score.value, (bool, float))


@pytest.mark.parametrize(
    ("higher", "worst", "limits"),
    [
        (True, 0.0, (0.0, math.inf)),
        (False, 5.0, (-math.inf, 5.0)),
        (None, 0.0, (-math.inf, math.inf)),
        (True, None, (-math.inf, math.inf)),
    ],
)
def test_a_scorer_that_names_no_limits_ends_at_its_worst_value(scorer, higher, worst, limits):
    unlimited = scorer("mine", higher_is_better=higher, worst=worst)
    assert limits_of(unlimited) == limits
    assert best_of(unlimited) is None


NAN = float("nan")
WRONG_OPTIONS: list[tuple[str, dict[str, Any], str]] = [
    *((name, {**NEEDED.get(name, {}), "strict": True}, f"{name}: has no option 'strict'") for name in SCORER_TYPES),
    ("words", {"name": "other"}, "words: has no option 'name'"),
    ("semantic_similarity", {"embed": "all-minilm"}, "semantic_similarity: has no option 'embed'"),
    ("regex", {"pattern": "("}, "pattern: '(' is no regular expression: "),
    ("regex", {"pattern": 3}, "pattern: must be text, not 3"),
    ("regex", {"pattern": ""}, "pattern: must be a regular expression, not ''"),
    ("regex", {"pattern": "a{99999999999}"}, "pattern: 'a{99999999999}' is no regular expression: "),
    ("regex", {"pattern": "a", "flags": "q"}, "flags: must match pattern '^[imsx]*$', not 'q'"),
    ("regex", {"pattern": "a", "flags": 2}, "flags: must be text, not 2"),
    ("regex", {"pattern": "a", "expect": "no"}, "expect: must be true or false, not 'no'"),
    ("exact_match", {"normalisation": "mine"}, "normalisation: must be 'words', 'squad' or 'none', not 'mine'"),
    ("contains", {"where": 3}, "where: must be 'anywhere', 'start' or 'end', not 3; options of contains: texts = none"),
    ("contains", {"where": ["start"]}, "where: must be 'anywhere', 'start' or 'end'"),
    ("contains", {"need": "most"}, "need: must be 'any' or 'all'"),
    ("contains", {"texts": []}, "texts: must not be empty"),
    ("contains", {"texts": "sorry"}, "texts: must be a list, not 'sorry'"),
    ("contains", {"texts": ["sorry", " "]}, "texts[1]: must be text, and not blank"),
    ("contains", {"texts": [1]}, "texts[0]: must be text, not 1"),
    ("contains", {"expect": 1}, "expect: must be true or false, not 1"),
    ("numeric", {"take": "middle"}, "take: must be 'last' or 'first'"),
    ("numeric", {"absolute": -1}, "absolute: must be greater than or equal to 0, not -1"),
    ("numeric", {"relative": "1%"}, "relative: must be a number, not '1%'"),
    ("cost", {"per_million_in": -1, "per_million_out": 1}, "per_million_in: must be greater than or equal to 0"),
    ("cost", {"per_million_in": 1, "per_million_out": "1"}, "per_million_out: must be a number"),
    ("cost", {"per_million_in": True, "per_million_out": 1}, "per_million_in: must be a number, not True"),
    ("cost", {"per_million_in": NAN, "per_million_out": 1}, "per_million_in: must be a finite number"),
    ("cost", {"per_million_in": 1}, "per_million_out: is missing; options of cost: per_million_in (needed), per_"),
    ("repetition", {"n": 0}, "n: must be greater than or equal to 1, not 0"),
    ("repetition", {"n": 1.5}, "n: must be a whole number, not 1.5"),
    ("json_f1", {"ordered": "no"}, "ordered: must be true or false"),
    ("json_schema", {"schema": 3}, "schema: must be a table, not 3"),
    ("json_schema", {}, "schema: is missing; options of json_schema: schema (needed)"),
    ("json_schema", {"schema": {"type": "texts"}}, "schema.type: not a valid JSON schema"),
    ("json_schema", {"schema": {"type": 3}}, "schema.type: not a valid JSON schema"),
    ("json_schema", {"schema": {"properties": []}}, "schema.properties: not a valid JSON schema"),
    (
        "json_schema",
        {"schema": {"properties": {"a": {"format": "phone"}}}},
        "schema.properties.a.format: nothing here can check the format 'phone'",
    ),
    ("tool_calls", {"ordered": "no"}, "ordered: must be true or false, not 'no'; options of tool_calls: ordered = fal"),
    ("rouge", {"rouge_type": "rouge9"}, "rouge_type: must be 'rouge1', 'rouge2', 'rougeL' or 'rougeLsum'"),
    ("rouge", {"use_stemmer": "yes"}, "use_stemmer: must be true or false"),
    ("bleu", {"tokenize": "flores200"}, "tokenize: must be '13a', "),
    ("bleu", {"lowercase": 1}, "lowercase: must be true or false"),
    ("chrf", {"word_order": 3}, "word_order: must be less than or equal to 2"),
    ("label", {"labels": []}, "labels: must not be empty"),
    ("label", {"labels": "refund"}, "labels: must be a list"),
    ("label", {"labels": ["a", "…"]}, "labels: '…' is nothing but punctuation"),
    ("label", {"labels": ["C", "c."]}, "labels: 'c.' cannot be told from 'C'"),
    ("label", {"labels": ["a"], "pick": "best"}, "pick: must be 'first', 'last' or 'only'"),
    ("choice_accuracy_norm", {"length": "words"}, "length: must be 'bytes' or 'characters', not 'words'; options of "),
    ("ragas.RougeScore", {"rouge_type": "rougeX"}, "rouge_type: must be 'rouge1', "),
    ("ragas.RougeScore", {"mode": "best"}, "mode: must be 'fmeasure', 'precision' or 'recall', not 'best'; options of"),
    ("ragas.NonLLMStringSimilarity", {"distance_measure": "cosine"}, "distance_measure: must be 'levenshtein', "),
    ("ragas.BleuScore", {"kwargs": {"tokenise": "char"}}, "kwargs.tokenise: must be 'smooth_method', "),
    ("ragas.BleuScore", {"kwargs": {"tokenize": "flores200"}}, "kwargs.tokenize: must be one of 13a, "),
    ("ragas.BleuScore", {"kwargs": 3}, "kwargs: must be a table, not 3"),
    ("ragas.QuotedSpansAlignment", {"min_span_words": 0}, "min_span_words: must be greater than or equal to 1"),
    ("ragas.NonLLMContextRecall", {"threshold": 1}, "threshold: must be less than 1, not 1"),
    ("ragas.IDBasedContextRecall", {"threshold": 0.5}, "ragas.IDBasedContextRecall: has no option 'threshold'"),
    ("ragas.ToolCallAccuracy", {"strict_order": 1}, "strict_order: must be true or false"),
    ("ragas.ToolCallF1", {"strict_order": True}, "ragas.ToolCallF1: has no option 'strict_order'"),
]


@pytest.mark.parametrize(("type_name", "parameters", "problem"), WRONG_OPTIONS)
def test_a_wrong_option_is_named_with_those_there_are(type_name, parameters, problem):
    with pytest.raises(UsageError) as caught:
        make_scorer("mine", type_name, parameters, TYPES)
    assert str(caught.value).startswith(problem)
    assert f"; options of {type_name}: " in str(caught.value)


def test_a_schema_elsewhere_is_refused_and_not_fetched():
    with pytest.raises(UsageError, match=r"schema: not a valid JSON schema: .*retriev"):
        make_scorer("s", "json_schema", {"schema": {"$ref": "http://127.0.0.1:9/schema.json"}})


def test_a_larger_table_makes_more_types_and_the_built_in_one_stays_as_it_is():
    types = {**SCORER_TYPES, "kind": Crashing}
    assert isinstance(make_scorer("mine", "kind", {"answer": len}, types), Crashing)
    assert not isinstance(SCORER_TYPES, MutableMapping)
    with pytest.raises(UsageError, match="unknown scorer type 'kind'"):
        make_scorer("mine", "kind", {})


NO_ANSWER = "expectations hold neither answers nor expected_response"
NOT_SCORED: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    *((name, {}, {}, NO_ANSWER) for name in ("exact_match", "contains", "token_f1", "rouge", "bleu", "chrf")),
    *(
        (name, {}, given, NO_ANSWER)
        for name in ("exact_match", "contains")
        for given in ({"answers": []}, {"expected_response": None}, {"expected_json": {"a": 1}})
    ),
    *(
        ("exact_match", {}, {"answers": answers}, "an expected answer must be text or a number")
        for answers in ({"text": ["Paris"]}, [["Paris"]], [{"a": 1}])
    ),
    *(("regex", {}, {"pattern": pattern}, r"expectations\.pattern: ") for pattern in (None, "", 3, "(")),
    ("numeric", {}, {}, ""),
    ("numeric", {}, {"answers": ["none"]}, ""),
    *(("numeric", {}, {"expected_number": number}, "") for number in ("seven", True, float("inf"))),
    *(("json_fields", {}, {"expected_json": expected}, "") for expected in (None, {}, [1], "x")),
    *(("json_f1", {}, {"expected_json": expected}, "") for expected in (None, {}, [], "x", 3)),
    *(("tool_calls", {}, {"tool_calls": expected}, "") for expected in (None, "f", [3], [{"args": {}}])),
    # A class that is none of the labels.
    *(("label", {"labels": ["card", "refund"]}, given, "") for given in ({}, {"expected_response": "unknown"})),
    *(
        ("label", {}, {"expected_response": expected, **choices}, "")
        for expected, choices in [
            ("C", {"choices": ["A", "B"]}), ("4", {"choices": ["4", "4."]}), ("4", {"choices": []}), ("word " * 50, {}),
        ]
    ),
    # A right choice that is none, and choices that are none.
    *(
        ("choice_accuracy", {}, {"choices": ["no", "a long answer", "ja"], **answer}, "")
        for answer in ({}, {"expected_response": "perhaps"}, *({"answer_index": place} for place in (3, -1, True, "1")))
    ),
    *(
        ("choice_accuracy", {}, {"choices": choices, "answer_index": 0}, "")
        for choices in (None, ["one"], "no", ["a", " "], ["a", 2])
    ),
]  # fmt: skip


@pytest.mark.parametrize(("type_name", "options", "expectations", "problem"), NOT_SCORED)
def test_a_row_without_what_its_scorer_compares_with_is_not_scored(type_name, options, expectations, problem):
    scorer, row = make_scorer("s", type_name, options), EvalRow("r1", {"q": "x"}, expectations)
    with pytest.raises(MissingExpectation, match=f"row r1: .*{problem}"):
        scorer.score(row, Output("A", choice_logprobs=(-1, -2, -3)))


# Trials


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (raising(KeyError("cosine")), "KeyError: 'cosine'"),
        (raising(ImportError("no module named spacy")), "ImportError: "),
        (raising(ValueError("bad mode")), "ValueError: "),
        (lambda _: Score(error="no licence"), "no licence"),
        (lambda output: Score(error="no words") if not output.text else Score(True), None),
        (raising(MissingExpectation("for rows of another kind: needs a picture")), None),
    ],
)
def test_a_scorer_that_crashes_or_gives_nothing_but_errors_is_found_by_its_trial(answer, problem):
    if problem is None:
        try_scorer(Crashing(name="s", answer=answer))
    else:
        with pytest.raises(UsageError, match=f"cannot score a made-up row: {problem}"):
            try_scorer(Crashing(name="s", answer=answer))


def test_a_scorer_that_depends_on_a_model_is_not_tried():
    asked: list[Any] = []
    try_scorer(SemanticSimilarity(name="s", embed=asked.append))
    assert asked == []


# The best value is given to the expected answer, in every script, and less to what is not it


SHIPPED = Path(__file__).parents[2] / "eval_sets"

TEXTS = [
    "Paris", "a", "A", "42", "It is Paris.", "The cat sat on the mat. It slept.", "C++", "−5", "don't", "?",
    "Москва", "Москва — столица России.", "北京", "北京是中国的首都。", "東京タワーです", "القاهرة عاصمة مصر.",
    "नई दिल्ली भारत की राजधानी है।", "กรุงเทพมหานคร", "서울은 수도입니다.", "Cafe\u0301 Zoë", "👍", "½", "1,234.5",
    "1\u202f234,5 €",    "  spaces around ", "two\nlines", '{"k": 1}', "{{ output }}",
]  # fmt: skip


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
def test_the_expected_text_scores_best_in_every_script(type_name):
    for text in texts_of(type_name):
        for answers in ([text], ["something else", text], [text, "something else"]):
            value, scorer = value_of(type_name, text, asked(*answers))
            assert value == pytest.approx(best_of(scorer), abs=1e-9), text


@pytest.mark.parametrize("type_name", [*WHOLE, *WITHIN])
def test_a_text_with_one_other_letter_and_an_empty_or_evasive_output_score_less(type_name):
    for text in texts_of(type_name):
        middle = len(text) // 2
        value, _ = value_of(type_name, f"{text[:middle]}zq{text[middle + 1 :]}", asked(text))
        assert value < 1, text
        for output in ("", " ", "I am not sure."):
            if type_name != "ragas.StringPresence" or text not in output:  # it says that it counts no ends of words
                assert value_of(type_name, output, asked(text))[0] < 0.999, text


@pytest.mark.parametrize("type_name", WHOLE)
def test_nonsense_after_the_expected_text_costs_something(type_name):
    for text in texts_of(type_name):
        for nonsense in (" Completely wrong nonsense follows here.", "\n\nignore {{ output }}", " Ерунда и чепуха."):
            assert value_of(type_name, text + nonsense, asked(text))[0] < 0.999, text


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
def test_what_is_expected_scores_best_and_a_near_miss_less(type_name, options, expectations, right, wrong):
    row = EvalRow("r1", {"q": "x"}, expectations, ("The cat sat on the mat.",))
    value, scorer = value_of(type_name, right, row, **options)
    assert value == best_of(scorer)
    if wrong:
        assert value_of(type_name, wrong, row, **options)[0] != best_of(scorer)


def test_every_type_that_ships_is_tried_here():
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
def test_the_expected_answers_of_a_shipped_suite_score_best_by_each_of_its_scorers(name):
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
def test_an_answer_that_fits_no_row_of_a_shipped_suite_scores_far_below_its_best(name, hostile):
    suite = shipped(name)
    for scorer, spec in zip(suite.make_scorers(), suite.scorer_specs, strict=True):
        if scorer.higher_is_better and spec.type not in SPENT | {"json_valid"}:
            values = [float(scorer.score(row, Output(hostile)).value or 0) for row in suite.rows]
            assert sum(values) / len(values) < 0.35, scorer.name
