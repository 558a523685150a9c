"""Overlap with references: the same figures as the reference libraries give when called directly."""

import functools
import json
import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rouge_score import rouge_scorer
from sacrebleu.metrics import BLEU, CHRF

from llmops.errors import UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, RowResult, RunFindings, Score
from llmops.evaluation.scorers import SCORER_TYPES, make_scorer
from llmops.evaluation.scorers.protocol import BatchScorer, RunScorer
from llmops.evaluation.scorers.reference_scorers import SemanticSimilarity, token_f1

PAIRS = [
    ("the cat sat on the mat", ["the cat sat on the mat"]),
    ("A cat was sitting on a mat.", ["The cat sat on the mat.", "There is a cat on the mat."]),
    ("Paris", ["Paris, France", "The city of Paris"]),
    ("It is raining.\nTake an umbrella!", ["Rain falls.\nAn umbrella helps."]),
    ("nothing alike", ["quite different words here"]),
    ("Running runners ran.", ["The runner runs and is running"]),
    ("Größe zählt", ["Die Größe zählt nicht"]),
    ("…", ["the end"]),
]


def row(*answers: str) -> EvalRow:
    return EvalRow("r1", {"q": "x"}, {"answers": list(answers)})


def scored(type_name: str, output: str, answers: list[str], **parameters: object) -> Score:
    return make_scorer("s", type_name, parameters).score(row(*answers), Output(output))


@pytest.mark.parametrize(
    ("text", "answer", "value"),
    [
        ("The cat sat.", "a cat sat", 1.0),
        ("the cat sat on a mat", "cat mat", 2 * 2 / (4 + 2)),
        ("cat cat", "cat", 2 / 3),
        ("dog", "cat", 0.0),
        ("", "cat", 0.0),
        ("", "...", 0.0),
        ("A.", "A", 1.0),
        ("", "A", 0.0),
        ("?", "?", 1.0),
        ("?", "!", 0.0),
        ("the", "", 1.0),
        # Punctuation is taken out, and splits no word.
        ("don't", "dont", 1.0),
        ("well-known", "wellknown", 1.0),
        ("well known", "well-known", 0.0),
        ("1,234", "1234", 1.0),
        ("Москва", "москва", 1.0),
        ("Новый Йорк", "Йорк", 2 / 3),
    ],
)
def test_token_f1_by_hand(text, answer, value):
    assert token_f1(text, answer) == pytest.approx(value)


def squad_tokens(text: str) -> list[str]:
    """As in SQuAD's evaluation script 2.0: lower case, marks out, articles out, split at white space."""
    kept = "".join(sign for sign in text.lower() if sign not in set(string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", kept, flags=re.UNICODE).split()


def squad_f1(prediction: str, truth: str) -> float:
    """As in the same script, by precision and recall."""
    said, right = squad_tokens(prediction), squad_tokens(truth)
    same = sum((Counter(said) & Counter(right)).values())
    if not said or not right:
        return float(said == right)
    if same == 0:
        return 0.0
    precision, recall = same / len(said), same / len(right)
    return 2 * precision * recall / (precision + recall)


TEXTS = st.text("aAnthecdo’'-.,!?$5 \u2014é", max_size=30)


@given(TEXTS, TEXTS)
def test_token_f1_is_what_squads_script_gives(prediction, truth):
    assume(squad_tokens(truth) or not truth.strip())
    assert token_f1(prediction, truth) == pytest.approx(squad_f1(prediction, truth))


@pytest.mark.parametrize(
    ("type_name", "output", "answers", "score"),
    [
        ("token_f1", "in Paris", ["London", "Paris"], Score(pytest.approx(2 / 3), "against 'Paris'")),
        # "the cat sat" of 3 words against 6: precision 1, recall 1/2, F 2/3.
        (
            "rouge",
            "the cat sat",
            ["the cat sat on the mat"],
            Score(pytest.approx(2 / 3), "precision 1.000, recall 0.500"),
        ),
        *((type_name, " \n", ["cat"], Score(0.0, "the output is empty")) for type_name in ("rouge", "bleu", "chrf")),
        # A question without an answer has the empty one.
        *(
            ("token_f1", output, answers, Score(value, f"against {answer!r}"))
            for output, answers, value, answer in [
                ("", [], 1.0, ""), ("the", [], 1.0, ""), ("Paris", [], 0.0, ""), ("", ["..."], 0.0, "..."),
                ("", ["", "Paris"], 1.0, ""), ("", ["Paris"], 0.0, "Paris"),
            ]
        ),
    ],
)  # fmt: skip
def test_the_best_answer_counts_and_the_rationale_tells_how(type_name, output, answers, score):
    assert scored(type_name, output, answers) == score


@pytest.mark.parametrize("rouge_type", ["rouge1", "rouge2", "rougeL", "rougeLsum"])
@pytest.mark.parametrize("use_stemmer", [False, True])
@pytest.mark.parametrize("tokens", ["unicode", "google"])
def test_rouge_is_what_rouge_score_gives(rouge_type, use_stemmer, tokens):
    library = rouge_scorer.RougeScorer([rouge_type], use_stemmer=use_stemmer)
    for output, answers in PAIRS:
        if tokens == "unicode" and not (output + "".join(answers)).isascii():
            continue
        expected = max(library.score(answer, output)[rouge_type].fmeasure for answer in answers)
        given_ = {"rouge_type": rouge_type, "use_stemmer": use_stemmer, "tokens": tokens}
        assert scored("rouge", output, answers, **given_).value == pytest.approx(expected), output


@pytest.mark.parametrize(
    ("output", "answer", "value"),
    [
        ("Москва", "Москва", 1.0),
        ("Столица — Москва", "Москва", 2 / 3),
        ("北京", "北京", 1.0),
        ("北京市", "北京", 0.8),
        ("القاهرة", "القاهرة", 1.0),
        ("नई दिल्ली", "दिल्ली", 2 / 3),
        ("दिल्ला", "दिल्ली", 0.0),
        ("Cafe\u0301", "Caf\u00e9", 1.0),
        ("Größe zählt", "Die Größe zählt nicht", 2 / 3),
        ("?", "?", 1.0),
        ("?", "!", 0.0),
    ],
)
def test_rouge_reads_the_words_of_every_script_and_with_googles_tokens_says_that_it_cannot(output, answer, value):
    assert scored("rouge", output, [answer]).value == pytest.approx(value)
    by_google = scored("rouge", "Москва", ["Москва"], tokens="google")
    assert by_google.value is None
    assert "a–z" in by_google.error


@pytest.mark.parametrize(
    "type_name", ["rouge", "bleu", "chrf", "ragas.BleuScore", "ragas.CHRFScore", "ragas.RougeScore"]
)
def test_an_empty_answer_is_right_where_it_is_expected_and_wrong_elsewhere(type_name):
    assert scored(type_name, " ", [""]).value == 1.0
    assert scored(type_name, "", ["Paris", " "]).value == 1.0
    assert scored(type_name, "Paris", [""]).value == 0.0
    assert scored(type_name, "", ["Paris"]).value == 0.0
    assert scored(type_name, "Paris", ["", "Paris"]).value == pytest.approx(1.0)


@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize(
    ("type_name", "library", "options"),
    [
        *(
            ("bleu", functools.partial(BLEU, effective_order=True), {"tokenize": name})
            for name in ("13a", "intl", "char", "zh", "none")
        ),
        *(("chrf", CHRF, {"word_order": order}) for order in (0, 2)),
    ],
)
def test_bleu_and_chrf_are_what_sacrebleu_gives(type_name, library, options, lowercase):
    theirs = library(lowercase=lowercase, **options)
    for output, answers in PAIRS:
        score = scored(type_name, output, answers, lowercase=lowercase, **options)
        assert score.value == pytest.approx(theirs.sentence_score(output, answers).score / 100), output


def findings(type_name: str, pairs: list[tuple[str, list[str]]], **parameters: object) -> RunFindings:
    scorer = make_scorer("s", type_name, parameters)
    assert isinstance(scorer, RunScorer)
    return scorer.findings(RowResult(row(*answers), Output(text), {}) for text, answers in pairs)


@pytest.mark.parametrize(
    ("type_name", "parameters", "library"),
    [
        ("bleu", {}, BLEU()),
        ("bleu", {"tokenize": "intl", "lowercase": True}, BLEU(tokenize="intl", lowercase=True)),
        ("chrf", {}, CHRF()),
        ("chrf", {"word_order": 2}, CHRF(word_order=2)),
    ],
)
@pytest.mark.parametrize("pairs", [PAIRS, [pair for pair in PAIRS if len(pair[1]) == 1]], ids=["varying", "one"])
def test_the_runs_figure_is_sacrebleus_of_the_corpus(type_name, parameters, library, pairs):
    most = max(len(answers) for _, answers in pairs)
    streams = [[answers[i] if i < len(answers) else None for _, answers in pairs] for i in range(most)]
    expected = library.corpus_score([text for text, _ in pairs], streams)

    found = findings(type_name, pairs, **parameters)

    assert found.metrics == {"corpus": pytest.approx(expected.score / 100)}
    report = json.loads(found.files["corpus.json"])
    assert report["score"] == pytest.approx(expected.score)
    assert report["signature"] == str(library.get_signature())
    assert str(library.get_signature()) in report["text"]


@pytest.mark.parametrize("type_name", ["bleu", "chrf"])
def test_a_failed_row_lowers_the_runs_figure_and_one_without_answer_does_not(type_name):
    good = [("the cat sat on the mat", ["the cat sat on the mat"])]
    whole = findings(type_name, good).metrics["corpus"]
    assert findings(type_name, [*good, ("", ["a dog ran over the field"])]).metrics["corpus"] < whole
    assert findings(type_name, [*good, ("no answer to compare with", [])]).metrics["corpus"] == whole
    assert findings(type_name, []) == RunFindings()


# Closeness in meaning, with a made-up embedding: a text's vector counts its letters a, b and c.


class Letters:
    """Embeds, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.asked.append(list(texts))
        vectors = np.array([[text.count(letter) - text.count(letter.upper()) for letter in "abc"] for text in texts])
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def letters() -> Letters:
    return Letters()


@pytest.mark.parametrize(
    ("output", "answers", "value"),
    [
        ("ab", ("ba",), 1.0),
        ("a", ("b",), 0.0),
        ("a", ("ab",), 2**-0.5),
        ("a", ("b", "ab"), 2**-0.5),
        ("a", ("A",), -1.0),
    ],
)
def test_it_is_the_highest_cosine_over_the_answers(letters, output, answers, value):
    score = SemanticSimilarity("s", embed=letters).score(row(*answers), Output(output))
    assert score == Score(pytest.approx(value, abs=1e-6), f"against {answers[-1]!r}")
    assert type(score.value) is float


def test_many_rows_give_the_scores_of_one_at_a_time_and_embed_each_text_once(letters):
    scorer = SemanticSimilarity("s", embed=letters)
    rows = [row("a", "b"), row("a"), row(), row("c"), row("b")]
    outputs = [Output("ab"), Output("ab"), Output("a"), Output(" "), Output("a")]

    scores = scorer.score_many(rows, outputs)

    assert isinstance(scorer, BatchScorer)
    assert letters.asked == [["ab", "a", "b"]]
    assert scores == [scorer.score(*pair) for pair in zip(rows, outputs, strict=True)]
    assert "r1" in scores[2].error
    assert scores[3] == Score(0.0, "the output is empty")


def test_any_number_of_rows_is_embedded_in_groups_and_nothing_where_nothing_can_be_scored(letters):
    scorer = SemanticSimilarity("s", embed=letters)
    assert scorer.score_many([], []) == []
    assert scorer.score(row("a"), Output("")).value == 0.0
    assert letters.asked == []
    assert len(scorer.score_many([row("a")] * 3000, [Output("a")] * 3000)) == 3000
    assert letters.asked == [["a"]] * 3


def test_a_workflow_binds_the_embedding_without_which_it_is_not_made(letters):
    types = {**SCORER_TYPES, "semantic_similarity": functools.partial(SemanticSimilarity, embed=letters)}
    assert make_scorer("s", "semantic_similarity", {}, types).score(row("a"), Output("a")).value == 1.0
    with pytest.raises(UsageError, match=r"^embed: semantic_similarity needs an embedding model"):
        make_scorer("s", "semantic_similarity", {})
