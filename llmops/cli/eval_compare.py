"""`llmops eval compare` and `llmops eval gate`: two runs row by row, and a verdict; as tables, and as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmops.cli.output import echo, emit, interval, json_option, number, print_table, row_count, say, write_file

if TYPE_CHECKING:
    from llmops.eval_runs.evaluations import Evaluations, Gated
    from llmops.eval_runs.pairwise import Votes
    from llmops.evaluation.comparison import Comparison
    from llmops.evaluation.metric_comparison import MetricComparison
    from llmops.evaluation.reports.contents import Judged, Report

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
def compare(
    a: str, b: str, suite: str | None, html: Path | None, junit: Path | None, markdown: Path | None, as_json: bool
) -> None:
    """Compare two runs row by row. A and B: run ids, prompt versions, PROMPT@V,MODEL@V, or releases.

    For two releases, the result includes people's votes from the gateway's page.

    \b
    Example: llmops eval compare qa@1 qa@2 --html comparison.html
    """
    from llmops.cli.eval import open_evaluations
    from llmops.eval_runs.report_contents import report_contents

    evaluations = open_evaluations()
    of_suite, run_a, run_b = evaluations.resolve_pair(a, b, suite)
    comparison = evaluations.compare_runs(of_suite, a, run_a, b, run_b)
    if html or junit or markdown:
        report = report_contents(evaluations, of_suite, comparison, run_a, run_b)
        write_reports(report, html, junit, markdown)
    votes = _votes(evaluations, a, b)

    def table() -> None:
        show_comparison(comparison)
        if votes is not None:
            echo(votes.sentence())

    emit(as_json, {**comparison.to_json(), "votes": votes.to_json() if votes is not None else None}, table)


def _votes(evaluations: Evaluations, a: str, b: str) -> Votes | None:
    """Without the log there are no votes, and still a comparison."""
    from llmops.errors import StoreUnavailable
    from llmops.eval_runs.pairwise import votes_of

    try:
        return votes_of(evaluations, a, b)
    except StoreUnavailable as error:
        say(f"note: votes are left out: {error}")
        return None


@click.command()
@click.argument("challenger")
@click.option("--against", metavar="CHAMPION", help="Release, cell or run; default: the app's champion.")
@click.option("--suite", required=True)
@report_options
@json_option
@click.pass_context
def gate(
    ctx: click.Context,
    challenger: str,
    against: str | None,
    suite: str,
    html: Path | None,
    junit: Path | None,
    markdown: Path | None,
    as_json: bool,
) -> None:
    """Apply the suite's gate to a challenger; exit 0 only on `pass`.

    \b
    Example: llmops eval gate assistant@2 --against assistant@1 --suite qa --junit gate.xml
    """
    from llmops.cli.eval import open_evaluations

    evaluations = open_evaluations()
    gated = evaluations.gate(challenger, against, suite)
    verdict, comparison = gated.verdict, gated.comparison
    _keep_reports(evaluations, suite, gated, challenger, html, junit, markdown)

    def table() -> None:
        if comparison is not None:
            show_comparison(comparison, with_rows=False)
        echo(f"gate {suite}: {verdict.verdict}")
        for reason in verdict.reasons:
            echo(f"  {reason}")

    emit(as_json, {**verdict.to_json(), "comparison": comparison.to_json() if comparison else None}, table)
    ctx.exit(0 if verdict.verdict == "pass" else 1)


def _keep_reports(
    evaluations: Evaluations,
    suite_name: str,
    gated: Gated,
    challenger: str,
    html: Path | None,
    junit: Path | None,
    markdown: Path | None,
) -> None:
    """The files that were asked for; and the page among the challenger's artifacts in MLflow, always. Without a
    champion they have the verdict and the challenger's means."""
    import tempfile

    from llmops.eval_runs.report_contents import judged_contents, report_contents
    from llmops.evaluation.reports.html import write_html, write_verdict_html
    from llmops.recording import record_report

    suite, run, verdict = evaluations.suite(suite_name), gated.runs["b"], gated.verdict
    with tempfile.TemporaryDirectory() as folder:
        if gated.comparison is None:
            page = Path(folder) / "verdict.html"
            judged = judged_contents(evaluations, suite, challenger, run, verdict)
            write_verdicts(judged, html, junit, markdown)
            write_verdict_html(judged, page)
        else:
            page = Path(folder) / "comparison.html"
            report = report_contents(evaluations, suite, gated.comparison, gated.runs["a"], run, verdict)
            write_reports(report, html, junit, markdown)
            write_html(report, page)
        record_report(evaluations.registry.store, run.run_id, page)


def write_verdicts(judged: Judged, html: Path | None, junit: Path | None, markdown: Path | None) -> None:
    """Of a run that was compared with none, each file that was asked for. Raises CannotRun."""
    from llmops.evaluation.reports.html import write_verdict_html
    from llmops.evaluation.reports.junit import verdict_junit
    from llmops.evaluation.reports.markdown import verdict_markdown

    if html is not None:
        write_verdict_html(judged, html)
        say(f"wrote {html}")
    if junit is not None:
        write_file(junit, verdict_junit(judged))
    if markdown is not None:
        write_file(markdown, verdict_markdown(judged))


def write_reports(report: Report, html: Path | None, junit: Path | None, markdown: Path | None) -> None:
    """Each file that was asked for. Raises CannotRun."""
    from llmops.evaluation.reports import html as html_report
    from llmops.evaluation.reports import junit as junit_report
    from llmops.evaluation.reports import markdown as markdown_report

    if html is not None:
        html_report.write_html(report, html)
        say(f"wrote {html}")
    if junit is not None:
        write_file(junit, junit_report.junit(report))
    if markdown is not None:
        write_file(markdown, markdown_report.markdown(report))


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
