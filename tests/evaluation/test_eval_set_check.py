"""What the check finds, what it leaves alone, and how grave it calls it."""

import random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rapidfuzz import fuzz

from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.eval_set_check import EvalSetFinding, check_rows, folded, near_duplicates
from llmops.prompt_file import parse_prompt


def row(row_id: str, question: str, answer: Any = None, **other: Any) -> EvalRow:
    expectations = {} if answer is None else {"answers": answer if isinstance(answer, list) else [answer]}
    inputs = {"question": question, **other.pop("inputs", {})}
    return EvalRow(row_id, inputs, {**expectations, **other.pop("expect", {})}, **other)


def found(kind: str, rows: list[EvalRow], **options: Any) -> list[EvalSetFinding]:
    return [finding for finding in check_rows(rows, **options) if finding.kind == kind]


def only(kind: str, rows: list[EvalRow], **options: Any) -> EvalSetFinding:
    [finding] = found(kind, rows, **options)
    return finding


PROMPT = parse_prompt(
    "---\ninput_variable: question\n---\n# system\nAnswer.\n\n# user\nWho discovered penicillin?\n\n# assistant\n"
    "Alexander Fleming.\n\n# user\nHi\n\n# assistant\nHello!\n\n# user\n{{ question }}\n"
)
PLAIN = [row("r1", "What is the capital of France?", "Paris"), row("r2", "Who wrote Hamlet?", "Shakespeare")]


def test_sound_rows_and_expectations_that_are_no_answers_have_nothing_to_tell():
    assert check_rows(PLAIN, prompts={"qa@1": PROMPT}) == []
    expected = {"expected_json": {"product": "desk lamps"}}
    assert check_rows([EvalRow("r1", {"text": "Two desk lamps, please."}, expected)]) == []


CHOICES = {"choices": ["Paris", "Rome"]}
TURNS = [
    {"role": role, "content": text}
    for role, text in (("user", "I am Ada."), ("assistant", "Hi"), ("user", "Who am I?"))
]


@pytest.mark.parametrize(
    ("kind", "rows", "ids", "severity", "told"),
    [
        ("duplicate", [*PLAIN, row("r3", " what is the capital  of FRANCE?", ["paris."])], "r1 r3", "warning", ""),
        ("conflicting_duplicate", [*PLAIN, row("r3", "Who wrote Hamlet?", "Marlowe")], "r2 r3", "error", ""),
        (
            "near_duplicate",
            [
                row("r1", "When was the old library of Alexandria founded?", "300 BC"),
                row("r2", "When was the old library of Alexandria founded", "300 BC"),
                row("r3", "When was the old Library of Alexandria founded??", "300 BC"),
                *PLAIN[1:],
            ],
            "r1 r2 r3", "warning", "",
        ),
        (
            "answer_in_inputs",
            [*PLAIN, row("r3", "Is it Paris or Rome?", "Paris"), row("r4", "Comparison?", "Paris")],
            "r3", "warning", "inputs.question",
        ),
        (
            "answer_in_inputs", [EvalRow("r1", {"messages": TURNS}, {"answers": ["Ada"]})],
            "r1", "warning", "inputs.messages",
        ),
        (  # a question that offers every choice leaks nothing
            "answer_in_inputs",
            [row("r1", "Paris or Rome?", "Paris", expect=CHOICES), row("r2", "Is it Paris?", "Paris", expect=CHOICES)],
            "r2", "warning", "",
        ),
        (
            "answer_not_a_choice",
            [
                row("r1", "Which?", "paris", expect=CHOICES),
                row("r2", "Where?", "Oslo", expect=CHOICES),
                row("r3", "How?", expect={**CHOICES, "answer_index": 1}),
                row("r4", "Why?", expect={**CHOICES, "answer_index": 2}),
            ],
            "r2 r4", "error", "",
        ),
        (
            "question_in_prompt",
            [PLAIN[0], row("r3", "Who discovered penicillin?"), row("r4", "Hi", "Ho"), row("r5", "user", "x")],
            "r3 r4", "error", "qa@1",
        ),
        *(
            ("no_expectations", [*PLAIN, EvalRow("r3", {"question": "Why is it blue?"}, expect)], "r3", "warning", "")
            for expect in ({}, {"answers": []}, {"expected_response": None}, {"expected_response": ""})
        ),
        *(
            ("empty_answer", [*PLAIN, row("r3", "Why is the sky blue?", answer)], "r3", "error", "")
            for answer in ("", "…", "?!", ["Paris", "!"])
        ),
        (
            "small_slice",
            [row(f"r{n}", f"{n * 7919}", f"x{n}", tags={"topic": "sums" if n < 5 else "odd"}) for n in range(8)],
            "r5 r6 r7", "note", "slices of tags.topic with fewer than 5 rows: odd (3)",
        ),
    ],
)  # fmt: skip
def test_each_kind_of_defect_names_its_rows_and_how_grave_it_is(kind, rows, ids, severity, told):
    finding = only(kind, rows, prompts={"qa@1": PROMPT})
    assert (finding.rows, finding.severity) == (tuple(ids.split()), severity)
    assert told in finding.detail
    assert kind != "duplicate" or not found("near_duplicate", rows)


def test_the_same_question_on_another_context_is_no_duplicate():
    rows = [
        row("r1", "Who owns the mill by the river?", "Ida", inputs={"context": "Ida owns the mill."}),
        row("r2", "Who owns the mill by the river?", "Bo", inputs={"context": "Bo owns the mill."}),
        row("r3", "Who owns the mill by the river?", "Cy", contexts=("Cy owns the mill.",)),
    ]
    kinds = {finding.kind for finding in check_rows(rows)}
    assert kinds == {"answer_in_context"}


def test_questions_of_one_pattern_with_different_answers_are_only_noted():
    rows = [
        row("r1", "Which continent is Egypt in, please?", "Africa"),
        row("r2", "Which continent is Spain in, please?", "Europe"),
    ]
    assert found("near_duplicate", rows, near=0.99) == []
    assert only("near_duplicate", rows, near=0.8).severity == "note"


@pytest.mark.parametrize("place", ["context", "passage", "contexts"])
def test_an_answer_in_a_context_is_only_noted(place):
    text = "The mill belongs to Ida Pellin."
    contexts = () if place == "context" else (text,)
    inputs = {} if place == "contexts" else {place: text}
    rows = [row("r1", "Whose is the mill?", "Ida Pellin", inputs=inputs, contexts=contexts)]
    assert [(finding.kind, finding.severity) for finding in check_rows(rows)] == [("answer_in_context", "note")]


def test_a_label_that_texts_or_the_prompts_examples_happen_to_name_is_only_noted_and_an_answer_there_a_warning():
    starts = ("Please check", "Where is", "I wait for", "No sign of", "Who got")
    rows = [row(f"r{number}", f"{start}: the refund {number * 7919}", "refund") for number, start in enumerate(starts)]
    assert only("label_in_inputs", rows, near=1.0).severity == "note"
    assert not found("answer_in_inputs", rows)
    answered = [row("r1", "Who was the Scottish scientist?", "Alexander Fleming")]
    labels = [row(f"l{number}", f"{word} {number * 7919}", "hello") for number, word in enumerate(starts)]
    assert only("answer_in_prompt", answered, prompts={"qa@1": PROMPT}).severity == "warning"
    assert only("answer_in_prompt", labels, prompts={"qa@1": PROMPT}).severity == "note"


def test_errors_come_first_and_notes_last_each_as_plain_json():
    rows = [*PLAIN, row("r3", "Who wrote Hamlet?", "Marlowe", tags={"topic": "x"}), row("r4", "Is it Oslo?", "Oslo")]
    assert [finding.severity for finding in check_rows(rows)] == ["error", "warning", "note"]
    assert check_rows(rows)[0].to_json() == {
        "kind": "conflicting_duplicate", "rows": ["r2", "r3"], "detail": "same inputs, different expectations",
        "severity": "error",
    }  # fmt: skip


# Near duplicates are found among many texts, and only true ones are told


def sentence(chance: random.Random, words: int = 9) -> str:
    return " ".join("".join(chance.choices("abcdefghijklmnop", k=chance.randint(2, 9))) for _ in range(words))


def test_a_changed_character_is_a_near_duplicate_another_question_is_not_and_case_and_white_space_do_not_count():
    texts = ["Who designed the footbridge?", "Where do the children swim?", "Who designed the foot bridge?"]
    [(left, right, _)] = near_duplicates(texts, 0.9)
    assert (left, right) == (0, 2)
    assert list(near_duplicates(["Who  IS it?\n", "who is it?"], 1.0)) == [(0, 1, 1.0)]


def test_planted_edits_among_thousands_of_texts_are_found():
    chance = random.Random(0)  # noqa: S311 - no secret
    texts = [sentence(chance) for _ in range(3000)]
    edited = [text[:10] + "zz" + text[12:] for text in texts[:300]]
    pairs = list(near_duplicates([*texts, *edited], 0.9))
    assert len({(left, right) for left, right, _ in pairs if right == left + 3000}) >= 297
    assert len(pairs) <= 310


def test_many_texts_of_one_pattern_hang_together_without_every_pair():
    texts = [f"Please translate the number {number} into French, and say nothing else." for number in range(2000)]
    pairs = list(near_duplicates(texts, 0.9))
    reached = {0}
    for left, right, _ in sorted(pairs):
        if left in reached or right in reached:
            reached |= {left, right}
    assert len(reached) > 1900
    assert len(pairs) < 2000 * 100


@given(st.lists(st.text(max_size=30), max_size=12), st.sampled_from([0.7, 0.9, 1.0]))
@example(["日本語の質問です", "日本語の質問ですか", "", ""], 0.9)
def test_every_pair_told_reaches_the_limit_and_equal_texts_are_always_told(texts, least):
    pairs = list(near_duplicates(texts, least))
    for left, right, similarity in pairs:
        assert left < right
        assert similarity >= least - 1e-9
        assert similarity == pytest.approx(fuzz.ratio(folded(texts[left]), folded(texts[right])) / 100)
    told = {(left, right) for left, right, _ in pairs}
    first: dict[str, int] = {}
    for position, text in enumerate(map(folded, texts)):
        if text and text in first:
            assert (first[text], position) in told
        first.setdefault(text, position)
