"""Classification and multiple choice: which class does the output name, which choice is likeliest, and how good are all
rows of a run together? With the confusion matrix as a picture."""

import functools
import io
import json
import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from llmops.errors import UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, RowResult, RunFindings, Score
from llmops.evaluation.scorers.normalisation import LETTERS_WITHOUT_SPACES, fold
from llmops.evaluation.scorers.protocol import (
    Correctness,
    MissingExpectation,
    Scorer,
    Texts,
    answer_forms,
    expected_rows,
)

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


_labels_of_row = functools.lru_cache(maxsize=256)(Labels)


class Label(Correctness):
    """True when the output names the expected class; the score's label is the class that the output names.

    labels: the classes; by default a row's `expectations.choices`; without either, the class is the whole output after
    case folding. pick: which mention counts when the output names several classes: the `first`, the `last` (for answers
    that give their reasons first), or `only`, with which an output that names several has no label. An output without a
    label has the label "(none)" and is wrong.
    """

    labels: Texts | None = None
    pick: Literal["first", "last", "only"] = "first"
    _labels: Labels | None = None

    def model_post_init(self, _: Any) -> None:
        """Raises UsageError."""
        self._labels = None if self.labels is None else Labels(self.labels)

    def score(self, row: EvalRow, output: Output) -> Score:
        expected, label = self._expected(row), self._read(row, output.text)
        return Score(label in expected, f"says {label}; expected {expected[0]}", label=label)

    def findings(self, results: Iterable[RowResult]) -> RunFindings:
        """accuracy and macro_f1 (mean F1 of the classes that are expected somewhere; a class never named has 0), and
        n_unparsed, the rows without a label; a failed row is one of them. Files: a report of each class, and the
        confusion matrix as a picture."""
        pairs: Counter[tuple[str, str]] = Counter()
        for result, expected in expected_rows(results, self._expected):
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
            return _labels_of_row(row_choices(row))
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
        named = [labels.exactly(text) for text in texts]
        if None in named:
            raise MissingExpectation(f"row {row.id}: {texts[named.index(None)]!r} is none of the labels")
        return [label for label in named if label is not None]

    def _read(self, row: EvalRow, text: str) -> str:
        labels = self._row_set(row)
        if labels is None:
            folded = fold(text)
            return folded if 0 < len(folded) <= _LONGEST_LABEL else NO_LABEL
        if (whole := labels.exactly(text)) is not None:
            return whole
        named = labels.named(text)
        if not named or (self.pick == "only" and len(set(named)) > 1):
            return NO_LABEL
        return named[-1] if self.pick == "last" else named[0]


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
    def of(cls, pairs: Mapping[tuple[str, str], int]) -> Self:
        """From how often each (expected, said) pair occurred, of which there is at least one."""
        support: Counter[str] = Counter()
        said: Counter[str] = Counter()
        for (expected, label), n in pairs.items():
            support[expected] += n
            said[label] += n
        hits = {name: pairs.get((name, name), 0) for name in sorted(support)}
        classes = {
            name: {
                "precision": hits[name] / said[name] if said[name] else 0.0,
                "recall": hits[name] / support[name],
                "f1": 2 * hits[name] / (said[name] + support[name]),
                "support": support[name],
            }
            for name in hits
        }
        wrong = sorted(((*pair, n) for pair, n in pairs.items() if pair[0] != pair[1]), key=lambda it: (-it[2], it[:2]))
        return cls(
            accuracy=sum(hits.values()) / support.total(),
            macro_f1=sum(classes[name]["f1"] for name in support) / len(classes),  # in the order of the pairs
            n_rows=support.total(),
            n_unparsed=said[NO_LABEL],
            classes=classes,
            confusions=wrong,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        confusions = [{"expected": expected, "said": said, "rows": n} for expected, said, n in self.confusions]
        return {**asdict(self), "confusions": confusions}


def row_choices(row: EvalRow) -> tuple[str, ...]:
    """The texts that a multiple-choice row lets one choose from: `expectations.choices`, two or more. Raises
    MissingExpectation: there are none, or one of them is no text or blank."""
    choices = row.expectations.get("choices")
    if not isinstance(choices, list | tuple) or len(choices) < 2:
        raise MissingExpectation(f"row {row.id}: expectations.choices must be a list of two texts or more")
    if not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise MissingExpectation(f"row {row.id}: expectations.choices must hold texts, none of them empty")
    return tuple(choices)


def answer_index(row: EvalRow) -> int:
    """Which of `row_choices` is right: `expectations.answer_index`, counted from 0, else the place of
    `expected_response` among them. Raises MissingExpectation."""
    choices, index = row_choices(row), row.expectations.get("answer_index")
    if index is None:
        response = row.expectations.get("expected_response")
        if response not in choices:
            raise MissingExpectation(f"row {row.id}: needs an answer_index, or an expected_response that is a choice")
        return choices.index(response)
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(choices):
        raise MissingExpectation(f"row {row.id}: answer_index must be from 0 to {len(choices) - 1}, not {index!r}")
    return index


class ChoiceAccuracy(Correctness):
    """True when the correct choice has the highest log-likelihood; in a tie the first choice counts. The same as `acc`
    in lm-evaluation-harness."""

    def score(self, row: EvalRow, output: Output) -> Score:
        choices, right = row_choices(row), answer_index(row)
        if output.choice_logprobs is None:
            return Score(error="the output has no choice_logprobs; choices must be ranked, not generated")
        if len(output.choice_logprobs) != len(choices) or any(map(math.isnan, output.choice_logprobs)):
            return Score(error=f"choice_logprobs are no numbers for {len(choices)} choices: {output.choice_logprobs}")
        values = [value / self._length(text) for value, text in zip(output.choice_logprobs, choices, strict=True)]
        picked = max(range(len(values)), key=values.__getitem__)  # of equal ones the first
        return Score(picked == right, f"ranks {choices[picked]!r} first", label=choices[picked])

    def _length(self, choice: str) -> int:  # noqa: ARG002 - the choice matters to the scorer below
        return 1


class ChoiceAccuracyNorm(ChoiceAccuracy):
    """Like `choice_accuracy`, with log-likelihood per unit of length, so that a long choice is not at a disadvantage.

    length: `bytes` of UTF-8 (`acc_bytes` in lm-evaluation-harness) or `characters` (its `acc_norm`); equal for ASCII.
    """

    length: Literal["bytes", "characters"] = "bytes"

    def _length(self, choice: str) -> int:
        return len(choice.encode()) if self.length == "bytes" else len(choice)


# More classes than this do not fit a readable picture: then those that are confused most are shown.
MOST_CLASSES = 40
_SHOWN_OF_MANY = 30
_LONGEST_NAME = 32
OTHER = "(other)"

# Without parse_math a name between dollar signs would be set as mathematics.
_NAMES: dict[str, Any] = {"fontsize": 8, "parse_math": False}

Pairs = Mapping[tuple[str, str], int]


def confusion_png(pairs: Pairs) -> bytes:
    """The picture of `confusion_figure`."""
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a box in its place will do
        confusion_figure(pairs).savefig(picture, format="png")
    return picture.getvalue()


def confusion_figure(pairs: Pairs) -> Any:
    """A matplotlib Figure of how often each (expected, said) pair occurred: a row for each expected class, a column for
    each class said, coloured by the share of the row. Of more than 40 classes the 30 with most errors are shown, and
    what was said besides them stands under `(other)`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, columns, title = _shown(pairs)
    counts = _counts(pairs, rows, columns)
    side = 0.34
    figure = Figure(figsize=(3.6 + side * len(columns), 3.2 + side * len(rows)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)  # draws by itself, whatever pyplot is set to elsewhere
    axes = figure.add_subplot()
    shares = [[n / max(sum(line), 1) for n in line] for line in counts]
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0, aspect="equal")
    short = {
        name: name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…" for name in (*rows, *columns)
    }
    axes.set_xticks(range(len(columns)), [short[name] for name in columns], rotation=90, **_NAMES)
    axes.set_yticks(range(len(rows)), [short[name] for name in rows], **_NAMES)
    axes.set_xlabel("said")
    axes.set_ylabel("expected")
    axes.set_title(title, fontsize=9)
    for y, line in enumerate(counts):
        for x, n in enumerate(line):
            if n:
                colour = "white" if shares[y][x] > 0.5 else "black"
                axes.text(x, y, str(n), ha="center", va="center", fontsize=7, color=colour)
    return figure


def _shown(pairs: Pairs) -> tuple[list[str], list[str], str]:
    """Classes of the rows, those of the columns, and the title. Classes that nobody expected are columns only."""
    expected = sorted({wanted for wanted, _ in pairs}, key=str.casefold)
    said_only = sorted({said for _, said in pairs} - set(expected))
    n_rows = sum(pairs.values())
    title = f"{n_rows} row{'' if n_rows == 1 else 's'}"
    if len(expected) + len(said_only) <= MOST_CLASSES:
        return expected, [*expected, *said_only], title
    errors: Counter[str] = Counter()
    for (wanted, said), n in pairs.items():
        if wanted != said:
            errors[wanted] += n
            errors[said] += n
    ranked = sorted(expected, key=lambda name: (-errors[name], name))
    rows = sorted(ranked[:_SHOWN_OF_MANY], key=str.casefold)
    few = sorted(said_only, key=lambda name: (-errors[name], name))[: MOST_CLASSES - _SHOWN_OF_MANY - 1]
    if len(rows) < len(expected):
        title += f"; the {len(rows)} of {len(expected)} classes with most errors"
    return rows, [*rows, *sorted(few), OTHER], title


def _counts(pairs: Pairs, rows: list[str], columns: list[str]) -> list[list[int]]:
    row_of = {name: i for i, name in enumerate(rows)}
    column_of = {name: i for i, name in enumerate(columns)}
    counts = [[0] * len(columns) for _ in rows]
    for (wanted, said), n in pairs.items():
        if wanted in row_of:
            counts[row_of[wanted]][column_of.get(said, len(columns) - 1)] += n
    return counts


TYPES: dict[str, Callable[..., Scorer]] = {
    "label": Label,
    "choice_accuracy": ChoiceAccuracy,
    "choice_accuracy_norm": ChoiceAccuracyNorm,
}
