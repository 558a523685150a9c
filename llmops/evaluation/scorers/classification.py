"""Classification: which class does the output name, and how good are all rows together?"""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmops.errors import UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, RowResult, RunFindings, Score
from llmops.evaluation.scorers import parameters
from llmops.evaluation.scorers.choice_scorers import answer_index, row_choices
from llmops.evaluation.scorers.confusion import confusion_png
from llmops.evaluation.scorers.normalisation import LETTERS_WITHOUT_SPACES, fold
from llmops.evaluation.scorers.protocol import MissingExpectation, Scorer, answer_forms
from llmops.evaluation.scorers.run_rows import judgeable

NO_LABEL = "(none)"

# Without a list of labels the output is itself the class; what is longer than this is prose that names none.
_LONGEST_LABEL = 100


_ARTICLE = re.compile(r"(?<![\w(])a\s+(?=\w)")


def _as_words(label: str) -> str:
    """A pattern of the label where it is no part of a longer word; scripts without spaces have no such thing."""
    joined = rf"[^\s{LETTERS_WITHOUT_SPACES}]"
    alone = re.compile(f"[{LETTERS_WITHOUT_SPACES}]")
    before = "" if alone.match(label[0]) else f"(?<!{joined})"
    after = "" if alone.match(label[-1]) else f"(?!{joined})"
    return f"{before}{re.escape(label)}{after}"


class Labels:
    """A closed set of classes, and how a text names one: as whole words, whatever the case, `_` and `-` being spaces.

    Where one label is part of another ("card", "card arrival"), the longest that fits at a place is meant.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        """Raises UsageError when two labels cannot be told apart, or one is nothing but punctuation."""
        self._by_folded: dict[str, str] = {}
        for label in labels:
            if not fold(label):
                raise UsageError(f"labels: {label!r} is nothing but punctuation")
            if (known := self._by_folded.setdefault(fold(label), label)) != label:
                raise UsageError(f"labels: {label!r} cannot be told from {known!r} once case and punctuation are gone")
        longest_first = sorted(self._by_folded, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(_as_words, longest_first)))
        self._has_capital_a = "A" in labels

    def named(self, text: str) -> list[str]:
        """The labels that a text names, in order, as often as it does. Where A is a label, the article “a” is none."""
        if self._has_capital_a:
            text = _ARTICLE.sub("", text)
        return [self._by_folded[found[0]] for found in self._pattern.finditer(fold(text))]

    def exactly(self, text: str) -> str | None:
        """The label that is all of the text, or None."""
        return self._by_folded.get(fold(text))


@functools.lru_cache(maxsize=256)
def _row_labels(choices: tuple[str, ...]) -> Labels:
    return Labels(choices)


class Label:
    """True when the output names the expected class; the score's label is the class that the output names.

    labels: the classes; by default a row's `expectations.choices`; without either, the class is the whole output after
    case folding. pick: which mention counts when the output names several classes: the `first`, the `last` (for answers
    that give their reasons first), or `only`, with which an output that names several has no label. An output without a
    label has the label "(none)" and is wrong.
    """

    higher_is_better: bool | None = True
    worst: float | None = 0.0
    limits: tuple[float, float] = (0.0, 1.0)

    def __init__(self, name: str, labels: Sequence[str] | None = None, pick: str = "first") -> None:
        self.name = name
        self._labels = None if labels is None else Labels(parameters.texts("labels", labels))
        self._pick = parameters.one_of("pick", pick, ("first", "last", "only"))

    def score(self, row: EvalRow, output: Output) -> Score:
        expected, label = self._expected(row), self._read(row, output.text)
        return Score(label in expected, f"says {label}; expected {expected[0]}", label=label)

    def findings(self, results: Iterable[RowResult]) -> RunFindings:
        """accuracy and macro_f1 (mean F1 of the classes that are expected somewhere; a class never named has 0), and
        n_unparsed, the rows without a label; a failed row is one of them. Files: a report of each class, and the
        confusion matrix as a picture."""
        pairs: Counter[tuple[str, str]] = Counter()
        for result, expected in judgeable(results, self._expected):
            score = result.scores.get(self.name)
            label = (score.label if score else None) or NO_LABEL
            pairs[label if label in expected else expected[0], label] += 1
        if not pairs:
            return RunFindings()
        report = ClassificationReport.of(pairs)
        metrics = {"accuracy": report.accuracy, "macro_f1": report.macro_f1, "n_unparsed": float(report.n_unparsed)}
        files = {
            "classification_report.json": json.dumps(report.to_json(), indent=2, ensure_ascii=False).encode(),
            "confusion.png": confusion_png(pairs),
        }
        return RunFindings(metrics, files)

    def _row_set(self, row: EvalRow) -> Labels | None:
        if self._labels is not None or "choices" not in row.expectations:
            return self._labels
        try:
            return _row_labels(row_choices(row))
        except UsageError as error:
            raise MissingExpectation(f"row {row.id}: choices read as {error}") from error

    def _expected(self, row: EvalRow) -> list[str]:
        """Every class that is right."""
        by_index = "answer_index" in row.expectations
        texts = [row_choices(row)[answer_index(row)]] if by_index else [forms[0] for forms in answer_forms(row)]
        labels = self._row_set(row)
        if labels is None:
            if not all(map(fold, texts)):
                raise MissingExpectation(f"row {row.id}: an expected class is nothing but punctuation")
            if max(len(fold(text)) for text in texts) > _LONGEST_LABEL:
                raise MissingExpectation(f"row {row.id}: an expected class has more than {_LONGEST_LABEL} characters")
            return [fold(text) for text in texts]
        found = [labels.exactly(text) for text in texts]
        if None in found:
            raise MissingExpectation(f"row {row.id}: {texts[found.index(None)]!r} is none of the labels")
        return [label for label in found if label is not None]

    def _read(self, row: EvalRow, text: str) -> str:
        labels = self._row_set(row)
        if labels is None:
            folded = fold(text)
            return folded if 0 < len(folded) <= _LONGEST_LABEL else NO_LABEL
        if (whole := labels.exactly(text)) is not None:
            return whole
        named = labels.named(text)
        if not named or (self._pick == "only" and len(set(named)) > 1):
            return NO_LABEL
        return named[-1] if self._pick == "last" else named[0]


@dataclass(frozen=True, slots=True)
class ClassificationReport:
    """Figures of a classification. classes: for each expected class its precision, recall, f1 and support (rows).
    confusions: (expected, said, rows) where they differ, the commonest first."""

    accuracy: float
    macro_f1: float
    n_rows: int
    n_unparsed: int
    classes: Mapping[str, Mapping[str, float]]
    confusions: Sequence[tuple[str, str, int]]

    @classmethod
    def of(cls, pairs: Mapping[tuple[str, str], int]) -> ClassificationReport:
        """From how often each (expected, said) pair occurred, of which there is at least one."""
        support: Counter[str] = Counter()
        said: Counter[str] = Counter()
        for (expected, label), n in pairs.items():
            support[expected] += n
            said[label] += n
        classes = {name: _class_figures(pairs.get((name, name), 0), said[name], support[name]) for name in support}
        wrong = sorted(((*pair, n) for pair, n in pairs.items() if pair[0] != pair[1]), key=lambda it: (-it[2], it[:2]))
        return cls(
            accuracy=sum(pairs.get((name, name), 0) for name in support) / support.total(),
            macro_f1=sum(figures["f1"] for figures in classes.values()) / len(classes),
            n_rows=support.total(),
            n_unparsed=said[NO_LABEL],
            classes=dict(sorted(classes.items())),
            confusions=wrong,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "accuracy": self.accuracy,
            "macro_f1": self.macro_f1,
            "n_rows": self.n_rows,
            "n_unparsed": self.n_unparsed,
            "classes": self.classes,
            "confusions": [{"expected": a, "said": b, "rows": n} for a, b, n in self.confusions],
        }


def _class_figures(hits: int, said: int, support: int) -> dict[str, float]:
    """A ratio without a denominator is 0."""
    return {
        "precision": hits / said if said else 0.0,
        "recall": hits / support,
        "f1": 2 * hits / (said + support),
        "support": support,
    }


TYPES: dict[str, Callable[..., Scorer]] = {"label": Label}
