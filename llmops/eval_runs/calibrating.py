"""Calibrating a judge: its verdicts beside people's labels, put on record, which is what lets it gate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llmops.errors import BadFile, CannotRun, UsageError
from llmops.eval_runs.evaluations import Evaluations
from llmops.eval_runs.pairwise import judge_endpoint, judge_name, kappa_of, pair_judge
from llmops.eval_runs.scorer_factory import ScorerFactory, distrust
from llmops.evaluation.eval_set import EvalRow, row_from_values
from llmops.evaluation.generation_cache import GenerationCache
from llmops.evaluation.results import Output
from llmops.evaluation.runner import ScoreCache
from llmops.evaluation.suite import KAPPA_ASKED, Suite
from llmops.hashing import content_hash
from llmops.judges import JudgeEndpoint
from llmops.judges.calibration import Calibration, JudgedRow, LabelledRow, calibrate, load_labels
from llmops.judges.pairwise import AskedFirst, Pair, PairJudge, Winner, judge_pairs
from llmops.judges.scorer import JudgeScorer, RubricJudge
from llmops.recording import record_calibration
from llmops.settings import Settings
from llmops.text_io import json_object, numbered_lines

if TYPE_CHECKING:
    from llmops.evaluation.agreement import PositionBias

Progress = Callable[[int, int], None]

_WORTH: Mapping[str, float] = {"a": 1.0, "tie": 0.5, "b": 0.0}
_OUTPUTS = ("output_a", "output_b")
_FIELDS = {"id", "inputs", "expectations", "contexts", "label", *_OUTPUTS}
_RUBRIC = "The output is correct, answers what was asked, and adds nothing untrue."


@dataclass(frozen=True, slots=True)
class LabelledPair:
    """A row, two answers to it, and which of them people find better."""

    row: EvalRow
    a: str
    b: str
    label: Winner


@dataclass(frozen=True, slots=True)
class Rubric:
    """What a judge without a suite judges by; all None for the default. scale: `pass_fail`, `1,5` or labels."""

    instructions: str | None = None
    scale: str | None = None
    good: Sequence[str] = ()
    input_variable: str | None = None


@dataclass(frozen=True, slots=True)
class JudgeAsked:
    """Which judge is to be calibrated.

    suite, scorer: a suite's scorer, exactly as its gate uses it.
    judge: the name of a judge of the suite, or `openai:URL#MODEL`.
    kappa: what trust asks for; None takes the suite's word.
    """

    suite: str | None = None
    scorer: str | None = None
    judge: str | None = None
    rubric: Rubric = field(default_factory=Rubric)
    threshold: float = 0.5
    kappa: float | None = None


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A judge's agreement with people, as it was recorded. untrusted: why the judge may not gate; None when it may.
    position_bias: None unless the labels are of pairs."""

    judge: str
    suite: str | None
    calibration: Calibration
    position_bias: PositionBias | None
    kappa_asked: float
    untrusted: str | None = None
    run_id: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: everything but the rows."""
        found = self.calibration.to_json()
        kappa = found.pop("kappa") or dict.fromkeys(("kappa", "ci95", "agreement", "by_chance"))
        del found["rows"]
        return {
            "judge": self.judge,
            "suite": self.suite,
            **found,
            **{name: kappa[name] for name in ("kappa", "ci95", "agreement", "by_chance")},
            "position_bias": self.position_bias.to_json() if self.position_bias else None,
            "kappa_asked": self.kappa_asked,
            "trusted": self.untrusted is None,
            "why": self.untrusted,
            "run_id": self.run_id,
        }

    def record(self) -> dict[str, Any]:
        """What is put on record: whether the judge is trusted is left to whoever asks, and for how much."""
        value = self.to_json()
        for name in ("trusted", "why", "run_id"):
            del value[name]
        low, high = value["ci95"] or (None, None)
        rows = [asdict(row) for row in self.calibration.rows]
        return {**value, "accuracy": value["agreement"], "kappa_low": low, "kappa_high": high, "rows": rows}


def judge_scorer(suite: Suite, name: str | None, asked: JudgeEndpoint | None) -> JudgeScorer:
    """The suite's scorer exactly as its gate uses it; where there is only one that asks this judge, it needs no name.

    Raises:
        UsageError: there is none, or more than one.
    """
    judged = [spec.name for spec in suite.scorer_specs if ScorerFactory.needs_judge(spec)]
    made = [scorer for scorer in suite.make_scorers() if scorer.name in judged and isinstance(scorer, JudgeScorer)]
    fitting = [scorer for scorer in made if asked is None or scorer.endpoint.identity == asked.identity]
    found = [scorer for scorer in fitting if name in (None, scorer.name)]
    if len(found) == 1:
        return found[0]
    which = f"that asks {judge_name(asked)}" if asked else "that asks a judge"
    names = ", ".join(scorer.name for scorer in fitting) or "none"
    hint = "; without a judge are " + ", ".join(suite.left_out()) if suite.left_out() else ""
    raise UsageError(f"--scorer must name a scorer of suite {suite.name} {which}; it has {names}{hint}")


def calibrate_judge(
    labels: Path, asked: JudgeAsked, evaluations: Evaluations, settings: Settings, progress: Progress
) -> Calibrated:
    """Asks the judge about every labelled row or pair, compares, and records.

    settings: as the evaluations have them, from `with_judge`.
    progress: called with labels done and their number.

    Raises:
        UsageError, UnknownVersion: no such suite, scorer or judge. BadFile: the labels are wrong.
        EngineUnavailable: the judge has no key. CannotRun: it gave no verdict at all; nothing is recorded.
        StoreUnavailable: verdicts are kept, so that the next call asks for none of them again.
    """
    suite = evaluations.suite(asked.suite) if asked.suite else None
    bias: PositionBias | None = None
    with closing(GenerationCache(settings.generation_cache_dir)) as cache:
        if holds_pairs(labels):
            if asked.scorer or asked.rubric.scale or asked.rubric.good:
                problem = "do not go with labels of pairs: a, b and tie are the scale"
                raise UsageError(f"--scorer, --scale and --good {problem}")
            endpoint = judge_endpoint(settings, suite, asked.judge)
            judge = pair_judge(endpoint, asked.rubric.instructions, asked.rubric.input_variable)
            pairs = load_pair_labels(labels)
            calibration, bias = calibrate_pairs(pairs, judge, cache=AskedFirst(cache, endpoint), progress=progress)
            kappa = kappa_of(suite, endpoint)
        else:
            rows = load_labels(labels)
            scorer = _asked_scorer(asked, suite, settings, rows)
            endpoint = scorer.endpoint
            kept = AskedFirst(cache, endpoint)
            calibration = calibrate(rows, scorer, threshold=asked.threshold, cache=kept, progress=progress)
            kappa = KAPPA_ASKED if suite is None else suite.kappa_asked(scorer.name)
    if not calibration.n:
        reason = next(row.error for row in calibration.rows if row.error)
        name, n_failed = judge_name(endpoint), calibration.n_failed
        raise CannotRun(f"{name} gave no verdict on any of {n_failed} labels; the first: {reason}")
    kappa = kappa if asked.kappa is None else asked.kappa
    made = Calibrated(judge_name(endpoint), asked.suite, calibration, bias, kappa)
    record = made.record()
    run_id = record_calibration(evaluations.registry.store, calibration.scorer, record, calibration.judge_hash)
    return replace(made, untrusted=distrust(record, kappa), run_id=run_id)


def _asked_scorer(
    asked: JudgeAsked, suite: Suite | None, settings: Settings, labelled: Sequence[LabelledRow]
) -> JudgeScorer:
    """The suite's scorer, or a judge by a rubric of its own. Raises UsageError."""
    rubric, label = asked.rubric, labelled[0].label
    if suite is not None:
        if rubric != Rubric():
            raise UsageError("--instructions, --scale, --good and --input-variable: the suite's scorer has its own")
        return judge_scorer(suite, asked.scorer, judge_endpoint(settings, suite, asked.judge) if asked.judge else None)
    endpoint = judge_endpoint(settings, suite, asked.judge)
    if asked.scorer is not None:
        raise UsageError("--scorer: only a suite has scorers; give --suite")
    if rubric.scale is None and not isinstance(label, bool):
        example = "LABEL,LABEL with --good LABEL" if isinstance(label, str) else "LOWEST,HIGHEST"
        raise UsageError(f"--scale: the labels are not true and false, so say what the judge may answer: {example}")
    scale: Any = rubric.scale or "pass_fail"
    if "," in scale:
        scale = [part.strip() for part in scale.split(",")]
        with suppress(ValueError):
            scale = [int(part) for part in scale]
    return RubricJudge(
        name="rubric",
        endpoint=endpoint,
        instructions=rubric.instructions or _RUBRIC,
        scale=scale,
        good=list(rubric.good) or None,
        input_variable=rubric.input_variable,
    )


def holds_pairs(path: Path) -> bool:
    """Whether the first labelled row of a file has two outputs. Raises BadFile."""
    for number, line in numbered_lines(path):
        return any(name in json_object(line, path, number) for name in _OUTPUTS)
    return False


def load_pair_labels(path: Path) -> list[LabelledPair]:
    """Reads a JSON Lines file of `{"inputs": {…}, "output_a": "…", "output_b": "…", "label": "a" | "b" | "tie"}`, with
    `id`, `expectations` and `contexts` where the judge needs them; a row without an id is called after its line.

    Raises:
        BadFile: naming file, line and field of the first wrong row.
    """
    labelled: dict[str, LabelledPair] = {}
    for number, line in numbered_lines(path):
        values = json_object(line, path, number)
        if unknown := sorted(values.keys() - _FIELDS):
            problem = f"unknown field in a file of pairs; known: {', '.join(sorted(_FIELDS))}"
            raise BadFile(path, problem, line=number, field=unknown[0])
        for name in _OUTPUTS:
            if not isinstance(values.get(name), str):
                raise BadFile(path, "must be text", line=number, field=name)
        label = values.get("label")
        if label not in tuple(_WORTH):
            raise BadFile(path, "must be a, b or tie", line=number, field="label")
        of_row = {name: value for name, value in values.items() if name not in ("label", *_OUTPUTS)}
        row = row_from_values({"id": f"line-{number}", **of_row}, path, number)
        if row.id in labelled:
            raise BadFile(path, f"{row.id!r} stands on two rows", line=number, field="id")
        labelled[row.id] = LabelledPair(row, values["output_a"], values["output_b"], cast("Winner", label))
    if not labelled:
        raise BadFile(path, "holds no rows")
    return list(labelled.values())


def calibrate_pairs(
    labelled: Sequence[LabelledPair],
    judge: PairJudge,
    *,
    cache: ScoreCache | None = None,
    progress: Progress | None = None,
) -> tuple[Calibration, PositionBias | None]:
    """Asks the judge about every pair in both orders and compares what it finds better with what people do.

    The bias by length is of the verdict's error (1 for a, 0 for b) with how much longer a is than b. Position bias is
    None when no pair was judged.
    """
    from llmops.evaluation import agreement

    pairs = [Pair(item.row, Output(item.a), Output(item.b)) for item in labelled]
    verdicts, summary = judge_pairs(judge, pairs, cache=cache, progress=progress)
    judged = [
        JudgedRow(item.row.id, item.label, verdict.winner, verdict.ab.rationale, verdict.error)
        for item, verdict in zip(labelled, verdicts, strict=True)
    ]
    both = [(item, verdict.winner) for item, verdict in zip(labelled, verdicts, strict=True) if verdict.winner]
    people, winners = [item.label for item, _ in both], [winner for _, winner in both]
    lengths = [len(item.a) - len(item.b) for item, _ in both]
    worth_people, worth_winners = ([_WORTH[label] for label in labels] for labels in (people, winners))
    calibration = Calibration(
        judge_hash=content_hash(dict(judge.identity)),
        labels_hash=content_hash([[{**item.row.to_json(), "id": ""}, item.a, item.b, item.label] for item in labelled]),
        scorer="pairwise",
        kind="texts",
        threshold=0.5,
        n=len(both),
        n_failed=summary.failed,
        kappa=agreement.cohen_kappa(people, winners) if both else None,
        confusion=agreement.confusion(people, winners) if both else None,
        length_bias=agreement.length_bias(worth_people, worth_winners, lengths) if both else None,
        rows=tuple(judged),
    )
    return calibration, summary.position_bias
