"""ragas' deterministic metrics, on rows whose scores follow by hand."""

import json
from typing import Any

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score
from llmops.evaluation.scorers import make_scorer
from llmops.evaluation.scorers.json_scorers import calls_of
from llmops.evaluation.scorers.protocol import MissingExpectation
from llmops.evaluation.scorers.ragas_scorers import load


def scored(type_name: str, output: str, *answers: str, **parameters: Any) -> Score:
    row = EvalRow("r1", {"q": "x"}, {"answers": list(answers)})
    return make_scorer("s", f"ragas.{type_name}", parameters).score(row, Output(output))


@pytest.mark.parametrize(
    ("type_name", "output", "reference", "value"),
    [
        ("ExactMatch", "paris", "Paris", 0.0),
        ("NonLLMStringSimilarity", "abcd", "abcx", 0.75),  # one edit in four letters
        ("RougeScore", "Москва", "Минск", 0.0),
        ("RougeScore", "北京", "南京", 0.5),
        ("RougeScore", "👍", "👎", 0.0),
    ],
)
def test_values_on_hand_made_pairs(type_name, output, reference, value):
    score = scored(type_name, output, reference)
    assert score.error is None
    assert score.value == pytest.approx(value, abs=1e-6)


def test_the_best_over_the_references_counts_and_is_named_and_an_empty_output_scores_zero():
    for answers in (("Rome", "Paris", "Oslo"), ("Paris", "Rome"), ("Oslo", "Rome", "Paris")):
        assert scored("NonLLMStringSimilarity", "Paris", *answers) == Score(1.0, "against 'Paris'")
    for type_name in ("BleuScore", "CHRFScore", "ExactMatch", "NonLLMStringSimilarity", "RougeScore"):
        for output in ("", " \n"):
            assert scored(type_name, output, "Paris") == Score(0.0, "the output is empty")


def test_what_follows_the_first_sentence_counts_against_bleu():
    right = "The cat sat on the mat near the door"
    hostile = f"{right}. Completely wrong nonsense follows here and goes on."
    score = scored("BleuScore", hostile, right)
    assert score.value == pytest.approx(sacrebleu.corpus_bleu([hostile], [[right]]).score / 100)
    assert (score.value or 1) < 0.7


WORDS = ["the", "cat", "sat", "on", "a", "mat", "near", "door", "Running", "runners", "42"]
ENGLISH = st.lists(st.sampled_from(WORDS), min_size=4, max_size=9)


@given(ENGLISH, ENGLISH)
@settings(max_examples=25)
@pytest.mark.parametrize(
    ("type_name", "given_", "of_ragas"),
    [
        ("BleuScore", {}, {}),
        ("BleuScore", {"kwargs": {"lowercase": True}}, {"kwargs": {"lowercase": True}}),
        ("CHRFScore", {}, {}),
        ("CHRFScore", {"kwargs": {"word_order": 2}}, {"kwargs": {"word_order": 2}}),
        ("ExactMatch", {}, {}),
        ("StringPresence", {}, {}),
        ("RougeScore", {}, {}),
        ("RougeScore", {"rouge_type": "rouge1", "mode": "recall"}, {"rouge_type": "rouge1", "mode": "recall"}),
        ("NonLLMStringSimilarity", {}, {}),
    ],
)
def test_on_plain_english_of_one_sentence_the_score_is_ragas_own(type_name, given_, of_ragas, output, answer):
    theirs = load(type_name, of_ragas).score(reference=" ".join(answer), response=" ".join(output)).value
    assert scored(type_name, " ".join(output), " ".join(answer), **given_).value == pytest.approx(theirs)


@pytest.mark.parametrize("measure", ["levenshtein", "hamming", "jaro", "jaro_winkler"])
def test_every_distance_measure_of_ragas_works_by_its_name(measure):
    from ragas.metrics.collections import DistanceMeasure

    theirs = load("NonLLMStringSimilarity", {"distance_measure": DistanceMeasure(measure)})
    for output, answer in [("Москва", "Москва"), ("kitten", "sitting"), ("abc", "xyz"), ("北京", "北京市")]:
        score = scored("NonLLMStringSimilarity", output, answer, distance_measure=measure)
        assert score.value == pytest.approx(theirs.score(reference=answer, response=output).value)


CONTEXTS = ("The cat sat on the mat.", "Nothing of this matters here at all.")


def scored_row(type_name: str, output: str = "x", contexts: tuple[str, ...] = CONTEXTS, **expectations: Any) -> Score:
    row = EvalRow("r1", {"q": "x"}, expectations, contexts)
    return make_scorer("s", f"ragas.{type_name}", {}).score(row, Output(output))


@pytest.mark.parametrize(
    ("output", "value"),
    [
        ('It says "the cat sat on".', 1.0),
        ('It says "the dog sat on".', 0.0),
        ('It says "the cat sat" and “a dog sat too”.', 0.5),
        ("It quotes nothing.", 1.0),
        ("I don't think that it's so.", 1.0),
        ("The cats’ mat isn’t what it’s said to be.", 1.0),
        ("It says 'the cat sat on'.", 1.0),
        ("It doesn't say 'the dog sat on'.", 0.0),
    ],
)
def test_quotations_must_stand_in_the_contexts(output, value):
    assert scored_row("QuotedSpansAlignment", output).value == value


def test_contexts_are_matched_with_those_they_should_be_by_text_or_by_id_and_not_with_themselves():
    # The first of two retrieved is a reference one; of two reference ones one was retrieved.
    reference = ["The cat sat on the mat!", "Dogs bark."]
    assert scored_row("NonLLMContextPrecisionWithReference", reference_contexts=reference).value == pytest.approx(1.0)
    assert scored_row("NonLLMContextRecall", reference_contexts=reference).value == 0.5
    assert scored_row("NonLLMContextRecall", reference_contexts=["Dogs bark."]).value == 0.0
    # An irrelevant context in front halves the precision.
    score = scored_row("NonLLMContextPrecisionWithReference", contexts=CONTEXTS[::-1], reference_contexts=[CONTEXTS[0]])
    assert score.value == pytest.approx(0.5)
    ids = {"retrieved_context_ids": ["a", 2, "z", "y"], "reference_context_ids": ["a", "2", "c"]}
    assert scored_row("IDBasedContextPrecision", **ids).value == 0.5
    assert scored_row("IDBasedContextRecall", **ids).value == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("type_name", "contexts", "expectations", "problem"),
    [
        ("QuotedSpansAlignment", (), {}, "contexts are empty"),
        ("NonLLMContextRecall", (), {"reference_contexts": ["x"]}, "contexts are empty"),
        ("NonLLMContextRecall", CONTEXTS, {}, r"expectations\.reference_contexts must be a list, and not empty"),
        ("NonLLMContextPrecisionWithReference", CONTEXTS, {"reference_contexts": "x"}, "reference_contexts must be"),
        ("IDBasedContextRecall", (), {"reference_context_ids": [1]}, "retrieved_context_ids must be"),
        ("IDBasedContextPrecision", (), {"retrieved_context_ids": [1]}, "reference_context_ids must be"),
        ("ToolCallF1", (), {}, "expectations hold no tool_calls"),
        ("ToolCallAccuracy", (), {"tool_calls": ["f"]}, "tool_calls must be objects of name and args"),
    ],
)
def test_what_a_row_lacks_is_named(type_name, contexts, expectations, problem):
    with pytest.raises(MissingExpectation, match=f"row r1: .*{problem}"):
        scored_row(type_name, contexts=contexts, **expectations)


def calls(*made: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"name": name, "args": arguments} for name, arguments in made]


F, G = ("f", {"x": 1}), ("g", {})


@pytest.mark.parametrize(
    ("made", "expected", "accuracy", "f1"),
    [
        (calls(F, G), calls(F, G), 1.0, 1.0),
        (calls(G, F), calls(F, G), 0.0, 1.0),  # accuracy minds the order
        (calls(F), calls(F, G), 0.0, 0.6667),
        (calls(("f", {"x": 2}), G), calls(F, G), 0.5, 0.5),
        ([], calls(F), 0.0, 0.0),
        (calls(F), [], 0.0, 0.0),
        ("It is Paris.", [], 1.0, 1.0),  # calling no tool where none is expected is right
    ],
)
def test_tools_called_are_compared_with_those_expected(made, expected, accuracy, f1):
    by_accuracy = scored_row("ToolCallAccuracy", json.dumps(made), tool_calls=expected)
    assert by_accuracy.value == accuracy
    assert by_accuracy.rationale.startswith("no tool calls: " if isinstance(made, str) else "calls ")
    assert scored_row("ToolCallF1", json.dumps(made), tool_calls=expected).value == f1


def test_tool_calls_are_read_in_the_usual_shapes_and_an_output_of_another_calls_nothing():
    for text in (
        '{"name": "f", "args": {"x": 1}}',
        '[{"name": "f", "arguments": {"x": 1}}]',
        '{"tool_calls": [{"name": "f", "parameters": {"x": 1}}]}',
        '[{"type": "function", "function": {"name": "f", "arguments": "{\\"x\\": 1}"}}]',
    ):
        assert calls_of(Output(text)) == (calls(F), ""), text
    for text in ("f(1)", "3", '{"tool": "f"}', '[{"name": "f"}, 3]', '{"name": "f", "args": [1]}'):
        made, problem = calls_of(Output(text))
        assert (made, problem.startswith("no tool calls: ")) == ([], True), text


def test_nothing_is_reported_to_the_makers_of_ragas(monkeypatch):
    scored_row("IDBasedContextRecall", retrieved_context_ids=["a"], reference_context_ids=["a"])
    from ragas import _analytics

    reported: list[Any] = []
    monkeypatch.setattr(_analytics._analytics_batcher, "add_evaluation", reported.append)
    monkeypatch.setattr(_analytics, "track", reported.append)
    scored_row("NonLLMContextRecall", reference_contexts=["x"])
    scored_row("IDBasedContextRecall", retrieved_context_ids=["a"], reference_context_ids=["a"])

    assert reported == []
