"""Evals as tests: a run held against a rule. The statistics are the gate's."""

from __future__ import annotations

import functools
import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any
from uuid import uuid4

from llmops.api.evaluation import evaluate, models_of
from llmops.api.results import Run
from llmops.engines.python import CallableModel
from llmops.errors import UsageError
from llmops.eval_runs.evaluations import Evaluations, read_suite
from llmops.evaluation.comparison import Comparison
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.gate import GateInput, Verdict, decide, slice_metrics
from llmops.evaluation.power import Power
from llmops.evaluation.results import RowResult
from llmops.evaluation.suite import Suite, suite_of
from llmops.processes import ProcessLock
from llmops.recording import record_test_session
from llmops.settings import Settings
from llmops.state_files import make_private_folder


def suite_rows(suite: str, limit: int | None = None) -> list[EvalRow]:
    """The rows of a suite, or the first of them. Raises UnknownVersion, BadFile."""
    return list(islice(read_suite(Settings.from_environment(), suite).rows, limit))


class TestSession:
    """The evaluations of one session of tests: each is made once, whichever process of the session asks first.

    id: shared by the processes of a session.
    """

    __test__ = False

    def __init__(self, session_id: str) -> None:
        self.id = session_id
        self._made: dict[Any, tuple[Run, Any]] = {}  # with the arguments, so that no other object takes their ids
        self._asked: dict[int, str] = {}

    def evaluate(self, suite: str | Suite, **arguments: Any) -> Run:
        """The run of the only cell that the arguments of `llmops.evaluate` ask for. Raises LlmopsError."""
        key = _key({"suite": suite, **arguments})
        if key not in self._made:
            self._made[key] = self._evaluated(suite, arguments), (suite, arguments)
        return self._made[key][0]

    def _evaluated(self, suite: str | Suite, arguments: Mapping[str, Any]) -> Run:
        settings = arguments.get("settings") or Settings.from_environment()
        models = [self._of_session(each) for each in models_of(arguments.get("models", ()))]
        given = {**arguments, "models": models, "progress": False}
        make_private_folder(settings.home)
        with ProcessLock(settings.home / "tests.lock"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries, which are not what is tested
            done = evaluate(suite, **given)
            if len(done.runs) != 1:
                names = ", ".join(run.name for run in done.runs)
                raise UsageError(f"{names}: a test is of one cell; say which prompt and which model")
            (run,) = done.runs
            record_test_session(run.evaluations.registry.store, run.run_id, self.id)
        return run

    def _of_session(self, given: str | CallableModel) -> str | CallableModel:
        """A callable whose answers are kept for this session. Only a module's own function is surely the same one in
        each process; any other object may hold what its source does not show."""
        if isinstance(given, str) or given.provenance or given.asked is not None:
            return given
        alone = inspect.isfunction(given.call) and "<locals>" not in given.call.__qualname__
        token = self.id if alone else self._asked.setdefault(id(given.call), f"{self.id}-{uuid4().hex}")
        return replace(given, asked=token)


def _key(value: Any) -> Any:
    """The same for arguments that ask for the same: by value where that is plain, else by identity."""
    if isinstance(value, Mapping):
        return tuple(sorted((name, _key(item)) for name, item in value.items()))
    if isinstance(value, (list, tuple)):
        return tuple(map(_key, value))
    return value if value is None or isinstance(value, (str, int, float)) else f"object {id(value)}"


class MeasuredRun:
    """A run and the rules that a test holds it against. A rule that does not pass ends the test.

    In each, `scorer` is by default the suite's deciding one, and `slice` (`topic=geography`) the only rows that count.
    """

    def __init__(self, run: Run, settle: Callable[[Verdict, str], None]) -> None:
        """settle: ends the test by a verdict, with a message for whoever reads its report."""
        self.run, self._settle = run, settle

    def at_least(self, value: float, scorer: str | None = None, *, slice: str | None = None) -> None:  # noqa: A002
        """The lower end of the mean's 95 % interval is at or above the value; inconclusive where it lies inside."""
        name = scorer or self.run.suite.gate.primary
        bound = {name: value}
        rules = {"bounds": "interval", **({"floors": bound} if slice is None else {"slice_floors": {slice: bound}})}
        self._hold(f"{name} at least {value:g}", name, rules, None, slice)

    def better_than(self, baseline: MeasuredRun, scorer: str | None = None, *, slice: str | None = None) -> None:  # noqa: A002
        """The difference to the baseline is a gain, and significant."""
        name = scorer or self.run.suite.gate.primary
        self._hold(f"{name} better than {baseline.run.name}", name, {"rule": "better"}, baseline.run, slice)

    def not_worse_than(
        self,
        baseline: MeasuredRun,
        margin: float,
        scorer: str | None = None,
        *,
        slice: str | None = None,  # noqa: A002
    ) -> None:
        """A loss of the margin or more is ruled out."""
        name = scorer or self.run.suite.gate.primary
        rules = {"rule": "not-worse", "margin": margin}
        self._hold(f"{name} not worse than {baseline.run.name} by {margin:g}", name, rules, baseline.run, slice)

    def answer(self, row: EvalRow) -> RowResult:
        """What was answered to a row of `llmops_rows`, and its scores."""
        return self._answers[row.id]

    @functools.cached_property
    def _answers(self) -> Mapping[str, RowResult]:
        return {result.row.id: result for result in self.run.rows}

    def _hold(self, rule: str, scorer: str, rules: Mapping[str, Any], baseline: Run | None, part: str | None) -> None:
        __tracebackhide__ = True
        run, evaluations = self.run, self.run.evaluations
        suite = evaluations.adopt(suite_of(run.suite.name, run.suite, None, (), {"primary": scorer, **rules}))
        verdict, comparison = _ruled(evaluations, suite, run, baseline, part)
        where = "" if part is None else f" in {part}"
        lines = [f"{run.name} on {suite.name}: {rule}{where}"]
        lines += [check.detail for check in verdict.checks if check.outcome != "pass" or check.kind == "rows"]
        if comparison is not None and verdict.verdict == "inconclusive":
            lines += _visible(comparison, run, scorer, part)
        if baseline is not None:
            lines.append(f"look at the rows: llmops eval compare {baseline.run_id} {run.run_id} --html rows.html")
        self._settle(verdict, "\n  ".join(lines))


def _ruled(
    evaluations: Evaluations, suite: Suite, run: Run, baseline: Run | None, part: str | None
) -> tuple[Verdict, Comparison | None]:
    """What the gate says of a run by the suite's rules, and the comparison that it read."""
    runs = {"b": run.done.run, **({"a": baseline.done.run} if baseline else {})}
    comparison = None
    if baseline is not None:
        comparison = evaluations.compare_runs(suite, baseline.name, runs["a"], run.name, runs["b"])
        comparison = replace(comparison, of_suite=None)  # a test that takes the first rows means these
    facts = replace(evaluations.facts(suite, run.name, runs, comparison), suite_rows=None)
    if part is not None:
        facts = _of_slice(evaluations, facts, run, baseline, part)
    return decide(suite.gate, facts), comparison


def _of_slice(evaluations: Evaluations, facts: GateInput, run: Run, baseline: Run | None, part: str) -> GateInput:
    """The facts with the metrics of a slice alone. Raises UsageError: no row is in it."""
    names = list(run.metrics)
    metrics = {side: slice_metrics(evaluations.rows(each.done.run), {part: names})[part]
               for side, each in (("b", run), ("a", baseline)) if each is not None}  # fmt: skip
    if not any(metric.rows for metric in metrics["b"].values()):
        raise UsageError(f"slice {part}: no row of {run.suite.name} has this tag")
    comparison = facts.comparison
    if comparison is not None:
        comparison = replace(comparison, metrics=comparison.slices.get(part, {}))
    return replace(facts, metrics=metrics["b"], champion=metrics.get("a", {}), comparison=comparison)


def _visible(comparison: Comparison, run: Run, scorer: str, part: str | None) -> Sequence[str]:
    """What the rows could have shown."""
    if part is None:
        return [comparison.power[scorer]] if scorer in comparison.power else []
    if (metric := comparison.slices.get(part, {}).get(scorer)) is None:
        return []
    low, high = run.metrics[scorer].limits
    seen = math.inf if metric.detectable is None else metric.detectable
    return [f"{part}: {Power(metric.n, seen, {}, in_points=low >= 0 and high <= 1).sentence}"]
