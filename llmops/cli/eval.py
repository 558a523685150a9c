"""`llmops eval`: list, run, show, compare, gate, calibrate-judge, pairwise."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmops.cli import CommandGroup
from llmops.cli.output import emit, emit_result, json_option, on_option, print_table, say
from llmops.engines.opening import ENGINE_NAMES
from llmops.settings import Settings, data_folder, describe_folder

if TYPE_CHECKING:
    from llmops.eval_runs.evaluations import Evaluations


@click.group("eval", cls=CommandGroup)
def command() -> None:
    """Evaluate: run suites, compare runs row by row, gate a challenger."""


@command.command("list")
@json_option
def list_suites(as_json: bool) -> None:
    """List the suites. A suite that cannot be read is reported; the others are still listed.

    \b
    Example: llmops eval list
    """
    from llmops.eval_runs.scorer_factory import ScorerFactory
    from llmops.evaluation.record_files import SourceAccess
    from llmops.evaluation.suite import load_suite, readable_suites

    settings = Settings.from_environment()
    folder = data_folder(settings, "eval_sets")
    say(describe_folder(folder))
    make = ScorerFactory(settings).make
    access = SourceAccess.of(settings)
    suites, broken = readable_suites(folder, lambda name: load_suite(folder, name, access, make, try_scorers=False))
    for error in broken.values():
        say(f"not listed: {error}")
    value: list[dict[str, Any]] = [
        {
            "name": suite.name,
            "description": suite.description,
            "eval_sets": [eval_set.name for eval_set in suite.eval_sets],
            "rows": suite.n_rows,
            "prompt": suite.prompt,
            "model": suite.model,
            "scorers": [spec.name for spec in suite.scorer_specs],
            "gate": suite.gate.to_json(),
        }
        for suite in suites
    ]

    rows = []
    for s, suite in zip(value, suites, strict=True):
        most_failed = f"at most {100 * suite.gate.most_failed:.3g} % of the rows failed or unmatched"
        asked = f"{suite.gate.sentence()}; {most_failed}"
        rows.append((s["name"], s["prompt"], s["rows"], ", ".join(s["scorers"]), asked, s["description"]))
    unread = [{"name": name, "error": str(error)} for name, error in broken.items()]
    columns = ("suite", "prompt", "rows#", "scorers", "gate", "description")
    emit(as_json, {"suites": value, "broken": unread}, lambda: print_table("Suites", columns, rows))


@command.command()
@click.argument("suite")
@click.option(
    "--prompt", "prompts", multiple=True, metavar="NAME@V", help="Prompt version; default: all of the suite's."
)
@click.option("--model", "models", multiple=True, metavar="NAME@V", help="Model version; default: the suite's.")
@click.option("--release", "releases", multiple=True, metavar="APP@V", help="Release to run instead of cells.")
@click.option("--limit", type=click.IntRange(1), help="Only the first rows.")
@click.option("--engine", type=click.Choice(ENGINE_NAMES), help="Engine; default by the model's format.")
@click.option("--seed", type=int, help="Seed for an independent run of the same cell.")
@click.option("--repeatable", is_flag=True, help="Answer each request alone: slower, same answers every time.")
@click.option("--force", is_flag=True, help="Score and record again even if an identical run is complete.")
@click.option(
    "--recorder", type=click.Choice(["auto", "evaluate", "bulk"]), default="auto", help="How to record runs in MLflow."
)
@on_option("Where rows are evaluated")
@click.option("--workers", type=click.IntRange(1), help="Shards evaluated at a time on Ray; default: one on each node.")
@click.option(
    "--shard-rows",
    type=click.IntRange(1),
    default=500,
    show_default=True,
    help="Rows of a shard on Ray: what a node that dies may have to make again.",
)
@click.option("--stop-early", is_flag=True, help="Two cells: draw rows at random until the gate's metric is decided.")
@click.option("--html", type=click.Path(path_type=Path), help="Also write the leaderboard to an HTML file.")
@click.option("--markdown", type=click.Path(path_type=Path), help="Also write the leaderboard to a Markdown file.")
@json_option
def run(
    suite: str,
    prompts: Sequence[str],
    models: Sequence[str],
    releases: Sequence[str],
    stop_early: bool,
    html: Path | None,
    markdown: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Answer and score every row with every cell (prompt version × model version); finished generations
    are reused.

    Exit 1 if a scorer has no score at all for a cell: no row was answered, or every score failed (an unreachable
    judge). The next run tries again.

    \b
    Example: llmops eval run qa --prompt qa@1 --prompt qa@2 --model smollm2-135m-instruct@2
    Example: llmops eval run big --on ray://head:10001 --workers 8
    """
    from llmops.api.evaluation import evaluate

    say(describe_folder(data_folder(Settings.from_environment(), "eval_sets")))
    done = evaluate(suite, prompts=prompts, models=models, releases=releases, stop_early=stop_early, **options)
    for path in done.write(html=html, markdown=markdown):
        say(f"wrote {path}")
    emit_result(as_json, done)
    sys.exit(1 if any(run.scoreless for run in done.runs) else 0)


def open_evaluations() -> Evaluations:
    """Suites and registry of the environment's settings."""
    from llmops.eval_runs.evaluations import Evaluations
    from llmops.registry import Registry

    settings = Settings.from_environment()
    evaluations = Evaluations(settings, Registry(settings))
    say(describe_folder(data_folder(settings, "eval_sets")))
    return evaluations
