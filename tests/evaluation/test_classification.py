"""Classes read from outputs, the figures of a run, which are scikit-learn's, their picture, and multiple choice."""

import io
import json
import sys
from collections import Counter

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, RowResult, RunFindings, Score
from llmops.evaluation.scorers import make_scorer
from llmops.evaluation.scorers.classification import (
    MOST_CLASSES,
    NO_LABEL,
    OTHER,
    ClassificationReport,
    _counts,
    _shown,
    answer_index,
    confusion_png,
    row_choices,
)
from llmops.evaluation.scorers.protocol import MissingExpectation, RunScorer

LABELS = ["card", "card_arrival", "card-linking", "Top up", "refund"]


def row(expected: str | None = None, **expectations: object) -> EvalRow:
    return EvalRow("r1", {"q": "x"}, {"expected_response": expected, **expectations})


def said(output: str, expected: str = "refund", **parameters: object) -> Score:
    return make_scorer("s", "label", {"labels": LABELS, **parameters}).score(row(expected), Output(output))


@pytest.mark.parametrize(
    ("output", "label", "options"),
    [
        ("card_arrival", "card_arrival", {}),
        ("Card Arrival.", "card_arrival", {}),
        ("**card-arrival**", "card_arrival", {}),
        ("The intent is `card arrival`, I think.", "card_arrival", {}),
        ("card", "card", {}),
        ("a card that arrives", "card", {}),
        ("cards", NO_LABEL, {}),
        ("top-up", "Top up", {}),
        ('{"intent": "REFUND"}', "refund", {}),
        ("", NO_LABEL, {}),
        ("no idea", NO_LABEL, {}),
        ("refund, not top up", "refund", {"pick": "first"}),
        ("not refund but top up", "Top up", {"pick": "last"}),
        ("refund or top up", NO_LABEL, {"pick": "only"}),
        ("refund, yes, refund", "refund", {"pick": "only"}),
        # In its script, with its signs.
        ("答案是退款。", "退款", {"labels": ["退款", "订单"]}),
        ("Это возврат.", "возврат", {"labels": ["возврат", "заказ"]}),
        ("This is a hard one. B", "B", {"labels": ["A", "B"]}),
        ("A", "A", {"labels": ["A", "B"]}),
        ("a", "A", {"labels": ["A", "B"]}),
        ("(a) because it is so", "A", {"labels": ["A", "B"]}),
        ("I write C++.", "C++", {"labels": ["C", "C++", "C#"]}),
        ("It is −1.", "-1", {"labels": ["1", "-1"]}),
        ("Nai\u0308ve", "naïve", {"labels": ["naïve", "other"]}),
    ],
)
def test_a_label_is_found_as_whole_words_the_longest_first_and_which_mention_counts_is_an_option(
    output, label, options
):
    score = said(output, expected="refund" if label == NO_LABEL else label, **options)
    assert (score.label, score.value) == (label, label != NO_LABEL)


def test_the_score_says_right_or_wrong_and_why_and_any_of_several_answers_is_right():
    assert said("Refund!") == Score(True, "says refund; expected refund", label="refund")
    assert said("card", expected="card arrival") == Score(False, "says card; expected card_arrival", label="card")
    assert said("hm").value is False
    several = EvalRow("r1", {"q": "x"}, {"answers": ["card", "refund"]})
    assert make_scorer("s", "label", {"labels": LABELS}).score(several, Output("refund")).value is True


def test_a_rows_choices_are_its_labels_and_without_any_the_whole_output_is_the_class():
    scorer = make_scorer("s", "label", {})
    assert scorer.score(row("B", choices=["A", "B"]), Output("The answer is B.")).label == "B"
    assert scorer.score(row("B", choices=["A", "B"]), Output("A.")) == Score(False, "says A; expected B", label="A")
    assert scorer.score(row(answer_index=0, choices=["A", "B"]), Output("a")).value is True
    assert scorer.score(row("card_arrival"), Output("Card arrival.")) == Score(
        True, "says card arrival; expected card arrival", label="card arrival"
    )
    assert scorer.score(row("refund"), Output("It is refund")).label == "it is refund"
    assert scorer.score(row("refund"), Output("…")).label == NO_LABEL
    assert scorer.score(row("refund"), Output("word " * 50)).label == NO_LABEL


def findings(answered: list[tuple[str, Output]], **parameters: object) -> RunFindings:
    """Of outputs to rows that expect the text beside them; a failed generation has a score with an error."""
    scorer = make_scorer("s", "label", parameters)
    assert isinstance(scorer, RunScorer)

    def result(item: EvalRow, output: Output) -> RowResult:
        try:
            score = Score(error=output.error) if output.error else scorer.score(item, output)
        except MissingExpectation as error:
            score = Score(error=str(error))
        return RowResult(item, output, {"s": score})

    return scorer.findings(result(row(expected), output) for expected, output in answered)


CLASSES = ["red", "green", "blue", "grey"]


PAIRS = st.dictionaries(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["a", "b", "c", "d", NO_LABEL])), st.integers(1, 20), min_size=1
)


@given(PAIRS)
@settings(max_examples=25)
def test_a_report_is_consistent_with_scikit_learn_whatever_the_counts(pairs):
    expected = [want for (want, _), n in pairs.items() for _ in range(n)]
    predicted = [label for (_, label), n in pairs.items() for _ in range(n)]

    classes = sorted(set(expected))  # what is said but never expected is none: nobody could have it right
    report = ClassificationReport.of(pairs)

    assert report.accuracy == pytest.approx(accuracy_score(expected, predicted))
    assert report.macro_f1 == pytest.approx(
        f1_score(expected, predicted, labels=classes, average="macro", zero_division=0)
    )
    columns = precision_recall_fscore_support(expected, predicted, labels=classes, zero_division=0)
    told = report.to_json()["classes"]
    assert list(told) == classes
    for name, *figures in zip(classes, *columns, strict=True):
        assert [told[name][key] for key in ("precision", "recall", "f1", "support")] == pytest.approx(figures)
    assert (report.n_rows, report.n_unparsed) == (len(expected), predicted.count(NO_LABEL))
    assert {(a, b): n for a, b, n in report.confusions} == {pair: n for pair, n in pairs.items() if pair[0] != pair[1]}


def test_confusions_stand_in_the_report_the_commonest_first():
    report = ClassificationReport.of(Counter({("a", "b"): 2, ("b", "a"): 5, ("a", "a"): 9, ("a", "c"): 2}))
    assert report.confusions == [("b", "a", 5), ("a", "b", 2), ("a", "c", 2)]
    assert report.to_json()["confusions"][0] == {"expected": "b", "said": "a", "rows": 5}


def test_a_failed_row_is_wrong_and_unparsed_and_a_row_without_class_is_left_out():
    answered = [("red", Output("red")), ("red", Output("", error="timed out")), ("purple", Output("red"))]
    found = findings(answered, labels=CLASSES)
    assert found.metrics == {"accuracy": 0.5, "macro_f1": pytest.approx(2 / 3), "n_unparsed": 1.0}
    assert sorted(found.files) == ["classification_report.json", "confusion.png"]
    assert json.loads(found.files["classification_report.json"])["classes"]["red"]["support"] == 2
    assert found.files["confusion.png"].startswith(b"\x89PNG")
    assert findings([], labels=CLASSES) == RunFindings()


# Multiple choice

CHOICES = ["no", "a long answer", "ja, größer"]
EQUAL = (-np.inf, -np.inf, -np.inf)


def choice_row(**expectations: object) -> EvalRow:
    return EvalRow("r1", {"q": "x"}, {"choices": CHOICES, **expectations})


def ranked(logprobs: tuple[float, ...] | None, right: int, norm: bool = False, **parameters: object) -> Score:
    scorer = make_scorer("s", "choice_accuracy_norm" if norm else "choice_accuracy", parameters)
    return scorer.score(choice_row(answer_index=right), Output("no", choice_logprobs=logprobs))


@pytest.mark.parametrize(
    ("logprobs", "right", "norm", "options", "value"),
    [
        ((-5.0, -3.0, -4.0), 2, False, {}, False),
        # Of equal choices the first counts.
        *((EQUAL, 0, norm, {}, True) for norm in (False, True)),
        *((EQUAL, 1, norm, {}, False) for norm in (False, True)),
        # A byte of "no" costs 2.0, one of "a long answer" 0.46: length is no disadvantage when normalised.
        ((-4.0, -6.0, -40.0), 1, False, {}, False),
        ((-4.0, -6.0, -40.0), 1, True, {}, True),
        # "ja, größer" is 10 characters and 12 bytes, "a long answer" 13 of both: −10.8/12 > −12/13 > −10.8/10.
        ((-40.0, -12.0, -10.8), 2, True, {}, True),
        ((-40.0, -12.0, -10.8), 1, True, {"length": "characters"}, True),
    ],
)
def test_the_likeliest_choice_is_the_answer(logprobs, right, norm, options, value):
    assert ranked(logprobs, right, norm, **options).value is value
    score = ranked((-5.0, -3.0, -4.0), right=1)
    assert score == Score(True, "ranks 'a long answer' first", label="a long answer")


@given(st.lists(st.floats(-1e3, 0), min_size=3, max_size=3), st.integers(0, 2))
def test_both_agree_with_argmax_over_log_likelihoods(logprobs, right):
    lengths = np.array([len(choice.encode()) for choice in CHOICES])
    assert ranked(tuple(logprobs), right).value is bool(np.argmax(logprobs) == right)
    assert ranked(tuple(logprobs), right, norm=True).value is bool(np.argmax(np.array(logprobs) / lengths) == right)


@pytest.mark.parametrize("logprobs", [None, (), (-1.0, -2.0), (-1.0, float("nan"), -2.0)])
def test_an_output_without_a_log_likelihood_for_each_choice_is_an_error(logprobs):
    score = ranked(logprobs, right=0)
    assert score.value is None
    assert "choice_logprobs" in (score.error or "")


def test_the_right_choice_is_given_by_place_or_by_text():
    assert answer_index(choice_row(answer_index=0)) == 0
    assert answer_index(choice_row(expected_response="ja, größer")) == 2
    assert answer_index(choice_row(answer_index=1, expected_response="no")) == 1
    assert row_choices(choice_row()) == tuple(CHOICES)


# The confusion matrix as a picture


def many(n: int) -> Counter[tuple[str, str]]:
    """Class i is said to be the next one i times."""
    names = [f"class {i:03}" for i in range(n)]
    pairs = Counter({(name, name): 5 for name in names})
    pairs.update({(name, names[(i + 1) % n]): i for i, name in enumerate(names) if i})
    return pairs


def test_all_classes_are_shown_while_they_fit():
    rows, columns, title = _shown(Counter({("b", "b"): 3, ("A", "b"): 1, ("b", "(none)"): 2}))
    assert (rows, columns, title) == (["A", "b"], ["A", "b", "(none)"], "6 rows")
    assert len(_shown(many(MOST_CLASSES))[0]) == MOST_CLASSES


def test_of_too_many_those_with_most_errors_are_shown_and_no_row_is_lost():
    pairs = many(77)

    rows, columns, title = _shown(pairs)
    counts = _counts(pairs, rows, columns)

    assert rows == [f"class {i:03}" for i in range(47, 77)]
    assert columns == [*rows, OTHER]
    assert title.endswith("; the 30 of 77 classes with most errors")
    for name, line in zip(rows, counts, strict=True):
        assert sum(line) == sum(n for (expected, _), n in pairs.items() if expected == name)


def test_of_many_classes_nobody_expected_the_commonest_are_columns():
    pairs = Counter({("a", f"wild {i:03}"): i + 1 for i in range(100)})
    rows, columns, title = _shown(pairs)
    assert rows == ["a"]
    assert columns[-2:] == ["wild 099", OTHER]
    assert len(columns) <= MOST_CLASSES
    assert title == "5050 rows"


def test_it_is_a_picture_of_bounded_size_whatever_the_names_and_pyplot_is_left_alone():
    before = "matplotlib.pyplot" in sys.modules
    names_of_anything = Counter({("$a$ _{b}", "日本 🎉"): 1, ("x" * 500, "\\frac"): 2})
    for pairs in (many(1), many(3), many(77), names_of_anything):
        height, width = matplotlib.image.imread(io.BytesIO(confusion_png(pairs))).shape[:2]
        assert 300 <= width <= 2000
        assert 300 <= height <= 2000
    assert ("matplotlib.pyplot" in sys.modules) is before
