"""Scorers of what an output says: what counts as the same answer, and patterns."""

from __future__ import annotations

import pytest

from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output
from llmops.evaluation.scorers import make_scorer
from llmops.evaluation.scorers.normalisation import normalise
from llmops.evaluation.scorers.protocol import MissingExpectation


def row(*answers: str) -> EvalRow:
    return EvalRow("r1", {"q": "x"}, {"answers": list(answers)})


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


@pytest.mark.parametrize(
    ("output", "exact", "contains"),
    [
        ("Paris", True, True),
        ("the PARIS.", True, True),
        ("It is Paris, in France.", False, True),
        ("Parisian", False, False),
        ("London", False, False),
        ("", False, False),
        ("Lutetia", True, True),
    ],
)
def test_exact_match_and_contains(output: str, exact: bool, contains: bool) -> None:
    expected = row("Paris", "Lutetia")
    assert make_scorer("s", "exact_match", {}).score(expected, Output(output)).value is exact
    assert make_scorer("s", "contains", {}).score(expected, Output(output)).value is contains


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
        scorer = make_scorer("s", type_name, {})
        assert scorer.score(row(one), Output(other)).value is True
        assert scorer.score(row(other), Output(one)).value is True


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_what_changes_a_meaning_is_no_spelling(one: str, other: str) -> None:
    scorer = make_scorer("s", "exact_match", {})
    assert scorer.score(row(one), Output(other)).value is False
    assert scorer.score(row(other), Output(one)).value is False


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
    assert make_scorer("s", "contains", {}).score(row(wanted), Output(output)).value is held
    assert make_scorer("s", "contains", {"texts": [wanted]}).score(row(), Output(output)).value is held


@pytest.mark.parametrize(
    ("normalisation", "output", "answer", "right"),
    [
        ("squad", "dont", "don't", True),
        ("squad", "The 1234 cats", "1,234 cats", True),
        ("squad", "5", "-5", True),  # SQuAD's script loses the sign
        ("squad", "Cafe\u0301", "Caf\u00e9", False),
        ("none", "Paris", "Paris", True),
        ("none", "paris", "Paris", False),
        ("none", "Paris.", "Paris", False),
        ("words", "the paris.", "Paris", True),
    ],
)
def test_exact_match_takes_the_rule_it_is_given(normalisation: str, output: str, answer: str, right: bool) -> None:
    scorer = make_scorer("s", "exact_match", {"normalisation": normalisation})
    assert scorer.score(row(answer), Output(output)).value is right


def test_a_question_without_an_answer_has_the_empty_one_by_squads_rule() -> None:
    scorer = make_scorer("s", "exact_match", {"normalisation": "squad"})
    assert scorer.score(row(), Output("")).value is True
    assert scorer.score(row(), Output("Paris")).value is False
    assert scorer.score(row("A", "Paris"), Output("")).value is False
    assert scorer.score(row("A", "Paris"), Output("a.")).value is True


@pytest.mark.parametrize(
    ("output", "hit"), [("14", False), ("4.", True), ("4.5", False), ("1,004", False), ("4,", True)]
)
def test_a_number_is_found_only_as_itself(output: str, hit: bool) -> None:
    assert make_scorer("s", "contains", {}).score(row("4"), Output(output)).value is hit


def test_the_rationale_names_the_answer_found_or_expected() -> None:
    scorer = make_scorer("s", "contains", {})
    assert scorer.score(row("Rome", "Paris"), Output("Paris!")).rationale == "holds 'Paris'"
    assert scorer.score(row("Rome", "Paris"), Output("Oslo")).rationale == "expected 'Rome'"


def test_expected_response_is_used_where_there_are_no_answers() -> None:
    expected = EvalRow("r1", {"q": "x"}, {"expected_response": "Paris"})
    assert make_scorer("s", "exact_match", {}).score(expected, Output("paris")).value is True


def test_an_empty_output_is_not_the_answer_a() -> None:
    assert make_scorer("s", "exact_match", {}).score(row("A"), Output("")).value is False
    assert make_scorer("s", "exact_match", {}).score(row("A"), Output("a.")).value is True


@pytest.mark.parametrize(
    ("parameters", "output", "value"),
    [
        ({"where": "start"}, "Paris, of course", True),
        ({"where": "start"}, "Of course: Paris", False),
        ({"where": "start"}, "Parisian", False),
        ({"where": "end"}, "It is Paris.", True),
        ({"where": "end"}, "Paris it is.", False),
        ({"need": "all"}, "Paris, once Lutetia", True),
        ({"need": "all"}, "Paris", False),
        ({"expect": False}, "Paris", False),
        ({"expect": False}, "London", True),
        ({"texts": ["sorry"], "expect": False}, "Sorry, Paris", False),
        ({"texts": ["sorry"], "expect": False}, "Paris", True),
        ({"texts": ["one", "two"], "need": "all"}, "two and one", True),
    ],
)
def test_contains_can_be_told_where_how_many_and_what_not(
    parameters: dict[str, object], output: str, value: bool
) -> None:
    assert make_scorer("s", "contains", parameters).score(row("Paris", "Lutetia"), Output(output)).value is value


def test_contains_of_given_texts_needs_nothing_of_the_row() -> None:
    assert make_scorer("s", "contains", {"texts": ["hello"]}).score(row(), Output("Hello!")).value is True


def test_contains_all_names_what_is_missing() -> None:
    scorer = make_scorer("s", "contains", {"need": "all"})
    assert scorer.score(row("Paris", "Rome"), Output("Paris")).rationale == "expected 'Rome'"
    assert scorer.score(row("Paris", "Rome"), Output("Rome, Paris")).rationale == "holds 'Paris', 'Rome'"


@pytest.mark.parametrize(
    ("parameters", "output", "value"),
    [
        ({"pattern": r"^\d{4}$"}, "2024", True),
        ({"pattern": r"^\d{4}$"}, "in 2024", False),
        ({"pattern": "paris"}, "Paris", False),
        ({"pattern": "paris", "flags": "i"}, "Paris", True),
        ({"pattern": "a.b", "flags": "s"}, "a\nb", True),
        ({"pattern": "^b$", "flags": "im"}, "a\nB", True),
        ({"pattern": "a b", "flags": "x"}, "ab", True),
        ({"pattern": "sorry", "expect": False}, "fine", True),
        ({"pattern": "sorry", "expect": False}, "so sorry", False),
    ],
)
def test_regex_is_searched_for_in_the_output(parameters: dict[str, object], output: str, value: bool) -> None:
    assert make_scorer("s", "regex", parameters).score(row(), Output(output)).value is value


def test_a_row_may_bring_its_own_pattern() -> None:
    scorer = make_scorer("s", "regex", {"flags": "i"})
    score = scorer.score(EvalRow("r1", {"q": "x"}, {"pattern": "^par"}), Output("Paris"))
    assert (score.value, score.rationale) == (True, "found 'Par'")


@pytest.mark.parametrize("expectations", [{}, {"pattern": ""}, {"pattern": 3}, {"pattern": "("}])
def test_a_row_without_a_usable_pattern_is_not_scored(expectations: dict[str, object]) -> None:
    with pytest.raises(MissingExpectation, match=r"row r1: expectations\.pattern: "):
        make_scorer("s", "regex", {}).score(EvalRow("r1", {"q": "x"}, expectations), Output("x"))


@pytest.mark.parametrize("type_name", ["exact_match", "contains"])
@pytest.mark.parametrize(
    "expectations", [{}, {"answers": []}, {"expected_response": None}, {"expected_json": {"a": 1}}]
)
def test_a_row_without_expected_answer_is_not_scored(type_name: str, expectations: dict[str, object]) -> None:
    with pytest.raises(MissingExpectation, match="r1"):
        make_scorer("s", type_name, {}).score(EvalRow("r1", {"q": "x"}, expectations), Output("x"))


@pytest.mark.parametrize(
    ("expectations", "output", "right"),
    [
        ({"answers": "Paris"}, "Paris", True),
        ({"answers": "Paris"}, "P", False),
        ({"answers": [4.0]}, "4", True),
        ({"answers": [4.0]}, "4.0", True),
        ({"answers": [4.0]}, "40", False),
        ({"answers": [True]}, "true", True),
        ({"answers": [4]}, "4", True),
        ({"expected_response": 4.5}, "4.5", True),
        ({"answers": [None, "Paris"]}, "Paris", True),
    ],
)
def test_a_single_answer_is_one_and_a_number_is_read_as_people_write_it(
    expectations: dict[str, object], output: str, right: bool
) -> None:
    scored = make_scorer("s", "exact_match", {}).score(EvalRow("r1", {"q": "x"}, expectations), Output(output))
    assert scored.value is right


@pytest.mark.parametrize(
    ("output", "right"), [("3 and 4.0", True), ("3.0 or 4", True), ("3 and 5", False), ("4", False)]
)
def test_each_of_several_expected_numbers_is_needed_in_one_of_its_forms(output: str, right: bool) -> None:
    row = EvalRow("r1", {"q": "x"}, {"answers": [3.0, 4.0]})
    assert make_scorer("s", "contains", {"need": "all"}).score(row, Output(output)).value is right


@pytest.mark.parametrize("answers", [{"text": ["Paris"]}, [["Paris"]], [{"a": 1}]])
def test_an_answer_that_is_no_text_is_an_error_of_its_row(answers: object) -> None:
    with pytest.raises(MissingExpectation, match="row r1: an expected answer must be text or a number"):
        make_scorer("s", "exact_match", {}).score(EvalRow("r1", {"q": "x"}, {"answers": answers}), Output("x"))
