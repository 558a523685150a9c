"""Calibrating a judge: its verdicts beside people's labels, put on record, which is what lets it gate."""

from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops.errors import CannotRun, UsageError
from llmops.eval_runs.evaluations import Evaluations
from llmops.eval_runs.pairwise import judge_endpoint, judge_name, kappa_of
from llmops.eval_runs.scorer_factory import JUDGED_TYPES, calibration_problem
from llmops.evaluation import agreement
from llmops.evaluation.agreement import PositionBias
from llmops.evaluation.generating import Progress
from llmops.evaluation.generation_cache import GenerationCache
from llmops.evaluation.results import Output
from llmops.evaluation.runner import score_key
from llmops.evaluation.suite import KAPPA_ASKED, Suite
from llmops.hashing import content_hash
from llmops.judges import JudgeEndpoint
from llmops.judges.calibration import Calibration, JudgedRow, LabelledRow, calibrate, labelled_rows, load_labels
from llmops.judges.pairwise import AnswerPair, PairJudge, Winner, judge_pairs, position_bias_of
from llmops.judges.scorer import JudgeScorer, RubricJudge
from llmops.recording import record_calibration
from llmops.text_io import json_object, numbered_lines

_WORTH: Mapping[str, float] = {"a": 1.0, "tie": 0.5, "b": 0.0}
_OUTPUTS = ("output_a", "output_b")
_RUBRIC = "The output is correct, answers what was asked, and adds nothing untrue."
_KAPPA = ("kappa", "ci95", "agreement", "by_chance")


@dataclass(frozen=True, slots=True)
class Rubric:
    """What a judge judges by, and what it judges; of a judge without a suite, for it has its own. All None for the
    default. scale: `pass_fail`, `1,5` or labels. good: labels of the scale that count as true."""

    instructions: str | None = None
    scale: str | None = None
    good: Sequence[str] = ()
    input_variable: str | None = None


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A judge's agreement with people, as it was recorded. untrusted: why the judge may not gate; None when it may.
    position_bias: None unless the labels are of pairs. value: the JSON."""

    calibration: Calibration
    position_bias: PositionBias | None
    untrusted: str | None
    value: Mapping[str, Any]


def judge_scorer(suite: Suite, name: str | None, asked: JudgeEndpoint | None) -> JudgeScorer:
    """The suite's scorer exactly as its gate uses it; where there is only one that asks this judge, it needs no name.
    Raises UsageError: there is none, or more than one."""
    judged = [spec.name for spec in suite.scorer_specs if spec.type in JUDGED_TYPES]
    made = [scorer for scorer in suite.make_scorers() if scorer.name in judged and isinstance(scorer, JudgeScorer)]
    fitting = [scorer for scorer in made if asked is None or scorer.endpoint.identity == asked.identity]
    chosen = [scorer for scorer in fitting if name in (None, scorer.name)]
    if len(chosen) == 1:
        return chosen[0]
    which = f"that asks {judge_name(asked)}" if asked else "that asks a judge"
    names = ", ".join(scorer.name for scorer in fitting) or "none"
    hint = "; without a judge are " + ", ".join(suite.left_out) if suite.left_out else ""
    raise UsageError(f"--scorer must name a scorer of suite {suite.name} {which}; it has {names}{hint}")


def calibrate_judge(
    labels: Path,
    evaluations: Evaluations,
    progress: Progress,
    *,
    suite: str | None = None,
    scorer: str | None = None,
    judge: str | None = None,
    rubric: Rubric = Rubric(),
    threshold: float = 0.5,
    kappa: float | None = None,
) -> Calibrated:
    """Asks the judge about every labelled row or pair, compares, and records.

    evaluations: with settings from `with_judge`.
    progress: called with labels done and their number.
    suite, scorer: a suite's scorer, exactly as its gate uses it.
    judge: the name of a judge of the suite, or `openai:URL#MODEL`.
    kappa: what trust asks for; None takes the suite's word.

    Raises UsageError, UnknownVersion: no such suite, scorer or judge. BadFile: the labels are wrong. EngineUnavailable:
    the judge has no key. CannotRun: it gave no verdict at all; nothing is recorded. StoreUnavailable: verdicts are
    kept, so that the next call asks for none of them again.
    """
    settings, of_suite = evaluations.settings, evaluations.suite(suite) if suite else None
    bias: PositionBias | None = None

    def endpoint_of() -> JudgeEndpoint:
        return judge_endpoint(settings, of_suite, judge)

    with closing(GenerationCache(settings.generation_cache_dir)) as cache:
        if holds_pairs(labels):
            if scorer or rubric.scale or rubric.good:
                problem = "do not go with labels of pairs: a, b and tie are the scale"
                raise UsageError(f"--scorer, --scale and --good {problem}")
            endpoint = endpoint_of()
            asked = PairJudge(endpoint, instructions=rubric.instructions, input_variable=rubric.input_variable)
            calibration, bias = calibrate_pairs(load_pair_labels(labels), asked, cache, progress)
            asks = kappa_of(of_suite, endpoint)
        else:
            rows = load_labels(labels)
            if of_suite is None:
                made: JudgeScorer = _rubric_judge(endpoint_of(), scorer, rubric, rows[0])
            elif rubric == Rubric():
                made = judge_scorer(of_suite, scorer, endpoint_of() if judge else None)
            else:
                problem = "the suite's scorer has its own"
                raise UsageError(f"--instructions, --scale, --good and --input-variable: {problem}")
            endpoint = made.endpoint
            if any(cache.get_score(score_key(made, *row.answered)) is None for row in rows):
                endpoint.check()
            calibration = calibrate(rows, made, threshold=threshold, cache=cache, progress=progress)
            asks = of_suite.kappa_asked(made.name) if of_suite else KAPPA_ASKED
    if not calibration.n:
        reason = next(row.error for row in calibration.rows if row.error)
        name, n_failed = judge_name(endpoint), calibration.n_failed
        raise CannotRun(f"{name} gave no verdict on any of {n_failed} labels; the first: {reason}")
    asks = asks if kappa is None else kappa
    return _recorded(evaluations, judge_name(endpoint), suite, calibration, bias, asks)


def _recorded(
    evaluations: Evaluations,
    judge: str,
    suite: str | None,
    calibration: Calibration,
    bias: PositionBias | None,
    kappa_asked: float,
) -> Calibrated:
    """Puts on record what was measured; whether the judge is trusted is left to whoever asks, and for how much."""
    values = calibration.to_json()
    kappa, rows = values.pop("kappa") or dict.fromkeys(_KAPPA), values.pop("rows")
    value = {
        "judge": judge,
        "suite": suite,
        **values,
        **{name: kappa[name] for name in _KAPPA},
        "position_bias": bias.to_json() if bias else None,
        "kappa_asked": kappa_asked,
    }
    low, high = value["ci95"] or (None, None)
    record = {**value, "accuracy": value["agreement"], "kappa_low": low, "kappa_high": high, "rows": rows}
    run_id = record_calibration(evaluations.registry.store, calibration.scorer, record, calibration.judge_hash)
    why = calibration_problem(record, kappa_asked)
    return Calibrated(calibration, bias, why, {**value, "trusted": why is None, "why": why, "run_id": run_id})


def _rubric_judge(endpoint: JudgeEndpoint, scorer: str | None, rubric: Rubric, first: LabelledRow) -> RubricJudge:
    """A judge by a rubric of its own. first: of the rows, whose label the scale must fit. Raises UsageError."""
    if scorer is not None:
        raise UsageError("--scorer: only a suite has scorers; give --suite")
    if rubric.scale is None and not isinstance(first.label, bool):
        example = "LABEL,LABEL with --good LABEL" if isinstance(first.label, str) else "LOWEST,HIGHEST"
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


def load_pair_labels(path: Path) -> list[tuple[AnswerPair, Winner]]:
    """Pairs of answers, each with the one that people find better, of a JSON Lines file of
    `{"inputs": {…}, "output_a": "…", "output_b": "…", "label": "a" | "b" | "tie"}`, as `labelled_rows`. Raises
    BadFile."""

    def problem_of(label: Any) -> str | None:
        return None if label in tuple(_WORTH) else "must be a, b or tie"

    return [
        (AnswerPair(row, Output(values["output_a"]), Output(values["output_b"])), values["label"])
        for _, row, values in labelled_rows(path, _OUTPUTS, problem_of)
    ]


def calibrate_pairs(
    labelled: Sequence[tuple[AnswerPair, Winner]], judge: PairJudge, cache: GenerationCache, progress: Progress
) -> tuple[Calibration, PositionBias | None]:
    """Asks the judge about every pair in both orders and compares what it finds better with what people do.

    The bias by length is of the verdict's error (1 for a, 0 for b) with how much longer a is than b. Position bias is
    None when no pair was judged.
    """
    verdicts = judge_pairs(judge, [pair for pair, _ in labelled], cache, progress)
    judged = [
        JudgedRow(pair.row.id, label, verdict.winner, verdict.ab.rationale, verdict.error)
        for (pair, label), verdict in zip(labelled, verdicts, strict=True)
    ]
    both = [(item, verdict.winner) for item, verdict in zip(labelled, verdicts, strict=True) if verdict.winner]
    people, winners = [label for (_, label), _ in both], [winner for _, winner in both]
    lengths = [len(pair.a.text) - len(pair.b.text) for (pair, _), _ in both]
    worth_people, worth_winners = ([_WORTH[label] for label in labels] for labels in (people, winners))
    shown = [[{**pair.row.to_json(), "id": ""}, pair.a.text, pair.b.text, label] for pair, label in labelled]
    calibration = Calibration(
        judge_hash=content_hash(dict(judge.identity)),
        labels_hash=content_hash(shown),
        scorer="pairwise",
        kind="texts",
        threshold=0.5,
        n=len(both),
        n_failed=len(verdicts) - len(both),
        kappa=agreement.cohen_kappa(people, winners) if both else None,
        confusion=agreement.confusion(people, winners) if both else None,
        length_bias=agreement.length_bias(worth_people, worth_winners, lengths) if both else None,
        rows=tuple(judged),
    )
    return calibration, position_bias_of(verdicts)
