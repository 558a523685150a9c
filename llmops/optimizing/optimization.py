"""One optimisation, from its rows to the next prompt file.

Rows are split, candidates race on the rows of selection, and the gate compares the best one with the current prompt on
held-out rows, which it reads once. Each step is kept in MLflow and every answer in the generation cache: one that was
killed goes on where it was.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from llmops.errors import CannotRun, UsageError
from llmops.eval_runs.answering import Answers, Spent
from llmops.eval_runs.evaluations import Evaluations
from llmops.eval_runs.matrix import scored_by
from llmops.eval_runs.scorer_factory import untrusted
from llmops.evaluation.comparison import Comparison, compare
from llmops.evaluation.contamination import row_groups
from llmops.evaluation.eval_set import EvalRow, EvalSet, cluster_name
from llmops.evaluation.gate import Facts, decide, slice_metrics
from llmops.evaluation.metric_comparison import MetricComparison, PairedScores, number_of
from llmops.evaluation.results import AnswerCounts, EvalReport
from llmops.evaluation.scorers import Scorer
from llmops.evaluation.scorers.protocol import limits_of
from llmops.evaluation.statistics import MeanEstimate
from llmops.evaluation.suite import Suite, primary_scorer
from llmops.hashing import content_hash
from llmops.optimizing.candidates import (
    CURRENT,
    Candidate,
    Contamination,
    draw_candidates,
)
from llmops.optimizing.optimism import gain_of, optimism_of
from llmops.optimizing.proposing import proposals, proposals_by_mlflow
from llmops.optimizing.race import race, ranked, schedule
from llmops.optimizing.result import Optimization
from llmops.optimizing.split import Split, split_rows
from llmops.progress import ShowProgress
from llmops.prompt_file import PromptTemplate, format_prompt, instruction_of, load_prompt_folder
from llmops.recording.optimizations import CHOSEN, SPLIT, OptimizationRecord, held_out_before
from llmops.settings import data_folder
from llmops.versions import ModelVersion, PromptVersion

OptimizerName = Literal["examples", "instructions", "gepa", "metaprompt"]
_FORMAT = 1
"""Raised when a change makes an older optimisation another one than the same request is now."""
NEAR_DUPLICATE = "demonstration is a near-duplicate of a row of the suite, or shares its cluster"


@dataclass(frozen=True)
class Plan:
    """What is asked for.

    current: the prompt that is to be improved.
    pool: rows to show; None: some of the suite's.
    instructions: system turns by name, beside the current one.
    proposer: the model that writes instructions; None: nobody does.
    proposals: how many it is asked for by `instructions` and `examples`.
    budget: the most answers to selection rows. `gepa` may ask for as many again, to the rows of demonstration.
    most_examples: demonstrations of a candidate.
    """

    suite: Suite
    current: PromptVersion
    model: ModelVersion
    pool: EvalSet | None = None
    optimizer: OptimizerName = "examples"
    instructions: Mapping[str, str] = field(default_factory=dict)
    proposer: ModelVersion | None = None
    proposals: int = 8
    budget: int = 600
    most_examples: int = 6
    seed: int = 0

    @property
    def deciding(self) -> Scorer:
        """The gate's scorer. Raises UsageError: it cannot choose."""
        scorer = primary_scorer(self.suite)
        if scorer is None:
            raise UsageError(
                f"{self.suite.gate.primary} decides in suite {self.suite.name}, and no judge is configured"
            )
        if scorer.higher_is_better is None:
            raise UsageError(f"{scorer.name} decides in suite {self.suite.name}, and neither direction of it is better")
        return scorer

    def identity(self, engine: Mapping[str, Any]) -> dict[str, Any]:
        """All that makes two optimisations the same. engine: what answers."""
        return {
            "format": _FORMAT,
            "suite": self.suite.name,
            "rows": self.suite.rows_hash,
            "cluster_by": self.suite.cluster_by,
            "gate": self.suite.gate.to_json(),
            **{f"scored_by.{name}": value for name, value in scored_by(self.suite).items()},
            "prompt": [self.current.ref, self.current.template.content_hash],
            "model": [self.model.ref, self.model.sha256],
            "engine": engine,
            "pool": None if self.pool is None else [self.pool.name, self.pool.content_hash],
            "instructions": dict(self.instructions),
            "proposer": None if self.proposer is None else [self.proposer.ref, self.proposer.sha256, self.proposals],
            **{name: getattr(self, name) for name in ("optimizer", "budget", "most_examples", "seed")},
        }


class Study:
    """One optimisation while it runs."""

    def __init__(self, evaluations: Evaluations, plan: Plan, progress: ShowProgress) -> None:
        self.evaluations, self.plan, self._progress = evaluations, plan, progress
        self.spent = Spent()

    async def run(self) -> Optimization:
        """Does what is not done yet. Raises CannotRun, UsageError, StoreUnavailable: what is finished is kept."""
        plan, store = self.plan, self.evaluations.registry.store
        deciding = plan.deciding
        async with aclosing(Answers(self.evaluations, plan.suite, plan.model, self.spent, self._progress)) as answers:
            identity = plan.identity(answers.engine(plan.current.template))
            record = OptimizationRecord.found(store, content_hash(identity), plan.suite.name)
            if record is not None and (known := record.result) is not None:
                return Optimization.from_json(known)
            self._progress("splitting rows", 0, 0)
            kept = record.read(SPLIT) if record is not None else None
            split = Split.from_json(kept) if kept is not None else self._split()
            if record is None:
                record = self._begun(identity)
            if kept is None:
                record.keep(SPLIT, split.to_json())
            chosen = record.read(CHOSEN)
            if chosen is None:
                chosen = await self._choose(answers, split, deciding)
                record.keep(CHOSEN, chosen)
            judged = None
            if chosen["best"] is not None:
                self._progress("reading held-out rows", 0, 0)
                best = Candidate.from_json(chosen["best"])
                record.claim(split.held_out_keys, best.template.content_hash)
                judged = await self._judge(answers, split, best, deciding)
        return self._finished(record, split, chosen, judged)

    def _begun(self, identity: Mapping[str, Any]) -> OptimizationRecord:
        plan, store = self.plan, self.evaluations.registry.store
        title = f"{plan.current.ref} on {plan.model.ref}, {plan.suite.name}"
        shown = {name: identity[name] for name in ("suite", "optimizer", "budget", "most_examples", "seed")}
        shown |= {"prompt": plan.current.ref, "model": plan.model.ref}
        return OptimizationRecord.begun(store, content_hash(identity), plan.suite.name, title, shown)

    def _split(self) -> Split:
        suite = self.plan.suite
        return split_rows(
            list(suite.rows),
            seed=self.plan.seed,
            cluster_by=suite.cluster_by,
            read=held_out_before(self.evaluations.registry.store, suite.name).keys(),
            pool=self.plan.pool is not None,
        )

    async def _choose(self, answers: Answers, split: Split, deciding: Scorer) -> dict[str, Any]:
        """The race, as JSON: the best candidate, or None where none was better than the current prompt; and what was
        tried."""
        plan = self.plan
        selection = split.part("selection", plan.suite.rows)
        guard = Contamination(plan.current.template, [*selection, *split.part("held_out", plan.suite.rows)])
        candidates = await self._candidates(answers, split, guard, len(selection), deciding)
        if not candidates:
            raise CannotRun(f"there is no candidate: {_told(guard.rejected) or 'no row to show and no instruction'}")
        rungs = schedule(len(candidates), len(selection), plan.budget)
        sign = 1 if deciding.higher_is_better else -1
        values: dict[int, list[float]] = {position: [] for position in range(len(candidates))}

        async def score(positions: Sequence[int], first: int, last: int) -> Any:
            templates = [candidates[position].template for position in positions]
            what = f"{len(templates)} candidates, selection rows {first + 1}–{last}"
            reports = await answers.reports(templates, selection[first:last], [deciding], what)
            for position, report in zip(positions, reports, strict=True):
                values[position] += _values(report, deciding)
            return _filled([[sign * value for value in values[position][first:]] for position in positions])

        # Of two that are as good, the one that costs less to ask.
        lengths = [len(format_prompt(candidate.template)) for candidate in candidates]
        means = await race(rungs, score, lengths)
        order = ranked(means, range(len(means)), lengths)
        best = candidates[order[0]]
        [current] = await answers.reports(
            [plan.current.template], selection, [deciding], "the current prompt, selection rows"
        )
        found, gain = self._compared(deciding, selection, _values(current, deciding), values[order[0]])
        table = [
            {**_shown(candidates[position]), "scores": [sign * mean for mean in means[position]]} for position in order
        ]
        return {
            "best": best.to_json() if sign * found.difference > 0 else None,
            "selection": found.to_json(),
            "gain": asdict(gain),
            "candidates": table,
            "rungs": [asdict(rung) for rung in rungs],
            "rejected": dict(guard.rejected),
            "in_current": sorted({row_id for ids in guard.in_current.values() for row_id in ids}),
            "spent": asdict(self.spent),
        }

    async def _candidates(
        self, answers: Answers, split: Split, guard: Contamination, n_selection: int, deciding: Scorer
    ) -> Sequence[Candidate]:
        plan = self.plan
        current = plan.current.template
        own = split.part("demonstrations", plan.suite.rows) if plan.pool is None else self._pool_rows(guard)
        instructions = dict(plan.instructions)
        instructions |= await self._proposals(answers, own, deciding)
        allowed = {CURRENT: instruction_of(current), **guard.allowed(instructions)}
        with_examples = plan.optimizer == "examples"
        demonstrations = guard.demonstrations(own, choices=plan.suite.choices) if with_examples else {}
        return draw_candidates(
            current,
            allowed,
            demonstrations,
            most=schedule(plan.budget, n_selection, plan.budget)[0].candidates,
            most_examples=plan.most_examples if with_examples else 0,
            seed=plan.seed,
        )

    async def _proposals(self, answers: Answers, rows: Sequence[EvalRow], deciding: Scorer) -> dict[str, str]:
        plan, current = self.plan, self.plan.current.template
        if plan.proposer is None:
            return {}
        asking = replace(plan.suite, choices=False, scorer_specs=())
        writer = Answers(self.evaluations, asking, plan.proposer, self.spent, self._progress)
        async with aclosing(writer):
            if plan.optimizer == "gepa" or plan.optimizer == "metaprompt":
                return await proposals_by_mlflow(
                    plan.optimizer, writer, answers, current, rows, deciding, budget=plan.budget, seed=plan.seed
                )
            return await proposals(writer, current, rows, n=plan.proposals, seed=plan.seed)

    def _pool_rows(self, guard: Contamination) -> list[EvalRow]:
        """The pool's rows but for those that belong to a row of the suite."""
        assert self.plan.pool is not None  # noqa: S101 - asked before
        of_suite, of_pool = list(self.plan.suite.rows), list(self.plan.pool.rows)
        kept: list[EvalRow] = []
        for group in row_groups([*of_suite, *of_pool], self.plan.suite.cluster_by):
            rows = [of_pool[position - len(of_suite)] for position in group if position >= len(of_suite)]
            if len(rows) == len(group):
                kept += rows
            else:
                guard.rejected[NEAR_DUPLICATE] += len(rows)
        return kept

    async def _judge(self, answers: Answers, split: Split, best: Candidate, deciding: Scorer) -> dict[str, Any]:
        """The gate's verdict on held-out rows, as JSON."""
        plan, suite = self.plan, self.plan.suite
        rows, scorers = split.part("held_out", suite.rows), suite.make_scorers()
        pair = [plan.current.template, best.template]
        a, b = await answers.reports(pair, rows, scorers, "the best and the current prompt, held-out rows")
        names = plan.current.ref, "the best candidate"
        comparison = compare(
            names[0],
            a.results,
            names[1],
            b.results,
            scorers,
            suite.gate.primary,
            cluster_by=suite.cluster_by,
            suite_rows=len(rows),
        )
        verdict = decide(suite.gate, self._facts(comparison, a, b))
        _, gain = self._compared(deciding, rows, _values(a, deciding), _values(b, deciding))
        return {"verdict": verdict.to_json(), "comparison": comparison.to_json(), "gain": asdict(gain)}

    def _facts(self, comparison: Comparison, a: EvalReport, b: EvalReport) -> Facts:
        suite = self.plan.suite
        wanted = {name: list(floors) for name, floors in suite.gate.slice_floors.items()}
        return Facts(
            metrics=b.metrics,
            comparison=comparison,
            answers=AnswerCounts.of(result.output for result in b.results),
            name=comparison.b,
            champion=a.metrics,
            slices=slice_metrics(b.results, wanted) if wanted else {},
            untrusted=untrusted(suite, self.evaluations.registry.store),
            limits={scorer.name: limits_of(scorer) for scorer in suite.make_scorers()},
            suite_rows=comparison.rows,
        )

    def _compared(
        self, scorer: Scorer, rows: Sequence[EvalRow], before: Sequence[float], after: Sequence[float]
    ) -> tuple[MetricComparison, MeanEstimate]:
        """The deciding metric of two prompts, and the mean gain with its error."""
        cluster_by = self.plan.suite.cluster_by
        clusters = None if cluster_by is None else [cluster_name(row, cluster_by) for row in rows]
        found = PairedScores.of(scorer, before, after, clusters).compared()
        if not isinstance(found, MetricComparison):
            raise CannotRun(f"{scorer.name}: {found.reason}")
        return found, gain_of(scorer, before, after, clusters)

    def _finished(
        self, record: OptimizationRecord, split: Split, chosen: Mapping[str, Any], judged: Mapping[str, Any] | None
    ) -> Optimization:
        """Writes the prompt file and completes the record."""
        plan, best, held_out, optimism, file = self.plan, chosen["best"], None, None, None
        primary = plan.suite.gate.primary
        if judged is not None:
            verdict, metric = judged["verdict"], judged["comparison"]["metrics"].get(primary)
            held_out = {**(metric or {}), "verdict": verdict["verdict"], "reasons": verdict["reasons"]}
            optimism = optimism_of(MeanEstimate(**chosen["gain"]), MeanEstimate(**judged["gain"]))
        result = Optimization(
            suite=plan.suite.name,
            prompt=plan.current.ref,
            model=plan.model.ref,
            optimizer=plan.optimizer,
            primary=primary,
            in_points=limits_of(plan.deciding) == (0.0, 1.0),
            seed=plan.seed,
            budget=plan.budget,
            run_id=record.run_id,
            rows={name: len(getattr(split, name)) for name in ("demonstrations", "selection", "held_out")},
            best=best,
            file=None,
            selection=chosen["selection"],
            held_out=held_out,
            optimism=optimism,
            candidates=chosen["candidates"],
            rungs=chosen["rungs"],
            rejected=chosen["rejected"],
            in_current=chosen["in_current"],
            spent=chosen["spent"],
        )
        if best is not None and held_out is not None and held_out["verdict"] != "fail":
            template = replace(Candidate.from_json(best).template, description=result.origin)
            self._progress("writing the prompt file", 0, 0)
            file = write_next(data_folder(self.evaluations.settings, "prompts") / plan.current.name, template)
            result = replace(result, file=str(file))
        self._progress("recording", 0, 0)
        record.finish(result.to_dict(), result.metrics, result.table)
        return result


def write_next(folder: Path, template: PromptTemplate) -> Path:
    """The prompt file of that content: one that is there, or else the next version's, which is written whole or not at
    all. Raises BadFile, CannotRun."""
    known = load_prompt_folder(folder) if folder.is_dir() else []
    for path, there in known:
        if there.content_hash == template.content_hash:
            return path
    number = max((int(path.stem.removeprefix("v")) for path, _ in known), default=0) + 1
    path, scratch = folder / f"v{number}.md", folder / f".v{number}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch.write_text(format_prompt(template), encoding="utf-8")
        try:
            path.hardlink_to(scratch)  # fails where somebody else has just written it
        finally:
            scratch.unlink()
    except OSError as error:
        raise CannotRun(f"{path}: cannot be written: {error.strerror}") from error
    return path


def _values(report: EvalReport, scorer: Scorer) -> list[float]:
    return [number_of(result, scorer) for result in report.results]


def _filled(scores: Sequence[Sequence[float]]) -> Any:
    """With the worst score seen where a row has none."""
    import numpy as np

    found = np.asarray(scores, dtype=float)
    missing = np.isnan(found)
    return np.where(missing, 0.0 if missing.all() else np.nanmin(found), found)


def _shown(candidate: Candidate) -> dict[str, Any]:
    values = candidate.to_json()
    return {**values, "hash": candidate.template.content_hash}


def _told(rejected: Counter[str]) -> str:
    return "; ".join(f"{count} × {why}" for why, count in sorted(rejected.items()))
