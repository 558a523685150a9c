"""`llmops eval show`, `compare` and `gate`: runs row by row, and a verdict; as tables, and as files."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmops.cli.eval import open_evaluations
from llmops.cli.output import echo, emit, json_option, print_table, row_count, say, write_file
from llmops.errors import StoreUnavailable
from llmops.pages.numbers import interval, number

if TYPE_CHECKING:
    from llmops.eval_runs.report_contents import RunRows, ShownRow
    from llmops.evaluation.comparison import Comparison
    from llmops.evaluation.metric_comparison import MetricComparison
    from llmops.evaluation.reports.contents import Judged
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
@report_options
@json_option
def compare(a: str, b: str, suite: str | None, as_json: bool, **files: Path | None) -> None:
    """Compare two runs row by row. A and B: run ids, prompt versions, PROMPT@V,MODEL@V, or releases.

    For two releases, the result includes people's votes from the gateway's page.

    \b
    Example: llmops eval compare qa@1 qa@2 --html comparison.html
    """
    from llmops.eval_runs.pairwise import votes_between
    from llmops.eval_runs.report_contents import report_contents
    from llmops.production_log import ProductionLog

    evaluations = open_evaluations()
    of_suite, run_a, run_b = evaluations.resolve_pair(a, b, suite)
    comparison = evaluations.compare_runs(of_suite, a, run_a, b, run_b)
    if any(files.values()):
        _write_reports(report_contents(evaluations, of_suite, {"a": run_a, "b": run_b}, b, comparison), files)
    releases = [found for found in (evaluations.release(a), evaluations.release(b)) if found is not None]
    votes = None
    try:
        if len(releases) == 2:
            with closing(ProductionLog(evaluations.settings.resolved_log_url)) as log:
                votes = votes_between(log, *releases)
    except StoreUnavailable as error:  # without the log there are no votes, and still a comparison
        say(f"note: votes are left out: {error}")

    def table() -> None:
        show_comparison(comparison)
        if votes is not None:
            echo(votes.sentence())

    emit(as_json, {**comparison.to_json(), "votes": votes.to_json() if votes is not None else None}, table)


@click.command()
@click.argument("challenger")
@click.option("--against", metavar="CHAMPION", help="Release, cell or run; default: the app's champion.")
@click.option("--suite", required=True, help="The suite whose `[gate]` decides.")
@report_options
@json_option
@click.pass_context
def gate(
    ctx: click.Context, /, challenger: str, against: str | None, suite: str, as_json: bool, **files: Path | None
) -> None:
    """Apply the suite's gate to a challenger; exit 0 only on `pass`.

    \b
    Example: llmops eval gate assistant@2 --against assistant@1 --suite qa --junit gate.xml
    """
    from llmops.eval_runs.report_contents import report_contents
    from llmops.recording import record_report

    evaluations = open_evaluations()
    gated = evaluations.gate(challenger, against, suite)
    verdict, comparison, run, loaded = gated.verdict, gated.comparison, gated.runs["b"], evaluations.suite(suite)
    # The page is kept among the challenger's artifacts too; without a champion it has the challenger's means.
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / ("verdict.html" if comparison is None else "comparison.html")
        _write_reports(report_contents(evaluations, loaded, gated.runs, challenger, comparison, verdict), files, page)
        record_report(evaluations.registry.store, run.run_id, page)

    def table() -> None:
        if comparison is not None:
            show_comparison(comparison, with_rows=False)
        echo(f"gate {suite}: {verdict.verdict}")
        for reason in verdict.reasons:
            echo(f"  {reason}")

    emit(as_json, {**verdict.to_json(), "comparison": comparison.to_json() if comparison else None}, table)
    ctx.exit(0 if verdict.verdict == "pass" else 1)


def _write_reports(report: Judged, files: Mapping[str, Path | None], kept: Path | None = None) -> None:
    """A comparison, or a run that was compared with none, as each file that was asked for, and as the page that is
    kept. Raises CannotRun."""
    from llmops.evaluation.reports import html, junit, markdown
    from llmops.evaluation.reports.contents import Report

    if isinstance(report, Report):
        page, xml, text = partial(html.write_html, report), junit.junit(report), markdown.markdown(report)
    else:
        page = partial(html.write_verdict_html, report)
        xml, text = junit.verdict_junit(report), markdown.verdict_markdown(report)
    if (path := files["html"]) is not None:
        page(path)
        say(f"wrote {path}")
    for name, content in (("junit", xml), ("markdown", text)):
        if (path := files[name]) is not None:
            write_file(path, content)
    if kept is not None:
        page(kept)


def show_comparison(comparison: Comparison, *, with_rows: bool = True) -> None:
    """The comparison as a table, its slices as a second one, and what it can see. with_rows: also what became of the
    rows, where no verdict says so."""
    from llmops.eval_runs.report_contents import noise_sentence

    rows = [_cells(name, metric) for name, metric in comparison.metrics.items()]
    title = f"{comparison.a} → {comparison.b}, {row_count(comparison.rows)} paired"
    print_table(title, _COLUMNS, rows, caption="difference is b − a; p adjusted by Holm over the metrics")
    if with_rows:
        echo(comparison.rows_told())
    _show_notes(comparison)
    sliced = [
        (name, metric_name, *_cells(name, metric)[1:], metric.n)
        for name, metrics in comparison.slices.items()
        for metric_name, metric in metrics.items()
    ]
    if sliced:
        print_table("By slice", ("slice", *_COLUMNS, "rows#"), sliced, caption="p adjusted by Holm over the slices")
    primary = next((name for metrics in comparison.slices.values() for name in metrics), None)
    for name, sentence in comparison.power.items():
        if name == primary or (primary is None and name == next(iter(comparison.power))):
            echo(f"{name}: {sentence}")
    if (noise := noise_sentence(comparison.to_json())) is not None:
        echo(noise)
    if comparison.sequential:
        echo("these runs were stopped early: p and intervals hold whenever one stops")


def _show_notes(comparison: Comparison) -> None:
    """How failed rows count, what is not compared, and what limits an interval."""
    from llmops.evaluation.reports.wording import FAILED_IN_DIFFERENCES

    if any(metric.failed_a or metric.failed_b for metric in comparison.metrics.values()):
        echo(FAILED_IN_DIFFERENCES)
    for name, apart in comparison.not_compared.items():
        failed = f"of {apart.n} rows {apart.failed_a} failed in a, {apart.failed_b} in b"
        echo(f"{name} is not compared: {apart.reason}; {failed}")
    for name, found in comparison.metrics.items():
        if found.note:
            echo(f"{name}: {found.note}")


_OUTCOMES = ("wins#", "losses#", "ties#", "failed a, b#")
_COLUMNS = ("metric", "a#", "b#", "difference#", "95 % interval", "p#", "p adjusted#", *_OUTCOMES)


def _cells(name: str, m: MetricComparison) -> tuple[str, ...]:
    change = (number(m.a), number(m.b), f"{m.difference:+.3f}", interval(m.ci95), f"{m.p_value:.3g}")
    outcomes = (str(m.wins), str(m.losses), str(m.ties), f"{m.failed_a}, {m.failed_b}")
    return (name, *change, f"{m.p_adjusted:.3g}", *outcomes)
