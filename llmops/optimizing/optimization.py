"""One optimisation, from its rows to the next prompt file.

Rows are split, candidates race on the rows of selection, and the gate compares the best one with the current prompt on
held-out rows, which it reads once. Each step is kept in MLflow and every answer in the generation cache: one that was
killed goes on where it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from llmops.errors import CannotRun, UsageError
from llmops.eval_runs.answering import Answers, Spent
from llmops.eval_runs.evaluations import Evaluations
from llmops.eval_runs.matrix import scored_by
from llmops.eval_runs.scorer_factory import untrusted
from llmops.evaluation.comparison import compare
from llmops.evaluation.contamination import row_groups
from llmops.evaluation.eval_set import EvalRow, EvalSet, cluster_name
from llmops.evaluation.eval_set_source import eval_set_of_rows, named_eval_set
from llmops.evaluation.gate import GateInput, decide, slice_metrics
from llmops.evaluation.metric_comparison import MetricComparison, PairedScores, number_of
from llmops.evaluation.results import AnswerCounts, EvalReport
from llmops.evaluation.scorers import Scorer
from llmops.evaluation.scorers.protocol import limits_of
from llmops.evaluation.statistics import MeanEstimate
from llmops.evaluation.suite import Suite, primary_scorer
from llmops.hashing import content_hash
from llmops.optimizing.candidates import (
    CURRENT,
    Contamination,
    OptimizerName,
    PromptCandidate,
    SearchOptions,
    draw_candidates,
)
from llmops.optimizing.proposing import proposals, proposals_by_mlflow
from llmops.optimizing.race import race, ranked, schedule
from llmops.optimizing.result import Optimization, gain_of, optimism_of
from llmops.optimizing.split import RowSplit, split_rows
from llmops.processes import run_async
from llmops.progress import ShowProgress, progress_bar
from llmops.prompt_file import format_prompt, instruction_of, write_next
from llmops.recording.optimizations import CHOSEN, SPLIT, OptimizationRecord, held_out_before
from llmops.registry import Registry
from llmops.settings import Settings, data_folder
from llmops.text_io import checked, read_text
from llmops.versions import ModelVersion, PromptVersion

_SHOWN = ("optimizer", "budget", "most_examples", "seed")
_FORMAT = 1
"""Raised when a change makes an older optimisation another one than the same request is now."""
_CHOSEN_FIELDS = ("best", "selection", "candidates", "rungs", "rejected", "in_current", "spent")
NEAR_DUPLICATE = "demonstration is a near-duplicate of a row of the suite, or shares its cluster"


def optimize(
    suite: str | Suite,
    *,
    prompt: str | None = None,
    model: str | None = None,
    pool: Any = None,
    optimizer: OptimizerName = SearchOptions.optimizer,
    instructions: Sequence[Path | str] | Mapping[str, str] = (),
    proposer: str | None = None,
    proposals: int = SearchOptions.proposals,
    budget: int = SearchOptions.budget,
    most_examples: int = SearchOptions.most_examples,
    seed: int = SearchOptions.seed,
    progress: bool = True,
    settings: Settings | None = None,
) -> Optimization:
    """Looks for a prompt that is better by the suite's gate on rows that it was not chosen by.

    Args:
        suite: its name, or a suite.
        prompt: the version to improve; by default the newest of the suite's.
        model: by default the suite's.
        pool: rows that may be shown as demonstrations: an eval set's name or path, or rows as `llmops.evaluate` takes
            them; by default a fifth of the suite's rows.
        optimizer: `examples`, `instructions`, or MLflow's `gepa` or `metaprompt`.
        instructions: other system turns: files, or texts by name.
        proposer, proposals, budget, most_examples, seed: as `SearchOptions`.
        progress: shows bars, on a terminal and in a notebook.
        settings: by default those of the environment.

    Raises UsageError, UnknownVersion, BadFile; CannotRun: too few rows that were never held out are left; EngineError.
    """
    settings = settings or Settings.from_environment()
    texts = instructions
    if not isinstance(texts, Mapping):
        texts = {Path(file).stem: read_text(Path(file)) for file in texts}
    numbers = {"proposals": proposals, "budget": budget, "most_examples": most_examples, "seed": seed}
    given = {"optimizer": optimizer, "instructions": tuple(texts), "proposer": proposer, **numbers}
    chosen = checked(SearchOptions, given)
    evaluations = Evaluations(settings, Registry(settings))
    loaded = evaluations.adopt(suite) if isinstance(suite, Suite) else evaluations.suite(suite)
    registry = evaluations.registry
    needs_proposer = optimizer in ("gepa", "metaprompt")
    if proposer is None and (needs_proposer or (optimizer == "instructions" and not texts)):
        also = "" if needs_proposer else ", or instructions in files (--instructions FILE)"
        raise UsageError(f"optimizer: {optimizer} needs a model that writes instructions (--proposer NAME@V){also}")
    if pool is not None:
        by_name = isinstance(pool, str | Path)
        pool = named_eval_set(pool, settings) if by_name else eval_set_of_rows("pool", pool)
    current, asked = registry.prompts.get(prompt or loaded.prompt), registry.models.get(model or loaded.model)
    writer = None if proposer is None else registry.models.get(proposer)
    with progress_bar(progress) as show:
        study = Study(evaluations, loaded, current, asked, chosen, texts, writer, pool, progress=show)
        return run_async(study.run)


@dataclass
class Study:
    """One optimisation while it runs.

    current: the prompt that is to be improved.
    instructions: system turns by name, beside the current one.
    pool: rows to show; None: some of the suite's.
    """

    evaluations: Evaluations
    suite: Suite
    current: PromptVersion
    model: ModelVersion
    options: SearchOptions
    instructions: Mapping[str, str] = field(default_factory=dict)
    proposer: ModelVersion | None = None
    pool: EvalSet | None = None
    progress: ShowProgress = lambda *_: None
    spent: Spent = field(default_factory=Spent, init=False)

    def __post_init__(self) -> None:
        """Raises UsageError: the gate's scorer cannot choose."""
        scorer, name = primary_scorer(self.suite), self.suite.name
        if scorer is None:
            raise UsageError(f"{self.suite.gate.primary} decides in suite {name}, and no judge is configured")
        if scorer.higher_is_better is None:
            raise UsageError(f"{scorer.name} decides in suite {name}, and neither direction of it is better")
        self.deciding: Scorer = scorer

    def identity(self, engine: Mapping[str, Any]) -> dict[str, Any]:
        """All that makes two optimisations the same. engine: what answers."""
        suite, proposer, options = self.suite, self.proposer, self.options
        return {
            "format": _FORMAT,
            "suite": suite.name,
            "rows": suite.rows_hash,
            "cluster_by": suite.cluster_by,
            "gate": suite.gate.to_json(),
            **{f"scored_by.{name}": value for name, value in scored_by(suite).items()},
            "prompt": [self.current.ref, self.current.template.content_hash],
            "model": [self.model.ref, self.model.sha256],
            "engine": engine,
            "pool": None if self.pool is None else [self.pool.name, self.pool.content_hash],
            "instructions": dict(self.instructions),
            "proposer": None if proposer is None else [proposer.ref, proposer.sha256, options.proposals],
            **{name: getattr(options, name) for name in _SHOWN},
        }

    async def run(self) -> Optimization:
        """Does what is not done yet. Raises CannotRun, UsageError, StoreUnavailable: what is finished is kept."""
        store, suite = self.evaluations.registry.store, self.suite
        async with aclosing(Answers(self.evaluations, suite, self.model, self.spent, self.progress)) as answers:
            identity = self.identity(answers.engine(self.current.template))
            identity_hash = content_hash(identity)
            record = OptimizationRecord.found(store, identity_hash, suite.name)
            if record is not None and (known := record.result) is not None:
                return Optimization.from_json(known)
            self.progress("splitting rows", 0, 0)
            kept = record.read(SPLIT) if record is not None else None
            split = (
                RowSplit.from_json(kept)
                if kept is not None
                else split_rows(
                    list(suite.rows),
                    seed=self.options.seed,
                    cluster_by=suite.cluster_by,
                    read=held_out_before(store, suite.name).keys(),
                    pool=self.pool is not None,
                )
            )
            if record is None:
                title = f"{self.current.ref} on {self.model.ref}, {suite.name}"
                shown = {name: identity[name] for name in ("suite", *_SHOWN)}
                shown |= {"prompt": self.current.ref, "model": self.model.ref}
                record = OptimizationRecord.begun(store, identity_hash, suite.name, title, shown)
            if kept is None:
                record.keep(SPLIT, split.to_json())
            chosen = record.read(CHOSEN)
            if chosen is None:
                chosen = await self._choose(answers, split)
                record.keep(CHOSEN, chosen)
            judged = None
            if chosen["best"] is not None:
                self.progress("reading held-out rows", 0, 0)
                best = PromptCandidate.from_json(chosen["best"])
                record.claim(split.held_out_keys, best.template.content_hash)
                judged = await self._judge(answers, split, best)
        return self._finished(record, split, chosen, judged)

    async def _choose(self, answers: Answers, split: RowSplit) -> dict[str, Any]:
        """The race as JSON: the best candidate, or None if the current prompt is as good; and what was tried."""
        deciding, budget = self.deciding, self.options.budget
        selection = split.part("selection", self.suite.rows)
        guard = Contamination(self.current.template, [*selection, *split.part("held_out", self.suite.rows)])
        candidates = await self._candidates(answers, split, guard, len(selection))
        if not candidates:
            rejected = "; ".join(f"{count} × {why}" for why, count in sorted(guard.rejected.items()))
            raise CannotRun(f"there is no candidate: {rejected or 'no row to show and no instruction'}")
        rungs = schedule(len(candidates), len(selection), budget)
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
            [self.current.template], selection, [deciding], "the current prompt, selection rows"
        )
        found, gain = self._compared(selection, _values(current, deciding), values[order[0]])
        table = [
            {
                **candidates[position].to_json(),
                "hash": candidates[position].template.content_hash,
                "scores": [sign * mean for mean in means[position]],
            }
            for position in order
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
        self, answers: Answers, split: RowSplit, guard: Contamination, n_selection: int
    ) -> Sequence[PromptCandidate]:
        options, current = self.options, self.current.template
        own = split.part("demonstrations", self.suite.rows) if self.pool is None else self._pool_rows(self.pool, guard)
        instructions = dict(self.instructions)
        if self.proposer is not None:
            asking = replace(self.suite, choices=False, scorer_specs=())
            writer = Answers(self.evaluations, asking, self.proposer, self.spent, self.progress)
            async with aclosing(writer):
                if options.optimizer == "gepa" or options.optimizer == "metaprompt":
                    limits = {"budget": options.budget, "seed": options.seed}
                    instructions |= await proposals_by_mlflow(
                        options.optimizer, writer, answers, current, own, self.deciding, **limits
                    )
                else:
                    instructions |= await proposals(writer, current, own, n=options.proposals, seed=options.seed)
        allowed = {CURRENT: instruction_of(current), **guard.allowed(instructions)}
        with_examples = options.optimizer == "examples"
        return draw_candidates(
            current,
            allowed,
            guard.demonstrations(own, choices=self.suite.choices) if with_examples else {},
            most=schedule(options.budget, n_selection, options.budget)[0].candidates,
            most_examples=options.most_examples if with_examples else 0,
            seed=options.seed,
        )

    def _pool_rows(self, pool: EvalSet, guard: Contamination) -> list[EvalRow]:
        """The pool's rows but for those that belong to a row of the suite."""
        of_suite, of_pool = list(self.suite.rows), list(pool.rows)
        kept: list[EvalRow] = []
        for group in row_groups([*of_suite, *of_pool], self.suite.cluster_by):
            rows = [of_pool[position - len(of_suite)] for position in group if position >= len(of_suite)]
            if len(rows) == len(group):
                kept += rows
            else:
                guard.rejected[NEAR_DUPLICATE] += len(rows)
        return kept

    async def _judge(self, answers: Answers, split: RowSplit, best: PromptCandidate) -> dict[str, Any]:
        """The gate's verdict on held-out rows, as JSON."""
        suite, deciding = self.suite, self.deciding
        rows, scorers = split.part("held_out", suite.rows), suite.make_scorers()
        pair = [self.current.template, best.template]
        a, b = await answers.reports(pair, rows, scorers, "the best and the current prompt, held-out rows")
        comparison = compare(
            self.current.ref,
            a.results,
            "the best candidate",
            b.results,
            scorers,
            suite.gate.primary,
            cluster_by=suite.cluster_by,
            suite_rows=len(rows),
        )
        wanted = {name: list(floors) for name, floors in suite.gate.slice_floors.items()}
        facts = GateInput(
            metrics=b.metrics,
            comparison=comparison,
            answers=AnswerCounts.of(result.output for result in b.results),
            name=comparison.b,
            champion=a.metrics,
            slices=slice_metrics(b.results, wanted) if wanted else {},
            untrusted=untrusted(suite, self.evaluations.registry.store),
            limits={scorer.name: limits_of(scorer) for scorer in scorers},
            suite_rows=comparison.rows,
        )
        verdict = decide(suite.gate, facts)
        _, gain = self._compared(rows, _values(a, deciding), _values(b, deciding))
        return {"verdict": verdict.to_json(), "comparison": comparison.to_json(), "gain": asdict(gain)}

    def _compared(
        self, rows: Sequence[EvalRow], before: Sequence[float], after: Sequence[float]
    ) -> tuple[MetricComparison, MeanEstimate]:
        """The deciding metric of two prompts, and the mean gain with its error."""
        scorer, cluster_by = self.deciding, self.suite.cluster_by
        clusters = None if cluster_by is None else [cluster_name(row, cluster_by) for row in rows]
        found = PairedScores.of(scorer, before, after, clusters).compared()
        if not isinstance(found, MetricComparison):
            raise CannotRun(f"{scorer.name}: {found.reason}")
        return found, gain_of(scorer, before, after, clusters)

    def _finished(
        self, record: OptimizationRecord, split: RowSplit, chosen: Mapping[str, Any], judged: Mapping[str, Any] | None
    ) -> Optimization:
        """Writes the prompt file and completes the record."""
        best, held_out, optimism = chosen["best"], None, None
        primary = self.suite.gate.primary
        if judged is not None:
            verdict, metric = judged["verdict"], judged["comparison"]["metrics"].get(primary)
            held_out = {**(metric or {}), "verdict": verdict["verdict"], "reasons": verdict["reasons"]}
            optimism = optimism_of(MeanEstimate(**chosen["gain"]), MeanEstimate(**judged["gain"]))
        result = Optimization(
            suite=self.suite.name,
            prompt=self.current.ref,
            model=self.model.ref,
            optimizer=self.options.optimizer,
            primary=primary,
            in_points=limits_of(self.deciding) == (0.0, 1.0),
            seed=self.options.seed,
            budget=self.options.budget,
            run_id=record.run_id,
            rows={name: len(getattr(split, name)) for name in ("demonstrations", "selection", "held_out")},
            file=None,
            held_out=held_out,
            optimism=optimism,
            **{name: chosen[name] for name in _CHOSEN_FIELDS},
        )
        if best is not None and held_out is not None and held_out["verdict"] != "fail":
            template = replace(PromptCandidate.from_json(best).template, description=result.origin)
            self.progress("writing the prompt file", 0, 0)
            file = write_next(data_folder(self.evaluations.settings, "prompts") / self.current.name, template)
            result = replace(result, file=str(file))
        self.progress("recording", 0, 0)
        record.finish(result.to_dict(), result.metrics, result.table)
        return result


def _values(report: EvalReport, scorer: Scorer) -> list[float]:
    return [number_of(result, scorer) for result in report.results]


def _filled(scores: Sequence[Sequence[float]]) -> Any:
    """With the worst score seen where a row has none."""
    import numpy as np

    found = np.asarray(scores, dtype=float)
    missing = np.isnan(found)
    return np.where(missing, 0.0 if missing.all() else np.nanmin(found), found)
