"""`llmops.optimize`, which the command calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmops.errors import UsageError
from llmops.eval_runs.evaluations import Evaluations
from llmops.evaluation.eval_set import EvalSet
from llmops.evaluation.eval_set_source import eval_set_of_rows, named_eval_set
from llmops.evaluation.suite import Suite
from llmops.optimizing.optimization import OptimizerName, Plan, Study
from llmops.optimizing.result import Optimization
from llmops.processes import run_async
from llmops.progress import progress_bar
from llmops.registry import Registry
from llmops.settings import Settings
from llmops.text_io import read_text


def optimize(
    suite: str | Suite,
    *,
    prompt: str | None = None,
    model: str | None = None,
    pool: Any = None,
    optimizer: OptimizerName = "examples",
    instructions: Sequence[Path | str] | Mapping[str, str] = (),
    proposer: str | None = None,
    proposals: int = 8,
    budget: int = 600,
    most_examples: int = 6,
    seed: int = 0,
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
        proposer: a model version that writes instructions.
        proposals: how many it is asked for, unless MLflow's optimizer asks it.
        budget: the most answers to the rows of selection.
        most_examples: demonstrations of a candidate.
        seed: of the split and of the candidates.
        progress: shows bars, on a terminal and in a notebook.
        settings: by default those of the environment.

    Raises UsageError, UnknownVersion, BadFile; CannotRun: too few rows that were never held out are left; EngineError.
    """
    settings = settings or Settings.from_environment()
    evaluations = Evaluations(settings, Registry(settings))
    loaded = evaluations.adopt(suite) if isinstance(suite, Suite) else evaluations.suite(suite)
    registry, model = evaluations.registry, model or loaded.model
    if not isinstance(instructions, Mapping):
        instructions = {Path(path).stem: read_text(Path(path)) for path in instructions}
    needs_proposer = optimizer in ("gepa", "metaprompt")
    if proposer is None and (needs_proposer or (optimizer == "instructions" and not instructions)):
        also = "" if needs_proposer else ", or instructions in files (--instructions FILE)"
        raise UsageError(f"optimizer: {optimizer} needs a model that writes instructions (--proposer NAME@V){also}")
    plan = Plan(
        suite=loaded,
        current=registry.prompts.get(prompt or loaded.prompt),
        model=registry.models.get(model),
        pool=_pool(settings, pool),
        optimizer=optimizer,
        instructions=instructions,
        proposer=None if proposer is None else registry.models.get(proposer),
        proposals=proposals,
        budget=budget,
        most_examples=most_examples,
        seed=seed,
    )
    with progress_bar(progress) as show:
        return run_async(Study(evaluations, plan, show).run)


def _pool(settings: Settings, pool: Any) -> EvalSet | None:
    if pool is None:
        return None
    return named_eval_set(pool, settings) if isinstance(pool, str | Path) else eval_set_of_rows("pool", pool)
