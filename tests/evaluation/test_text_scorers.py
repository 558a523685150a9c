"""Scorers of what an output says: what counts as the same answer, and patterns."""

from __future__ import annotations

from typing import Any

import pytest

from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score
from llmops.evaluation.scorers import make_scorer
from llmops.evaluation.scorers.normalisation import normalise
from llmops.evaluation.scorers.protocol import MissingExpectation


def row(*answers: Any, **expectations: Any) -> EvalRow:
    return EvalRow("r1", {"q": "x"}, {"answers": list(answers), **expectations})


def scored(type_name: str, expected: EvalRow, output: str, **options: Any) -> Score:
    return make_scorer("s", type_name, options).score(expected, Output(output))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  The  Cat,\nand a dog! ", "cat and dog"),
        ("Paris.", "paris"),
        ("“Paris” – of course…", "paris of course"),
        ("1,234,567 km", "1234567 km"),
        ("3.14", "3.14"),
        ("about 3.", "about 3"),
        ("1,2 and 3", "1 2 and 3"),
        ("ﬁne ①", "fine 1"),
        ("STRASSE straße", "strasse strasse"),
        ("theatre another", "theatre another"),
        ("", ""),
        ("A", "a"),
        ("the", "the"),
    ],
)
def test_normalise_keeps_what_matters_of_an_answer(text: str, expected: str) -> None:
    assert normalise(text) == expected


@pytest.mark.parametrize("text", ["The 1,234.5 Cats", "a.b", "3.5.", "ﬁ", "don't", "The a", "A."])
def test_normalise_is_idempotent(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


SAME = [
    ("Café", "Cafe\u0301"), ("straße", "STRASSE"), ("Москва", "«москва»."), ("北京", "北京。"), ("القاهرة", "القاهرة،"),
    ("दिल्ली", "दिल्ली।"), ("¿Qué?", "qué"), ("ＡＢＣ", "abc"), ("1,234", "1234"), ("+5", "5"), ("−5", "-5"),
    ("½", "1/2"), ("x²", "x^2"), ("2+2", "2 + 2"), ("Paris\u200b", "paris"),
    ("x ≠ y", "x != y"), ("x <= y", "x ≤ y"), ("A−", "a-"), ("‑5", "-5"), ("5 ‰", "5‰"),
    ("don’t", "don't"), ("Vitamin A", "the vitamin A"), ("?", " ? "),
]  # fmt: skip
DIFFERENT = [
    ("5", "-5"), ("5", "−5"), ("5", "–5"), ("C", "C++"), ("C", "C#"), ("C++", "C#"), ("A", "A+"),
    ("A", "A-"), ("O−", "O+"), ("AB-", "AB"), ("Cl-", "Cl"), ("x = y", "x != y"), ("5%", "5‰"), ("‑5", "5"),
    ("vitamin", "vitamin A"), ("?", "!"), ("x > 5", "x < 5"), ("2 + 2", "2 2"), ("52", "5²"), ("106", "10⁶"),
    ("3/4", "3 4"), ("1.5", "15"), ("10:30", "10 30"), ("€5", "£5"), ("Москва", "Москво"), ("北京", "南京"),
    ("resume", "résumé"), ("дом", "дома"), ("...", "…!"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), SAME)
def test_an_answer_is_the_same_in_every_spelling_that_does_not_matter(one: str, other: str) -> None:
    for type_name in ("exact_match", "contains"):
        assert scored(type_name, row(one), other).value is True
        assert scored(type_name, row(other), one).value is True


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_what_changes_a_meaning_is_no_spelling(one: str, other: str) -> None:
    assert scored("exact_match", row(one), other).value is False
    assert scored("exact_match", row(other), one).value is False


CITIES = row("Paris", "Lutetia")
NUMBERS = row(3.0, 4.0)
# Type, options, what is expected, output, value.
VALUES: list[tuple[str, dict[str, Any], EvalRow, str, bool]] = [
    # The whole output, or whole words of it.
    *(("exact_match", {}, CITIES, output, True) for output in ("Paris", "the PARIS.", "Lutetia")),
    *(("exact_match", {}, CITIES, output, False) for output in ("It is Paris, in France.", "Parisian", "London", "")),
    *(("contains", {}, CITIES, output, True) for output in ("Paris", "the PARIS.", "It is Paris, in France.")),
    *(("contains", {}, CITIES, output, False) for output in ("Parisian", "London", "")),
    ("exact_match", {}, row("A"), "", False),
    ("exact_match", {}, row("A"), "a.", True),
    # A number only as itself.
    *(("contains", {}, row("4"), output, False) for output in ("14", "4.5", "1,004")),
    *(("contains", {}, row("4"), output, True) for output in ("4.", "4,")),
    # By the rule that is given; SQuAD's script loses the sign, and an empty list is the empty answer.
    ("exact_match", {"normalisation": "squad"}, row("don't"), "dont", True),
    ("exact_match", {"normalisation": "squad"}, row("1,234 cats"), "The 1234 cats", True),
    ("exact_match", {"normalisation": "squad"}, row("-5"), "5", True),
    ("exact_match", {"normalisation": "squad"}, row("Caf\u00e9"), "Cafe\u0301", False),
    ("exact_match", {"normalisation": "squad"}, row(), "", True),
    ("exact_match", {"normalisation": "squad"}, row(), "Paris", False),
    ("exact_match", {"normalisation": "squad"}, row("A", "Paris"), "", False),
    ("exact_match", {"normalisation": "squad"}, row("A", "Paris"), "a.", True),
    ("exact_match", {"normalisation": "none"}, row("Paris"), "Paris", True),
    ("exact_match", {"normalisation": "none"}, row("Paris"), "paris", False),
    ("exact_match", {"normalisation": "none"}, row("Paris"), "Paris.", False),
    ("exact_match", {"normalisation": "words"}, row("Paris"), "the paris.", True),
    # A single answer is one; a number is read as people write it; `expected_response` where there are no answers.
    ("exact_match", {}, row(answers="Paris"), "Paris", True),
    ("exact_match", {}, row(answers="Paris"), "P", False),
    ("exact_match", {}, row(4.0), "4", True),
    ("exact_match", {}, row(4.0), "4.0", True),
    ("exact_match", {}, row(4.0), "40", False),
    ("exact_match", {}, row(True), "true", True),
    ("exact_match", {}, row(4), "4", True),
    ("exact_match", {}, row(expected_response=4.5), "4.5", True),
    ("exact_match", {}, row(expected_response="Paris"), "paris", True),
    ("exact_match", {}, row(None, "Paris"), "Paris", True),
    # Where, how many, and what not; texts of its own need nothing of the row.
    ("contains", {"where": "start"}, CITIES, "Paris, of course", True),
    ("contains", {"where": "start"}, CITIES, "Of course: Paris", False),
    ("contains", {"where": "start"}, CITIES, "Parisian", False),
    ("contains", {"where": "end"}, CITIES, "It is Paris.", True),
    ("contains", {"where": "end"}, CITIES, "Paris it is.", False),
    ("contains", {"need": "all"}, CITIES, "Paris, once Lutetia", True),
    ("contains", {"need": "all"}, CITIES, "Paris", False),
    ("contains", {"need": "all"}, NUMBERS, "3 and 4.0", True),
    ("contains", {"need": "all"}, NUMBERS, "3.0 or 4", True),
    ("contains", {"need": "all"}, NUMBERS, "3 and 5", False),
    ("contains", {"need": "all"}, NUMBERS, "4", False),
    ("contains", {"expect": False}, CITIES, "Paris", False),
    ("contains", {"expect": False}, CITIES, "London", True),
    ("contains", {"texts": ["sorry"], "expect": False}, row(), "Sorry, Paris", False),
    ("contains", {"texts": ["sorry"], "expect": False}, row(), "Paris", True),
    ("contains", {"texts": ["one", "two"], "need": "all"}, row(), "two and one", True),
    ("contains", {"texts": ["hello"]}, row(), "Hello!", True),
    # A pattern anywhere in the output, with flags.
    ("regex", {"pattern": r"^\d{4}$"}, row(), "2024", True),
    ("regex", {"pattern": r"^\d{4}$"}, row(), "in 2024", False),
    ("regex", {"pattern": "paris"}, row(), "Paris", False),
    ("regex", {"pattern": "paris", "flags": "i"}, row(), "Paris", True),
    ("regex", {"pattern": "a.b", "flags": "s"}, row(), "a\nb", True),
    ("regex", {"pattern": "^b$", "flags": "im"}, row(), "a\nB", True),
    ("regex", {"pattern": "a b", "flags": "x"}, row(), "ab", True),
    ("regex", {"pattern": "sorry", "expect": False}, row(), "fine", True),
    ("regex", {"pattern": "sorry", "expect": False}, row(), "so sorry", False),
]


@pytest.mark.parametrize(("type_name", "options", "expected", "output", "value"), VALUES)
def test_an_output_is_right_by_what_its_scorer_looks_for(
    type_name: str, options: dict[str, Any], expected: EvalRow, output: str, value: bool
) -> None:
    assert scored(type_name, expected, output, **options).value is value


@pytest.mark.parametrize(
    ("output", "wanted", "held"),
    [
        ("答案是北京。", "北京", True),
        ("คำตอบคือกรุงเทพ", "กรุงเทพ", True),
        ("これは東京です", "東京", True),
        ("答案是南京。", "北京", False),
        ("Ответ: Москва, конечно", "москва", True),
        ("в Подмосковье", "москов", False),
        ("اسمها القاهرة.", "القاهرة", True),
        ("उत्तर दिल्ली है।", "दिल्ली", True),
        ("दिल्लीवाला", "दिल्ली", False),
        ("The answer is A.", "A", True),
        ("It is -5.", "5", False),
        ("It is -5.", "-5", True),
        ("I use C++.", "C", False),
        ("It costs €5.", "5", True),
        ("Yes!", "!", True),
        ("Yes!", "?", False),
        ("서울입니다", "서울", False),
    ],
)
def test_whole_words_are_those_of_the_script(output: str, wanted: str, held: bool) -> None:
    assert scored("contains", row(wanted), output).value is held
    assert scored("contains", row(), output, texts=[wanted]).value is held


@pytest.mark.parametrize(
    ("type_name", "options", "expected", "output", "rationale"),
    [
        ("contains", {}, row("Rome", "Paris"), "Paris!", "holds 'Paris'"),
        ("contains", {}, row("Rome", "Paris"), "Oslo", "expected 'Rome'"),
        ("contains", {"need": "all"}, row("Paris", "Rome"), "Paris", "expected 'Rome'"),
        ("contains", {"need": "all"}, row("Paris", "Rome"), "Rome, Paris", "holds 'Paris', 'Rome'"),
        ("regex", {"flags": "i"}, row(pattern="^par"), "Paris", "found 'Par'"),
    ],
)
def test_the_rationale_names_what_was_found_or_expected(
    type_name: str, options: dict[str, Any], expected: EvalRow, output: str, rationale: str
) -> None:
    assert scored(type_name, expected, output, **options).rationale == rationale


NO_ANSWER = "expectations hold neither answers nor expected_response"
NO_TEXT = "an expected answer must be text or a number"


@pytest.mark.parametrize(
    ("type_name", "expectations", "problem"),
    [
        *(
            ("regex", given, r"expectations\.pattern: ")
            for given in ({}, {"pattern": ""}, {"pattern": 3}, {"pattern": "("})
        ),
        *(
            (type_name, given, NO_ANSWER)
            for type_name in ("exact_match", "contains")
            for given in ({}, {"answers": []}, {"expected_response": None}, {"expected_json": {"a": 1}})
        ),
        *(("exact_match", {"answers": answers}, NO_TEXT) for answers in ({"text": ["Paris"]}, [["Paris"]], [{"a": 1}])),
    ],
)
def test_a_row_without_what_is_compared_with_is_not_scored(
    type_name: str, expectations: dict[str, Any], problem: str
) -> None:
    with pytest.raises(MissingExpectation, match=f"row r1: {problem}"):
        scored(type_name, EvalRow("r1", {"q": "x"}, expectations), "x")
