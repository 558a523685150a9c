"""Likeness to reference answers: token F1, ROUGE, BLEU and chrF from 0 to 1, and the cosine of sentence embeddings."""

import functools
import json
import unicodedata
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from llmops.errors import UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, RowResult, RunFindings, Score
from llmops.evaluation.scorers.normalisation import same_text, split_words
from llmops.evaluation.scorers.protocol import (
    Correctness,
    MissingExpectation,
    Scorer,
    expected_answers,
    expected_rows,
)
from llmops.evaluation.scorers.text_scorers import squad_answers, squad_words

RougeType = Literal["rouge1", "rouge2", "rougeL", "rougeLsum"]
Tokenizer = Literal["13a", "intl", "char", "zh", "none"]
"""Those that come with sacrebleu; its others are fetched from the network or need further packages."""


class TokenF1(Correctness):
    """F1 of the words that output and answer share, the best over the answers, as computed by SQuAD's evaluation script
    2.0 (Rajpurkar et al., 2016 and 2018), except for answers that its normalisation empties (“A”). A row whose
    `answers` is an empty list has the empty answer.

    Not counted: punctuation, including the sign of -5. Words are separated by white space, so in Chinese, Japanese or
    Thai a text is right as a whole or not at all; use chrf there.
    """

    def score(self, row: EvalRow, output: Output) -> Score:
        values = {answer: token_f1(output.text, answer) for answer in squad_answers(row)}
        best = max(values, key=values.__getitem__)
        return Score(values[best], f"against {best!r}")


def token_f1(text: str, answer: str) -> float:
    """2 × shared words / all words of both, counted as often as they occur, after SQuAD's normalisation; where one of
    them holds no word, 1 when the other holds none either."""
    got, wanted = squad_words(text, answer), squad_words(answer, answer)
    if not got or not wanted:
        return float(got == wanted)
    return 2 * (Counter(got) & Counter(wanted)).total() / (len(got) + len(wanted))


def blank_score(text: str, answers: Sequence[str]) -> Score | None:
    """The score of an empty output, or where only an empty one is right; None where there are two texts to compare."""
    if not text.strip():
        blank = any(not answer.strip() for answer in answers)
        return Score(1.0, "the output is empty, as expected") if blank else Score(0.0, "the output is empty")
    return None if any(answer.strip() for answer in answers) else Score(0.0, "expected an empty output")


class Rouge(Correctness):
    """ROUGE's F-measure by Google's `rouge_score`, best over the answers (Lin, 2004), from 0 to 1.

    rouge_type: rouge1, rouge2, rougeL, or rougeLsum, which treats each line as a sentence. use_stemmer: compares
    English word stems. tokens: `unicode` reads the letters and digits of every script, and each letter separately in
    scripts without spaces between words; `google` is the library's own tokenizer (a–z and 0–9), for comparison with
    published figures; an answer without any such token is then an error, not a 0. In plain ASCII both are the same. Not
    counted: punctuation and signs.
    """

    rouge_type: RougeType = "rougeL"
    use_stemmer: bool = False
    tokens: Literal["unicode", "google"] = "unicode"

    def score(self, row: EvalRow, output: Output) -> Score:
        answers = expected_answers(row)
        if (blank := blank_score(output.text, answers)) is not None:
            return blank
        if self.tokens == "google" and not any(
            sign.isascii() and sign.isalnum() for answer in answers for sign in answer.lower()
        ):
            return Score(error='tokens = "google" reads only a–z and 0–9, and no expected answer holds any')
        best = rouge_score_of(answers, output.text, self.rouge_type, self.use_stemmer, self.tokens)
        return Score(float(best.fmeasure), f"precision {best.precision:.3f}, recall {best.recall:.3f}")


def rouge_score_of(
    answers: Sequence[str], text: str, rouge_type: str, use_stemmer: bool, tokens: str = "unicode"
) -> Any:
    """rouge_score's best score over the answers, with `precision`, `recall` and `fmeasure`."""
    library = _rouge_scorer(rouge_type, use_stemmer, tokens)
    best = library.score_multi(list(answers), text)[rouge_type]
    if tokens != "unicode" or best.fmeasure:
        return best
    # A text without letters and digits has no tokens, whatever it is.
    same_signs = any(not rouge_tokens(answer) and same_text(answer, text) for answer in answers)
    return type(best)(1.0, 1.0, 1.0) if same_signs else best


@functools.cache
def _rouge_scorer(rouge_type: str, use_stemmer: bool, tokens: str) -> Any:
    """Google's scorer; with our tokens where it is not to use its own."""
    from rouge_score import rouge_scorer, tokenizers

    class UnicodeTokens(tokenizers.Tokenizer):  # type: ignore[misc]
        def tokenize(self, text: str) -> list[str]:
            return [
                stem.stem(token) if stem and len(token) > 3 and token.isascii() else token
                for token in rouge_tokens(text)
            ]

    own = UnicodeTokens() if tokens == "unicode" else None
    stem: Any = tokenizers.DefaultTokenizer(use_stemmer)._stemmer
    return rouge_scorer.RougeScorer([rouge_type], use_stemmer=use_stemmer, tokenizer=own)


def rouge_tokens(text: str) -> list[str]:
    """Runs of letters, digits and marks on them, in lower case; letters of scripts without spaces one by one."""
    text = unicodedata.normalize("NFC", text.lower())
    kept = "".join(sign if unicodedata.category(sign)[0] in "LNM" else " " for sign in text)
    return split_words(kept)


class _Sacrebleu(Correctness):
    """A metric of sacrebleu's: of each output against all its answers, and of the whole run as one corpus.

    A corpus figure is no mean of the rows' scores: it comes from the summed n-gram counts. Only these sums are kept.
    """

    lowercase: bool = False

    @abstractmethod
    def _make(self, *, corpus: bool) -> Any:
        """sacrebleu's metric, for single texts or for a corpus."""

    @functools.cached_property
    def _of_texts(self) -> Any:
        return self._make(corpus=False)

    def score(self, row: EvalRow, output: Output) -> Score:
        answers = expected_answers(row)
        if (blank := blank_score(output.text, answers)) is not None:
            return blank
        answers = [answer for answer in answers if answer.strip()]
        made = self._of_texts.sentence_score(output.text, answers)
        return Score(min(float(made.score) / 100, 1.0), f"against {len(answers)} answers" if answers[1:] else "")

    def findings(self, results: Iterable[RowResult]) -> RunFindings:
        """Metric `corpus`, from 0 to 1, and sacrebleu's own report of it with its signature, as JSON."""
        metric = self._make(corpus=True)
        sums: list[float] = []
        references: set[int] = set()
        for result, answers in expected_rows(results, expected_answers):
            # sacrebleu's public corpus_score wants all texts at the same time; these are its counts, text by text.
            counts = metric._extract_corpus_statistics([result.output.text], [[answer] for answer in answers])[0]
            sums = [a + b for a, b in zip(sums, counts, strict=True)] if sums else list(counts)
            references.add(len(answers))
        if not sums:
            return RunFindings()
        metric.num_refs = references.pop() if len(references) == 1 else -1  # -1: written as nrefs:var
        made, signature = metric._compute_score_from_stats(sums), str(metric.get_signature())
        report = {"score": made.score, "signature": signature, "text": made.format(signature=signature)}
        return RunFindings(
            {"corpus": min(made.score / 100, 1.0)}, {"corpus.json": json.dumps(report, indent=2).encode()}
        )


class Bleu(_Sacrebleu):
    """BLEU by sacrebleu (Papineni et al., 2002; Post, 2018). For a single output, BLEU stops at the output's longest
    n-gram (effective order); the corpus figure is the standard one. tokenize: 13a, intl, char, zh or none. lowercase:
    true ignores case. Not counted: in Chinese or Japanese, anything but the whole text, unless tokenize is char or
    zh."""

    tokenize: Tokenizer = "13a"

    def _make(self, *, corpus: bool) -> Any:
        from sacrebleu.metrics import BLEU

        return BLEU(tokenize=self.tokenize, lowercase=self.lowercase, effective_order=not corpus)


class Chrf(_Sacrebleu):
    """chrF by sacrebleu: F2 of character n-grams, in any script (Popović, 2015). word_order: 2 makes it chrF++.
    lowercase: true ignores case. Not counted: white space."""

    word_order: Annotated[int, Field(ge=0, le=2)] = 0

    def _make(self, *, corpus: bool) -> Any:  # noqa: ARG002 - the same for both
        from sacrebleu.metrics import CHRF

        return CHRF(word_order=self.word_order, lowercase=self.lowercase)


# Rows whose embeddings are held at the same time; the texts of such a group are embedded once each.
_GROUP = 1024


class SemanticSimilarity(Correctness):
    """Cosine similarity of the embeddings of output and expected answer, the highest over the answers.

    The cosine is used unchanged, from −1 to 1. A sentence model gives about 0 to unrelated texts and rarely less, so a
    row without a score counts as 0. embed: function from texts to rows of unit length; set by the workflow, not by a
    suite.
    """

    limits = (-1.0, 1.0)
    embed: Callable[[Sequence[str]], Any] | None = None

    def model_post_init(self, _: Any) -> None:
        """Raises UsageError."""
        if self.embed is None:
            raise UsageError("embed: semantic_similarity needs an embedding model, which a suite cannot name")

    @property
    def identity(self) -> Mapping[str, Any]:
        """Which model embeds."""
        return {"embeddings": dict(getattr(self.embed, "identity", {}))}

    def score(self, row: EvalRow, output: Output) -> Score:
        return self.score_many([row], [output])[0]

    def score_many(self, rows: Sequence[EvalRow], outputs: Sequence[Output]) -> list[Score]:
        """A score for each row, in order; one with an error for a row without an expected answer."""
        scores: list[Score] = []
        for start in range(0, len(rows), _GROUP):
            scores += self._score_group(rows[start : start + _GROUP], outputs[start : start + _GROUP])
        return scores

    def _score_group(self, rows: Sequence[EvalRow], outputs: Sequence[Output]) -> list[Score]:
        expected: list[list[str] | MissingExpectation] = []
        positions: dict[str, int] = {}  # each text once, and its place among the vectors
        for row, output in zip(rows, outputs, strict=True):
            try:
                expected.append(answers := expected_answers(row))
            except MissingExpectation as error:
                expected.append(error)
                continue
            if output.text.strip():
                for text in (output.text, *filter(str.strip, answers)):
                    positions.setdefault(text, len(positions))
        vectors = self.embed(list(positions)) if positions and self.embed else None
        return [
            Score(error=str(answers))
            if isinstance(answers, MissingExpectation)
            else _closest(output.text, answers, positions, vectors)
            for output, answers in zip(outputs, expected, strict=True)
        ]


def _closest(text: str, answers: list[str], positions: Mapping[str, int], vectors: Any) -> Score:
    """The score of one output. vectors: (texts, dimensions), of unit length."""
    if (blank := blank_score(text, answers)) is not None:
        return blank
    if vectors is None or text in answers:
        return Score(1.0, f"against {text!r}")  # a vector's product with itself is 1 only nearly
    of_text = vectors[positions[text]]
    cosines = {answer: float(of_text @ vectors[positions[answer]]) for answer in answers if answer.strip()}
    best = max(cosines, key=cosines.__getitem__)
    return Score(max(-1.0, min(cosines[best], 1.0)), f"against {best!r}")


TYPES: dict[str, Callable[..., Scorer]] = {
    "token_f1": TokenF1,
    "rouge": Rouge,
    "bleu": Bleu,
    "chrf": Chrf,
    "semantic_similarity": SemanticSimilarity,
}
