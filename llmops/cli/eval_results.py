"""`llmops eval show`, `compare` and `gate`: runs row by row, and a verdict; as tables, and as files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmops.cli.eval import open_evaluations
from llmops.cli.output import emit, emit_result, json_option, print_table, row_count, say
from llmops.settings import Settings, data_folder, describe_folder

if TYPE_CHECKING:
    from llmops.eval_runs.report_contents import RunRows, ShownRow
    from llmops.evaluation.results import Score

_ROWS = 20


@click.command()
@click.argument("run")
@click.option("--suite", help="The suite; required if several use the prompt.")
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


_FILE = click.Path(path_type=Path, dir_okay=False)
_REPORTS = (
    click.option("--html", type=_FILE, help="Also write a page: charts, and rows sorted by change."),
    click.option("--junit", type=_FILE, help="Also write JUnit XML, for continuous integration."),
    click.option("--markdown", type=_FILE, help="Also write Markdown, for a pull request."),
)


def report_options(command: Any) -> Any:
    """The three files that a comparison can be written to."""
    for option in reversed(_REPORTS):
        command = option(command)
    return command


@click.command()
@click.argument("a")
@click.argument("b")
@click.option("--suite", help="The suite; required if several use the prompt.")
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


@click.command()
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
