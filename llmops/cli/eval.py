"""`llmops eval`: list, run, show, compare, gate, calibrate-judge, pairwise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmops.cli import CommandGroup
from llmops.cli.output import echo, emit, json_option, on_option, print_table, progress_bar, row_count, say, write_file
from llmops.engines.opening import ENGINE_NAMES
from llmops.pages.numbers import count, interval, number
from llmops.settings import Settings, data_folder, describe_folder

if TYPE_CHECKING:
    from llmops.eval_runs.early_stopping import EarlyStop
    from llmops.eval_runs.evaluations import CellRun, Evaluations
    from llmops.evaluation.record_files import SourceAccess
    from llmops.evaluation.reports.contents import Leaderboard


_MOST_REASONS = 3


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
    from llmops.evaluation.suite import load_suite, readable_suites

    settings = Settings.from_environment()
    folder = data_folder(settings, "eval_sets")
    say(describe_folder(folder))
    make = ScorerFactory(settings).make
    access = source_access(settings)
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
@click.pass_context
def run(
    ctx: click.Context,
    /,
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
    from llmops.eval_runs.evaluations import RunOptions
    from llmops.eval_runs.report_contents import leaderboard

    evaluations = open_evaluations()
    loaded = evaluations.suite(suite)
    cells = evaluations.cells(loaded, prompts, models, releases)
    chosen = RunOptions(**options)
    stop: EarlyStop | None = None
    with progress_bar() as show:
        if stop_early:
            done, stop = evaluations.run_until_decided(loaded, cells, chosen, show)
        else:
            done = evaluations.run(loaded, cells, chosen, show)
    board = leaderboard(evaluations, loaded, done) if len(done) > 1 and stop is None else None
    for name in loaded.left_out:
        say(f"note: {name} is left out, it needs a judge; set LLMOPS_JUDGE or give the suite a [judges] table")
    for scorer in loaded.make_scorers():
        if text := getattr(scorer, "not_counted", ""):  # of scorers that come from elsewhere
            say(f"note: {scorer.name} does not count {text}; see docs/scorers.md")
    failures = [evaluations.failures(item) for item in done]
    scoreless = {
        item.cell.name: [name for name, metric in item.run.metrics.items() if not metric.n_scored] for item in done
    }
    for item, found in zip(done, failures, strict=True):
        for failure in found[:_MOST_REASONS]:
            scorers = ", ".join(failure.scorers)
            rows = f"{failure.rows} of {row_count(item.run.rows)} failed, row {failure.first} first"
            say(f"note: {item.cell.name}: {scorers}: {rows}: {failure.why}")
        if (left := len(found) - _MOST_REASONS) > 0:
            say(f"note: {item.cell.name}: {left} further reasons; `llmops eval show {item.run.run_id} --failed`")
        if without := ", ".join(scoreless[item.cell.name]):
            say(f"warning: {item.cell.name} has no score at all of {without}; mend the reason and run the suite again")
    value = {
        "suite": suite,
        "runs": [
            {**item.to_json(), "failures": [failure.to_json() for failure in found]}
            for item, found in zip(done, failures, strict=True)
        ],
        "mlflow_experiment_id": done[0].run.experiment_id,
        "ui": ui_url(done),
        "leaderboard": board,
        "stopped_early": stop.to_json() if stop else None,
    }
    if board is not None:
        write_leaderboard(board, html, markdown)
    emit(as_json, value, lambda: show_runs(suite, done, board, stop))
    ctx.exit(1 if any(scoreless.values()) else 0)


def open_evaluations() -> Evaluations:
    """Suites and registry of the environment's settings."""
    from llmops.eval_runs.evaluations import Evaluations
    from llmops.registry import Registry

    settings = Settings.from_environment()
    evaluations = Evaluations(settings, Registry(settings))
    say(describe_folder(data_folder(settings, "eval_sets")))
    return evaluations


def source_access(settings: Settings) -> SourceAccess:
    """How data sets of the hub are reached."""
    from llmops.evaluation.record_files import SourceAccess

    return SourceAccess(settings.hub_endpoint, settings.home / "eval_sets")


def ui_url(done: Sequence[CellRun]) -> str:
    """MLflow's page that compares the second run with the first row by row, once `llmops ui` serves it."""
    first, second = done[0].run, done[min(1, len(done) - 1)].run
    url = f"http://127.0.0.1:5000/#/experiments/{first.experiment_id}/evaluation-runs?selectedRunUuid={second.run_id}"
    return url if first is second else f"{url}&compareToRunUuid={first.run_id}"


def show_runs(suite: str, done: Sequence[CellRun], board: Leaderboard | None, stop: EarlyStop | None) -> None:
    """A table of runs: one line a metric, one column a cell; then the leaderboard, or why the run ended early."""
    rows = []
    for name in done[0].run.metrics:
        metrics = [item.run.metrics[name] for item in done]
        shown = [f"{number(metric.mean)} ({interval(metric.ci95)})" for metric in metrics]
        failed = [f", {metric.n_failed} failed" if metric.n_failed else "" for metric in metrics]
        rows.append((name, *(mean + rest for mean, rest in zip(shown, failed, strict=True))))
    rows.append(("answers", *(item.run.answers.sentence() for item in done)))
    rows.append(("generated, cached", *(f"{item.generated}, {item.from_cache}" for item in done)))
    rows.append(("run", *(item.run.run_id for item in done)))
    columns = [f"{i.cell.release.ref} = {i.run.cell}" if i.cell.release else i.run.cell for i in done]
    run = done[0].run
    part = f" of {run.suite_rows}" if run.suite_rows is not None and run.rows < run.suite_rows else ""
    title = f"Suite {suite}: {row_count(run.rows)}{part}, mean (95 % interval)"
    print_table(title, ("scorer", *columns), rows)
    if board is not None:
        show_leaderboard(board)
    if stop is not None:
        outcome = "decided" if stop.decided else "not decided"
        where = f"95 % interval {interval(stop.ci95)}, p = {stop.p_value:.3g}, valid at any time"
        left_out = f"; {row_count(stop.failed)} failed, which must not decide" if stop.failed else ""
        echo(f"stopped after {stop.rows} of {row_count(stop.of)}, {outcome}: {where}{left_out}")


def show_leaderboard(board: Leaderboard) -> None:
    """Cells by the primary metric with the ranks they may have, and every pair with whether its difference is real."""
    from llmops.evaluation.reports.wording import cell_figures, failed_in_pairs

    cells = [
        (
            "–".join(str(rank) for rank in dict.fromkeys(cell["rank_range"])),
            cell["name"],
            number(cell["mean"]),
            interval(cell["ci95"]),
            f"{cell['n_scored']}/{cell['n_scored'] + cell['n_failed']}",
            *cell_figures(cell),
            count(cell["tokens_out"]),
            count(cell["latency_ms_p50"]),
            number(cell["cost"]),
        )
        for cell in board["cells"]
    ]
    counts = ("failed#", "cut off#", "empty#")
    columns = ("rank", "cell", f"{board['primary']}#", "95 % interval", "scored#", *counts)
    print_table("Leaderboard", (*columns, "tokens#", "median ms#", "cost#"), cells)
    pairs = [
        (
            pair["better"],
            pair["worse"],
            f"{pair['difference']:+.3f}",
            interval(pair["ci95"]),
            f"{pair['p_adjusted']:.3g}",
            "real" if pair["real"] else "cannot be told",
        )
        for pair in board["pairs"]
    ]
    if not pairs:
        return
    title = "Which differences are real"
    print_table(title, ("ahead", "behind", "by#", "95 % interval", "p adjusted#", "is"), pairs)
    if (failed := failed_in_pairs(board)) is not None:
        echo(failed)


def write_leaderboard(board: Leaderboard, html: Path | None, markdown: Path | None) -> None:
    from llmops.evaluation.reports.html import write_leaderboard_html
    from llmops.evaluation.reports.markdown import leaderboard_markdown

    if html is not None:
        write_leaderboard_html(board, html)
        say(f"wrote {html}")
    if markdown is not None:
        write_file(markdown, leaderboard_markdown(board))
