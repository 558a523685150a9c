"""`llmops eval`: list, run, show, compare, gate; `SUBCOMMANDS` has the others."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmops.cli import CommandGroup
from llmops.cli.output import FILE, emit, emit_result, json_option, on_option, print_table, row_count, say
from llmops.engines.opening import ENGINE_NAMES
from llmops.settings import Settings, data_folder, describe_folder

if TYPE_CHECKING:
    from llmops.eval_runs.evaluations import Evaluations
    from llmops.eval_runs.report_contents import RunRows, ShownRow
    from llmops.evaluation.results import Score

_ROWS = 20
suite_option = click.option("--suite", help="The suite; required if several use the prompt.")


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
    from llmops.eval_runs.evaluations import read_suite
    from llmops.evaluation.suite import readable_suites

    settings = Settings.from_environment()
    folder = data_folder(settings, "eval_sets")
    say(describe_folder(folder))
    suites, broken = readable_suites(folder, partial(read_suite, settings))
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
    "--recorder",
    type=click.Choice(["auto", "evaluate", "bulk"]),
    default="auto",
    show_default=False,
    help="How to record runs in MLflow.",
)
@on_option("Where rows are evaluated")
@click.option("--workers", type=click.IntRange(1), help="Shards evaluated at a time on Ray; default: one on each node.")
@click.option(
    "--shard-rows",
    type=click.IntRange(1),
    default=500,
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


@command.command()
@click.argument("run")
@suite_option
@click.option(
    "--failed",
    is_flag=True,
    help="Only rows without an answer or a score, or with the worst score of the gate's scorer.",
)
@click.option("--changed-from", metavar="RUN", help="Only rows whose answer or score differs from this run's.")
@click.option("--limit", type=click.IntRange(1), help=f"Maximum number of rows.  [default: {_ROWS}; with --json all]")
@json_option
def show(run: str, suite: str | None, failed: bool, changed_from: str | None, limit: int | None, as_json: bool) -> None:
    """Show a run row by row: question, expected answer, answer, scores. RUN: a run id or its beginning, or a cell as in
    `eval compare`.

    \b
    Example: llmops eval show qa@2 --failed
    Example: llmops eval show assistant@3 --changed-from assistant@2 --limit 50
    """
    from llmops.eval_runs.report_contents import run_rows

    evaluations = open_evaluations()
    found = run_rows(evaluations, run, suite, failed=failed, changed_from=changed_from)
    value = {
        "run_id": found.run.run_id,
        "suite": found.run.suite,
        "prompt": found.run.prompt,
        "model": found.run.model,
        "primary": found.primary,
        "rows": found.run.rows,
        "found": len(found.rows),
        "results": [row.to_json() for row in found.rows[:limit]],
    }
    emit(as_json, value, lambda: _row_table(found, limit or _ROWS))


def _row_table(found: RunRows, limit: int) -> None:
    shown = found.rows[:limit]
    run, with_errors = found.run, any(row.error for row in shown)
    columns = ["row", "question", "expected", "answer", "score", *(["error"] if with_errors else [])]
    rows = [
        (row.result.row.id, row.question, row.expected, *_answer_and_scores(row, found.primary))
        + ((row.error,) if with_errors else ())
        for row in shown
    ]
    title = f"{run.run_id}, suite {run.suite}: {run.cell}: {len(shown)} of {row_count(run.rows)}"
    print_table(title, columns, rows, caption=None if rows else "no such rows")
    if len(found.rows) > len(shown):
        left = len(found.rows) - len(shown)
        say(f"{left} more row{'' if left == 1 else 's'}: --limit {len(found.rows)} shows them")


def _answer_and_scores(row: ShownRow, primary: str | None) -> tuple[str, str]:
    """The answer, and a line for each scorer, the gate's first; what an earlier run gave otherwise with both values."""

    def value(score: Score) -> str:
        if score.value is None:
            return "failed"
        return str(score.value).lower() if isinstance(score.value, bool) else f"{score.value:.4g}"

    before = {} if row.before is None else row.before.scores
    lines = []
    for name in sorted(row.result.scores, key=lambda name: name != primary):
        was = f"{value(before[name])} → " if name in before else ""
        lines.append(f"{name} {was}{value(row.result.scores[name])}")
    answer = row.result.output.text
    return answer if row.before is None else f"{row.before.output.text}\n→ {answer}", "\n".join(lines)


_REPORTS = (
    click.option("--html", type=FILE, help="Also write a page: charts, and rows sorted by change."),
    click.option("--junit", type=FILE, help="Also write JUnit XML, for continuous integration."),
    click.option("--markdown", type=FILE, help="Also write Markdown, for a pull request."),
)


def report_options(command: Any) -> Any:
    """The three files that a comparison can be written to."""
    for option in reversed(_REPORTS):
        command = option(command)
    return command


@command.command()
@click.argument("a")
@click.argument("b")
@suite_option
@click.option(
    "--second-opinion",
    is_flag=True,
    help="Also compare with MLflow's own `compare_evaluations` (MLflow 3.18), and explain where both disagree.",
)
@report_options
@json_option
def compare(a: str, b: str, suite: str | None, second_opinion: bool, as_json: bool, **files: Path | None) -> None:
    """Compare two runs row by row. A and B: run ids, prompt versions, PROMPT@V,MODEL@V, or releases.

    For two releases, the result includes people's votes from the gateway's page.

    \b
    Example: llmops eval compare qa@1 qa@2 --html comparison.html
    Example: llmops eval compare qa@1 qa@2 --second-opinion
    """
    from llmops.api.evaluation import compare as compare_runs

    say(describe_folder(data_folder(Settings.from_environment(), "eval_sets")))
    found = compare_runs(a, b, suite=suite, with_second_opinion=second_opinion)
    for path in found.write(**files):
        say(f"wrote {path}")
    emit_result(as_json, found)


@command.command()
@click.argument("challenger")
@click.option("--against", metavar="CHAMPION", help="Release, cell or run; default: the app's champion.")
@click.option("--suite", required=True, help="The suite whose `[gate]` decides.")
@report_options
@json_option
def gate(challenger: str, against: str | None, suite: str, as_json: bool, **files: Path | None) -> None:
    """Apply the suite's gate to a challenger; exit 0 only on `pass`.

    \b
    Example: llmops eval gate assistant@2 --against assistant@1 --suite qa --junit gate.xml
    """
    from llmops.api.evaluation import gate as apply_gate

    say(describe_folder(data_folder(Settings.from_environment(), "eval_sets")))
    gated = apply_gate(challenger, against=against, suite=suite)
    for path in gated.write(**files):
        say(f"wrote {path}")
    emit_result(as_json, gated)
    sys.exit(0 if gated.passed else 1)
