"""`llmops eval`: list, run, compare, gate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmops.cli.output import emit, interval, json_option, number, print_table, progress_bar, say
from llmops.engines.opening import ENGINE_NAMES
from llmops.settings import Settings

if TYPE_CHECKING:
    from llmops.evaluation.comparison import Comparison, MetricComparison
    from llmops.workflow.evaluations import CellRun, Evaluations


@click.group()
def command() -> None:
    """Evaluate: run suites, compare runs row by row, gate a challenger."""


@command.command("list")
@json_option
def list_suites(as_json: bool) -> None:
    """List the suites there are.

    \b
    Example: llmops eval list
    """
    from llmops.evaluation.suite import load_suite, suite_names
    from llmops.paths import eval_sets_folder

    folder = eval_sets_folder(Settings.from_environment())
    suites = [load_suite(folder, name) for name in suite_names(folder)]
    value: list[dict[str, Any]] = [
        {
            "name": suite.name,
            "description": suite.description,
            "eval_sets": [eval_set.name for eval_set in suite.eval_sets],
            "rows": len(suite.rows),
            "prompt": suite.prompt,
            "model": suite.model,
            "scorers": [spec.name for spec in suite.scorer_specs],
        }
        for suite in suites
    ]

    def table() -> None:
        rows = [(s["name"], s["prompt"], s["rows"], ", ".join(s["scorers"]), s["description"]) for s in value]
        print_table("Suites", ("suite", "prompt", "rows#", "scorers", "description"), rows)

    emit(as_json, {"suites": value}, table)


@command.command()
@click.argument("suite")
@click.option(
    "--prompt", "prompts", multiple=True, metavar="NAME@V", help="Prompt version; default: all of the suite's."
)
@click.option("--model", "models", multiple=True, metavar="NAME@V", help="Model version; default: the suite's.")
@click.option("--release", "releases", multiple=True, metavar="APP@V", help="Release to run, in place of cells.")
@click.option("--limit", type=click.IntRange(1), help="Only the first rows.")
@click.option("--engine", type=click.Choice(ENGINE_NAMES), help="Engine; default by the model's format.")
@click.option("--seed", type=int, help="Makes an independent run of the same cell.")
@click.option("--repeatable", is_flag=True, help="One request at a time: slower, and the same answers every time.")
@click.option("--force", is_flag=True, help="Score and record again although an identical run is complete.")
@click.option("--recorder", type=click.Choice(["auto", "evaluate"]), default="auto", help="How runs get into MLflow.")
@json_option
def run(
    suite: str,
    prompts: Sequence[str],
    models: Sequence[str],
    releases: Sequence[str],
    limit: int | None,
    engine: str | None,
    seed: int | None,
    repeatable: bool,
    force: bool,
    recorder: str,  # noqa: ARG001 - `auto` means `evaluate`, the one recorder there is
    as_json: bool,
) -> None:
    """Answer and score every row with every cell; finished generations are never made twice.

    \b
    Example: llmops eval run qa --prompt qa@1 --prompt qa@2 --model smollm2-135m-instruct@2
    """
    from llmops.workflow.evaluations import RunOptions

    evaluations = open_evaluations()
    loaded = evaluations.suite(suite)
    cells = evaluations.cells(loaded, prompts, models, releases)
    options = RunOptions(limit, engine, seed, repeatable, force)
    with progress_bar() as show:
        done = evaluations.run(loaded, cells, options, show)
    value = {
        "suite": suite,
        "runs": [item.to_json() for item in done],
        "mlflow_experiment_id": done[0].run.experiment_id,
        "ui": ui_url(done),
    }
    emit(as_json, value, lambda: show_runs(suite, done))


@command.command()
@click.argument("a")
@click.argument("b")
@click.option("--suite", help="Where more than one suite uses the prompt.")
@click.option("--markdown", type=click.Path(path_type=Path), help="Also write the table to a Markdown file.")
@json_option
def compare(a: str, b: str, suite: str | None, markdown: Path | None, as_json: bool) -> None:
    """Compare two runs row by row. A and B: run ids, prompt versions, PROMPT@V,MODEL@V, or releases.

    \b
    Example: llmops eval compare qa@1 qa@2
    """
    comparison = open_evaluations().compare(a, b, suite)
    if markdown is not None:
        markdown.write_text(markdown_table(comparison), encoding="utf-8")
        say(f"wrote {markdown}")
    emit(as_json, comparison.to_json(), lambda: show_comparison(comparison))


@command.command()
@click.argument("challenger")
@click.option("--against", metavar="CHAMPION", help="Release, cell or run; default: the app's champion.")
@click.option("--suite", required=True)
@json_option
@click.pass_context
def gate(ctx: click.Context, challenger: str, against: str | None, suite: str, as_json: bool) -> None:
    """Judge a challenger by the suite's gate; exit 0 only on `pass`.

    \b
    Example: llmops eval gate assistant@2 --against assistant@1 --suite qa
    """
    verdict, comparison = open_evaluations().gate(challenger, against, suite)
    value = {**verdict.to_json(), "comparison": comparison.to_json() if comparison else None}

    def table() -> None:
        if comparison is not None:
            show_comparison(comparison)
        click.echo(f"gate {suite}: {verdict.verdict}")
        for reason in verdict.reasons:
            click.echo(f"  {reason}")

    emit(as_json, value, table)
    ctx.exit(0 if verdict.verdict == "pass" else 1)


def open_evaluations() -> Evaluations:
    """Suites and registry of the environment's settings."""
    from llmops.registry import Registry
    from llmops.workflow.evaluations import Evaluations

    settings = Settings.from_environment()
    return Evaluations(settings, Registry(settings))


def ui_url(done: Sequence[CellRun]) -> str:
    """MLflow's page that compares the second run with the first row by row, once `llmops ui` serves it."""
    first, second = done[0].run, done[min(1, len(done) - 1)].run
    url = f"http://127.0.0.1:5000/#/experiments/{first.experiment_id}/evaluation-runs?selectedRunUuid={second.run_id}"
    return url if first is second else f"{url}&compareToRunUuid={first.run_id}"


def show_runs(suite: str, done: Sequence[CellRun]) -> None:
    """A table of runs: one line a metric, one column a cell."""
    names = list(done[0].run.metrics)
    rows = []
    for name in names:
        metrics = [item.run.metrics[name] for item in done]
        rows.append((name, *(f"{number(m.mean)} ({interval(m.ci95)}){_failed(m.n_failed)}" for m in metrics)))
    rows.append(("generated, cached", *(f"{item.generated}, {item.from_cache}" for item in done)))
    rows.append(("run", *(item.run.run_id for item in done)))
    columns = [f"{i.cell.release.ref} = {i.run.cell}" if i.cell.release else i.run.cell for i in done]
    title = f"Suite {suite}: {done[0].run.rows} rows, mean (95 % interval)"
    print_table(title, ("scorer", *columns), rows)


def _failed(n_failed: int) -> str:
    return f", {n_failed} failed" if n_failed else ""


def show_comparison(comparison: Comparison) -> None:
    """The comparison as a table, its slices as a second one."""
    rows = [_cells(name, metric) for name, metric in comparison.metrics.items()]
    title = f"{comparison.a} → {comparison.b}, {comparison.rows} rows paired"
    print_table(title, _COLUMNS, rows, caption="difference is b − a; p adjusted by Holm over the metrics")
    sliced = [
        (name, metric_name, *_cells(name, metric)[1:], metric.n)
        for name, metrics in comparison.slices.items()
        for metric_name, metric in metrics.items()
    ]
    if sliced:
        print_table("By slice", ("slice", *_COLUMNS, "rows#"), sliced, caption="p adjusted by Holm over the slices")


_COLUMNS = ("metric", "a#", "b#", "difference#", "95 % interval", "p#", "p adjusted#", "wins#", "losses#", "ties#")


def _cells(name: str, m: MetricComparison) -> tuple[str, ...]:
    change = (number(m.a), number(m.b), f"{m.difference:+.3f}", interval(m.ci95), f"{m.p_value:.3g}")
    return (name, *change, f"{m.p_adjusted:.3g}", str(m.wins), str(m.losses), str(m.ties))


def markdown_table(comparison: Comparison) -> str:
    """The comparison for a pull request."""
    head = [column.rstrip("#") for column in _COLUMNS]
    lines = [f"### {comparison.a} → {comparison.b}, {comparison.rows} rows", "", f"| {' | '.join(head)} |"]
    lines.append("|" + " --- |" * len(head))
    lines += [f"| {' | '.join(_cells(name, metric))} |" for name, metric in comparison.metrics.items()]
    return "\n".join(lines) + "\n"
