"""What a judge is worth: its verdicts beside people's labels. A judge may gate only after this was measured."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from llmops.errors import BadFile
from llmops.evaluation import agreement
from llmops.evaluation.agreement import Confusion, Kappa, LengthBias
from llmops.evaluation.eval_set import EvalRow, row_from_values
from llmops.evaluation.generating import Progress
from llmops.evaluation.generation_cache import GenerationCache
from llmops.evaluation.results import Output, Score
from llmops.evaluation.runner import kept_score, one_score, score_key
from llmops.evaluation.scorers.protocol import CachedScorer
from llmops.hashing import content_hash
from llmops.text_io import json_object, numbered_lines

HumanLabel = bool | float | str
Kind = Literal["truth values", "numbers", "texts"]

# More labels than this make a table that nobody reads.
_MOST_SHOWN = 20


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """A row, an answer to it, and what people say of the answer: good or not, a number, or a label."""

    row: EvalRow
    output: str
    label: HumanLabel

    @property
    def answered(self) -> tuple[EvalRow, Output]:
        """What a scorer is given."""
        return self.row, Output(self.output)


@dataclass(frozen=True, slots=True)
class JudgedRow:
    """One labelled row beside the judge. judged: its verdict in the terms of the label; None, with the error, when it
    gave none."""

    row_id: str
    label: HumanLabel
    judged: HumanLabel | None
    rationale: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Calibration:
    """A judge's agreement with people.

    judge_hash: of the scorer's identity; the same judge with the same rubric has the same.
    labels_hash: of the labelled rows.
    threshold: from which number on the judge says true, for labels that are truth values.
    n, n_failed: rows judged, and rows without a verdict, which are in none of the statistics.
    kappa: weighted by the square of the difference for numbers.
    confusion: None for many different labels. length_bias: None for texts. All three are None when no row was judged.
    """

    judge_hash: str
    labels_hash: str
    scorer: str
    kind: Kind
    threshold: float
    n: int
    n_failed: int
    kappa: Kappa | None
    confusion: Confusion | None
    length_bias: LengthBias | None
    rows: tuple[JudgedRow, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values. Not `JsonData`'s, which takes no half surrogate pair: a judge's reason may hold one."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values


def judge_hash(scorer: CachedScorer) -> str:
    """Under which a judge's calibration is found again: everything besides row and output that can change a score."""
    return content_hash(dict(scorer.identity))


def labelled_rows(
    path: Path, outputs: Sequence[str], problem_of: Callable[[Any], str | None]
) -> Iterator[tuple[int, EvalRow, Mapping[str, Any]]]:
    """Each row of a JSON Lines file with `inputs`, the outputs named and `label`, and where the judge needs them
    `expectations` and `contexts`: its line, the row, all its values. A row without an `id` is called after its line.
    `by` and `at` may say who labelled it, and when.

    problem_of: what is wrong with a label; None where nothing is.

    Raises BadFile: naming file, line and field of the first wrong row, or that there are none.
    """
    fields, seen = {"id", "inputs", "expectations", "contexts", "label", "by", "at", *outputs}, set[str]()
    for number, line in numbered_lines(path):
        values = json_object(line, path, number)
        if unknown := sorted(values.keys() - fields):
            raise BadFile(path, f"unknown field; known: {', '.join(sorted(fields))}", line=number, field=unknown[0])
        for name in outputs:
            if not isinstance(values.get(name), str):
                raise BadFile(path, "must be text", line=number, field=name)
        if problem := problem_of(values.get("label")):
            raise BadFile(path, problem, line=number, field="label")
        of_row = {name: value for name, value in values.items() if name not in ("label", "by", "at", *outputs)}
        row = row_from_values({"id": f"line-{number}", **of_row}, path, number)
        if row.id in seen:
            raise BadFile(path, f"{row.id!r} stands on two rows", line=number, field="id")
        seen.add(row.id)
        yield number, row, values
    if not seen:
        raise BadFile(path, "holds no rows")


def load_labels(path: Path) -> list[LabelledRow]:
    """Reads a JSON Lines file of `{"inputs": {…}, "output": "…", "label": …}`, as `labelled_rows`. Labels are all truth
    values, all numbers or all texts. Raises BadFile."""

    def problem_of(label: Any) -> str | None:
        sound = isinstance(label, (bool, int, float, str)) and label != ""
        is_number = not isinstance(label, float) or math.isfinite(label)
        return None if sound and is_number else "must be true, false, a number or text"

    labelled: list[LabelledRow] = []
    for number, row, values in labelled_rows(path, ("output",), problem_of):
        labelled.append(LabelledRow(row, values["output"], values["label"]))
        if (kind := _kind(labelled[0].label)) != _kind(values["label"]):
            raise BadFile(path, f"the labels above are {kind}", line=number, field="label")
    return labelled


def calibrate(
    labelled: Sequence[LabelledRow],
    scorer: CachedScorer,
    *,
    threshold: float = 0.5,
    cache: GenerationCache,
    progress: Progress,
) -> Calibration:
    """Asks the judge about every labelled row, `side_by_side` at a time, and compares.

    labelled: as `load_labels` gives them, one at least, with labels of one kind. Numbers are compared with the points
        of a rubric of points, else with the score itself; texts with the label the judge gave.
    threshold: the score from which on a judge that gives numbers says true, for labels that are truth values.
    cache: where eval runs keep their scores; what is there is not asked again, and failures are not kept.
    progress: called with rows done and their number.
    """
    kind = _kind(labelled[0].label)
    judged: list[JudgedRow] = []

    def judge(source: LabelledRow) -> JudgedRow:
        score = kept_score(cache, score_key(scorer, *source.answered), lambda: one_score(scorer, *source.answered))
        verdict = None if score.error is not None else _in_terms_of(kind, score, threshold)
        problem = score.error
        if problem is None and verdict is None:
            problem = f"the judge gave no verdict that compares with {kind}"
        return JudgedRow(source.row.id, source.label, verdict, score.rationale, problem)

    with ThreadPoolExecutor(scorer.side_by_side) as threads:
        for row in threads.map(judge, labelled):
            judged.append(row)
            progress(len(judged), len(labelled))
    answered = [(row, source) for row, source in zip(judged, labelled, strict=True) if row.judged is not None]
    return Calibration(
        judge_hash(scorer),
        content_hash([[{**row.row.to_json(), "id": ""}, row.output, row.label] for row in labelled]),
        scorer.name,
        kind,
        threshold,
        len(answered),
        len(judged) - len(answered),
        *_statistics(answered, kind),
        rows=tuple(judged),
    )


def _kind(label: HumanLabel) -> Kind:
    if isinstance(label, bool):
        return "truth values"
    return "texts" if isinstance(label, str) else "numbers"


def _in_terms_of(kind: Kind, score: Score, threshold: float) -> HumanLabel | None:
    if kind == "texts":
        return score.label
    if score.value is None or not math.isfinite(score.value):
        return None
    if kind == "truth values":
        return score.value if isinstance(score.value, bool) else score.value >= threshold
    try:
        return float(score.label) if score.label is not None else float(score.value)
    except ValueError:
        return float(score.value)


def _statistics(
    answered: Sequence[tuple[JudgedRow, LabelledRow]], kind: Kind
) -> tuple[Kappa | None, Confusion | None, LengthBias | None]:
    if not answered:
        return None, None, None
    people: list[Any] = [row.label for row, _ in answered]
    judge: list[Any] = [row.judged for row, _ in answered]
    confusion = agreement.confusion(people, judge)
    kappa = agreement.weighted_kappa(people, judge) if kind == "numbers" else agreement.cohen_kappa(people, judge)
    lengths = [len(source.output) for _, source in answered]
    bias = None if kind == "texts" else agreement.length_bias(people, judge, lengths)
    return kappa, confusion if len(confusion.labels) <= _MOST_SHOWN else None, bias
