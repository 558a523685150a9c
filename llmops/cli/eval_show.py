"""`llmops eval show`: a run row by row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from llmops.cli.output import emit, json_option, print_table, row_count, say

if TYPE_CHECKING:
    from llmops.eval_runs.report_contents import RunRows, ShownRow
    from llmops.evaluation.results import RowResult, Score

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
    from llmops.cli.eval import open_evaluations
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
    emit(as_json, value, lambda: _table(found, limit or _ROWS))


def _table(found: RunRows, limit: int) -> None:
    shown = found.rows[:limit]
    run, with_errors = found.run, any(row.error for row in shown)
    columns = ["row", "question", "expected", "answer", "score", *(["error"] if with_errors else [])]
    rows = [
        (row.result.row.id, row.question, row.expected, _answer(row), _scores(row, found.primary))
        + ((row.error,) if with_errors else ())
        for row in shown
    ]
    title = f"{run.run_id}, suite {run.suite}: {run.cell}: {len(shown)} of {row_count(run.rows)}"
    print_table(title, columns, rows, caption=None if rows else "no such rows")
    if len(found.rows) > len(shown):
        left = len(found.rows) - len(shown)
        say(f"{left} more row{'' if left == 1 else 's'}: --limit {len(found.rows)} shows them")


def _answer(row: ShownRow) -> str:
    return row.result.output.text if row.before is None else f"{row.before.output.text}\n→ {row.result.output.text}"


def _scores(row: ShownRow, primary: str | None) -> str:
    """A line for each scorer, the gate's first; those that a row's earlier run gave otherwise with both values."""
    names = sorted(row.result.scores, key=lambda name: name != primary)
    return "\n".join(f"{name} {_score(row.before, name)}{_value(row.result.scores[name])}" for name in names)


def _score(before: RowResult | None, name: str) -> str:
    return "" if before is None or name not in before.scores else f"{_value(before.scores[name])} → "


def _value(score: Score) -> str:
    if score.value is None:
        return "failed"
    return str(score.value).lower() if isinstance(score.value, bool) else f"{score.value:.4g}"
