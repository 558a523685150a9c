"""Overlap with reference answers, each from 0 to 1: token F1, ROUGE, BLEU, chrF."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, RowResult, RunFindings, Score
from llmops.evaluation.scorers import parameters
from llmops.evaluation.scorers.protocol import Correctness, Scorer, expected_answers
from llmops.evaluation.scorers.run_rows import judgeable
from llmops.evaluation.scorers.text_scorers import normalise

_EMPTY = Score(0.0, "the output is empty")

# Those that come with sacrebleu; its others are fetched from the network or need further packages.
_TOKENIZERS = ("13a", "intl", "char", "zh", "none")


class TokenF1(Correctness):
    """F1 of the normalised words that output and answer share, best over the answers: SQuAD's (Rajpurkar et al.,
    2016)."""

    def score(self, row: EvalRow, output: Output) -> Score:
        value, answer = max(((token_f1(output.text, answer), answer) for answer in expected_answers(row)), key=_first)
        return Score(value, f"against {answer!r}")


def token_f1(text: str, answer: str) -> float:
    """2 × shared words / all words of both, counted as often as they occur; 1 when neither holds a word."""
    got, wanted = normalise(text).split(), normalise(answer).split()
    if not got or not wanted:
        return float(got == wanted)
    return 2 * (Counter(got) & Counter(wanted)).total() / (len(got) + len(wanted))


def _first(pair: tuple[float, str]) -> float:
    return pair[0]


class Rouge:
    """ROUGE's F-measure by Google's `rouge_score`, best over the answers (Lin, 2004).

    rouge_type: rouge1, rouge2, rougeL, or rougeLsum, which takes each line for a sentence. use_stemmer: compares
    English word stems. The library reads nothing but a–z and 0–9; an answer without any is an error, not a 0.
    """

    higher_is_better: bool | None = True
    worst: float | None = 0.0
    limits: tuple[float, float] = (0.0, 1.0)

    def __init__(self, name: str, rouge_type: str = "rougeL", use_stemmer: bool = False) -> None:
        self.name = name
        self._type = parameters.one_of("rouge_type", rouge_type, ("rouge1", "rouge2", "rougeL", "rougeLsum"))
        self._use_stemmer = parameters.boolean("use_stemmer", use_stemmer)
        self._scorer: Any = None

    def score(self, row: EvalRow, output: Output) -> Score:
        answers = expected_answers(row)
        if not any(sign.isascii() and sign.isalnum() for answer in answers for sign in answer.lower()):
            return Score(error="ROUGE reads only a–z and 0–9, and no expected answer holds any; use chrf")
        if not output.text.strip():
            return _EMPTY
        if self._scorer is None:
            from rouge_score import rouge_scorer

            self._scorer = rouge_scorer.RougeScorer([self._type], use_stemmer=self._use_stemmer)
        best = self._scorer.score_multi(answers, output.text)[self._type]
        return Score(float(best.fmeasure), f"precision {best.precision:.3f}, recall {best.recall:.3f}")


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
        if not output.text.strip():
            return _EMPTY
        if self._metric is None:
            self._metric = self._make(corpus=False)
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
    """BLEU by sacrebleu (Papineni et al., 2002; Post, 2018). A single output's stops at the longest n-gram it has
    (effective order); the corpus figure is the standard one. tokenize: 13a, intl, char, zh or none."""

    def __init__(self, name: str, tokenize: str = "13a", lowercase: bool = False) -> None:
        super().__init__(name)
        self._tokenize = parameters.one_of("tokenize", tokenize, _TOKENIZERS)
        self._lowercase = parameters.boolean("lowercase", lowercase)

    def _make(self, *, corpus: bool) -> Any:
        from sacrebleu.metrics import BLEU

        return BLEU(tokenize=self._tokenize, lowercase=self._lowercase, effective_order=not corpus)


class Chrf(_Sacrebleu):
    """chrF by sacrebleu: F2 of character n-grams, in any script (Popović, 2015). word_order: 2 makes it chrF++."""

    def __init__(self, name: str, word_order: int = 0, lowercase: bool = False) -> None:
        super().__init__(name)
        self._word_order = parameters.whole_number("word_order", word_order, 0, 2)
        self._lowercase = parameters.boolean("lowercase", lowercase)

    def _make(self, *, corpus: bool) -> Any:  # noqa: ARG002 - the same for both
        from sacrebleu.metrics import CHRF

        return CHRF(word_order=self._word_order, lowercase=self._lowercase)


TYPES: dict[str, Callable[..., Scorer]] = {"token_f1": TokenF1, "rouge": Rouge, "bleu": Bleu, "chrf": Chrf}
