"""Overlap with reference answers, each from 0 to 1: token F1, ROUGE, BLEU, chrF."""

from __future__ import annotations

import functools
import json
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, RowResult, RunFindings, Score
from llmops.evaluation.scorers import parameters
from llmops.evaluation.scorers.normalisation import same_text, split_words
from llmops.evaluation.scorers.protocol import Correctness, Scorer, expected_answers
from llmops.evaluation.scorers.run_rows import judgeable
from llmops.evaluation.scorers.text_scorers import squad_answers, squad_words

# Those that come with sacrebleu; its others are fetched from the network or need further packages.
TOKENIZERS = ("13a", "intl", "char", "zh", "none")


class TokenF1(Correctness):
    """F1 of the words that output and answer share, the best over the answers, as computed by SQuAD's evaluation script
    2.0 (Rajpurkar et al., 2016 and 2018), except for answers that its normalisation empties (“A”). A row whose
    `answers` is an empty list has the empty answer.

    Not counted: punctuation, including the sign of -5. Words are separated by white space, so in Chinese, Japanese or
    Thai a text is right as a whole or not at all; use chrf there.
    """

    def score(self, row: EvalRow, output: Output) -> Score:
        value, answer = max(((token_f1(output.text, answer), answer) for answer in squad_answers(row)), key=_first)
        return Score(value, f"against {answer!r}")


def token_f1(text: str, answer: str) -> float:
    """2 × shared words / all words of both, counted as often as they occur, after SQuAD's normalisation; where one of
    them holds no word, 1 when the other holds none either."""
    got, wanted = squad_words(text, answer), squad_words(answer, answer)
    if not got or not wanted:
        return float(got == wanted)
    return 2 * (Counter(got) & Counter(wanted)).total() / (len(got) + len(wanted))


def _first(pair: tuple[float, str]) -> float:
    return pair[0]


def blank_score(text: str, answers: Sequence[str]) -> Score | None:
    """The score of an empty output, or where only an empty one is right; None where there are two texts to compare."""
    if not text.strip():
        blank = any(not answer.strip() for answer in answers)
        return Score(1.0, "the output is empty, as expected") if blank else Score(0.0, "the output is empty")
    return None if any(answer.strip() for answer in answers) else Score(0.0, "expected an empty output")


class Rouge:
    """ROUGE's F-measure by Google's `rouge_score`, best over the answers (Lin, 2004), from 0 to 1.

    rouge_type: rouge1, rouge2, rougeL, or rougeLsum, which treats each line as a sentence. use_stemmer: compares
    English word stems. tokens: `unicode` reads the letters and digits of every script, and each letter separately in
    scripts without spaces between words; `google` is the library's own tokenizer (a–z and 0–9), for comparison with
    published figures; an answer without any such token is then an error, not a 0. In plain ASCII both are the same. Not
    counted: punctuation and signs.
    """

    higher_is_better: bool | None = True
    worst: float | None = 0.0
    limits: tuple[float, float] = (0.0, 1.0)

    def __init__(
        self, name: str, rouge_type: str = "rougeL", use_stemmer: bool = False, tokens: str = "unicode"
    ) -> None:
        self.name = name
        self._type = parameters.one_of("rouge_type", rouge_type, ("rouge1", "rouge2", "rougeL", "rougeLsum"))
        self._use_stemmer = parameters.boolean("use_stemmer", use_stemmer)
        self._tokens = parameters.one_of("tokens", tokens, ("unicode", "google"))

    def score(self, row: EvalRow, output: Output) -> Score:
        answers = expected_answers(row)
        if (blank := blank_score(output.text, answers)) is not None:
            return blank
        if self._tokens == "google" and not any(
            sign.isascii() and sign.isalnum() for answer in answers for sign in answer.lower()
        ):
            return Score(error='tokens = "google" reads only a–z and 0–9, and no expected answer holds any')
        best = rouge_score_of(answers, output.text, self._type, self._use_stemmer, self._tokens)
        return Score(float(best.fmeasure), f"precision {best.precision:.3f}, recall {best.recall:.3f}")


def rouge_score_of(
    answers: Sequence[str], text: str, rouge_type: str, use_stemmer: bool, tokens: str = "unicode"
) -> Any:
    """rouge_score's best score over the answers, with `precision`, `recall` and `fmeasure`."""
    library = _rouge_scorer(rouge_type, use_stemmer, tokens)
    best = library.score_multi(list(answers), text)[rouge_type]
    if tokens == "unicode" and best.fmeasure == 0 and any(_only_signs(answer, text) for answer in answers):
        return type(best)(1.0, 1.0, 1.0)  # a text without letters and digits has no tokens, whatever it is
    return best


def _only_signs(answer: str, text: str) -> bool:
    return not rouge_tokens(answer) and same_text(answer, text)


@functools.cache
def _rouge_scorer(rouge_type: str, use_stemmer: bool, tokens: str) -> Any:
    """Google's scorer; with our tokens where it is not to use its own."""
    from rouge_score import rouge_scorer, tokenizers

    class UnicodeTokens(tokenizers.Tokenizer):  # type: ignore[misc]
        def tokenize(self, text: str) -> list[str]:
            found = rouge_tokens(text)
            return (
                [stem.stem(token) if len(token) > 3 and token.isascii() else token for token in found]
                if stem
                else found
            )

    own = UnicodeTokens() if tokens == "unicode" else None
    stem: Any = tokenizers.DefaultTokenizer(use_stemmer)._stemmer
    return rouge_scorer.RougeScorer([rouge_type], use_stemmer=use_stemmer, tokenizer=own)


def rouge_tokens(text: str) -> list[str]:
    """Runs of letters, digits and marks on them, in lower case; letters of scripts without spaces one by one."""
    text = unicodedata.normalize("NFC", text.lower())
    kept = "".join(sign if unicodedata.category(sign)[0] in "LNM" else " " for sign in text)
    return split_words(kept)


class _Sacrebleu(ABC):
    """A metric of sacrebleu's: of each output against all its answers, and of the whole run as one corpus.

    A corpus figure is no mean of the rows' scores: it comes from the summed n-gram counts. Only these sums are kept.
    """

    higher_is_better: bool | None = True
    worst: float | None = 0.0
    limits: tuple[float, float] = (0.0, 1.0)

    def __init__(self, name: str) -> None:
        self.name = name
        self._metric: Any = None

    @abstractmethod
    def _make(self, *, corpus: bool) -> Any:
        """sacrebleu's metric, for single texts or for a corpus."""

    def score(self, row: EvalRow, output: Output) -> Score:
        answers = expected_answers(row)
        if (blank := blank_score(output.text, answers)) is not None:
            return blank
        if self._metric is None:
            self._metric = self._make(corpus=False)
        answers = [answer for answer in answers if answer.strip()]
        made = self._metric.sentence_score(output.text, answers)
        return Score(min(float(made.score) / 100, 1.0), f"against {len(answers)} answers" if answers[1:] else "")

    def findings(self, results: Iterable[RowResult]) -> RunFindings:
        """Metric `corpus`, from 0 to 1, and sacrebleu's own report of it with its signature, as JSON."""
        metric = self._make(corpus=True)
        sums: list[float] = []
        references: set[int] = set()
        for result, answers in judgeable(results, expected_answers):
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

    def __init__(self, name: str, tokenize: str = "13a", lowercase: bool = False) -> None:
        super().__init__(name)
        self._tokenize = parameters.one_of("tokenize", tokenize, TOKENIZERS)
        self._lowercase = parameters.boolean("lowercase", lowercase)

    def _make(self, *, corpus: bool) -> Any:
        from sacrebleu.metrics import BLEU

        return BLEU(tokenize=self._tokenize, lowercase=self._lowercase, effective_order=not corpus)


class Chrf(_Sacrebleu):
    """chrF by sacrebleu: F2 of character n-grams, in any script (Popović, 2015). word_order: 2 makes it chrF++.
    lowercase: true ignores case. Not counted: white space."""

    def __init__(self, name: str, word_order: int = 0, lowercase: bool = False) -> None:
        super().__init__(name)
        self._word_order = parameters.whole_number("word_order", word_order, 0, 2)
        self._lowercase = parameters.boolean("lowercase", lowercase)

    def _make(self, *, corpus: bool) -> Any:  # noqa: ARG002 - the same for both
        from sacrebleu.metrics import CHRF

        return CHRF(word_order=self._word_order, lowercase=self._lowercase)


TYPES: dict[str, Callable[..., Scorer]] = {"token_f1": TokenF1, "rouge": Rouge, "bleu": Bleu, "chrf": Chrf}
