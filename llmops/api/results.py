"""What evaluations, comparisons and gates return."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from llmops.eval_runs.early_stopping import EarlyStop
from llmops.eval_runs.evaluations import CellRun, Evaluations, Gated
from llmops.eval_runs.pairwise import Votes
from llmops.eval_runs.report_contents import ShownRow
from llmops.eval_runs.second_opinion import MetricOpinions, opinion_blocks
from llmops.evaluation.comparison import Comparison
from llmops.evaluation.gate import Verdict
from llmops.evaluation.reports.contents import Leaderboard, RunReport
from llmops.evaluation.reports.tables import comparison_blocks, leaderboard_blocks
from llmops.evaluation.results import Failure, Metric, RowResult
from llmops.evaluation.suite import Suite
from llmops.pages.numbers import counted, interval, number
from llmops.pages.tables import Block, Shown, Table
from llmops.text_io import write_text

_MOST_REASONS = 3


@dataclass(frozen=True)
class Run(Shown):
    """One cell's run. `to_pandas`: a line for each row. failures: why rows have no score, most frequent first."""

    suite: Suite = field(repr=False)
    done: CellRun = field(repr=False)
    failures: Sequence[Failure]
    evaluations: Evaluations = field(repr=False)

    @property
    def run_id(self) -> str:
        """MLflow's."""
        return self.done.run.run_id

    @property
    def name(self) -> str:
        """The release, or the prompt and model version; of a callable its model version."""
        release = self.done.cell.release
        return self.done.run.cell if release is None else f"{release.ref} = {self.done.run.cell}"

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """By scorer."""
        return self.done.run.metrics

    @property
    def rows(self) -> Sequence[RowResult]:
        """Every row with its answer and scores, read from MLflow's artifacts. Raises StoreUnavailable."""
        return list(self.evaluations.rows(self.done.run))

    @property
    def scoreless(self) -> list[str]:
        """Scorers that gave no row a score."""
        return [name for name, metric in self.metrics.items() if not metric.n_scored]

    def to_dict(self) -> dict[str, Any]:
        return {**self.done.to_json(), "failures": [failure.to_json() for failure in self.failures]}

    def blocks(self) -> Iterator[Block]:
        yield _metrics_table(self.suite.name, [self])

    def records(self) -> list[dict[str, Any]]:
        return [{"id": result.row.id, **_flat(result)} for result in self.rows]


def _flat(result: RowResult) -> dict[str, Any]:
    row, output = result.row, result.output
    groups = {"inputs": row.inputs, "expectations": row.expectations, "tags": row.tags}
    values = {f"{group}.{name}": value for group, named in groups.items() for name, value in named.items()}
    answer = {"answer": output.text, "latency_ms": output.latency_ms, "tokens_out": output.tokens_out}
    scores = {name: score.value for name, score in result.scores.items()}
    return {**values, **answer, **scores, "error": ShownRow(result).error or None}


@dataclass(frozen=True)
class Evaluation(Shown):
    """The runs of a suite's cells, in their order. `to_pandas` has a line for each row of each run. stopped_early: why
    no more rows were taken, where that was asked for. leaderboard: of two cells or more."""

    suite: Suite = field(repr=False)
    runs: Sequence[Run]
    leaderboard: Leaderboard | None = field(default=None, repr=False)
    stopped_early: EarlyStop | None = None

    def __getitem__(self, position: int) -> Run:
        return self.runs[position]

    def __len__(self) -> int:
        return len(self.runs)

    @property
    def ui(self) -> str:
        """MLflow's page that compares the second run with the first row by row, once `llmops ui` serves it."""
        first, second = self.runs[0].done.run, self.runs[min(1, len(self.runs) - 1)].done.run
        url = f"http://127.0.0.1:5000/#/experiments/{first.experiment_id}/evaluation-runs"
        chosen = f"{url}?selectedRunUuid={second.run_id}"
        return chosen if first is second else f"{chosen}&compareToRunUuid={first.run_id}"

    @property
    def notes(self) -> list[str]:
        """Scorers that were left out, and why rows have no score."""
        notes = [
            f"note: {name} is left out, it needs a judge; set LLMOPS_JUDGE or give the suite a [judges] table"
            for name in self.suite.left_out
        ]
        notes += [
            f"note: {scorer.name} does not count {text}; see docs/scorers.md"
            for scorer in self.suite.make_scorers()
            if (text := getattr(scorer, "not_counted", ""))  # of scorers that come from elsewhere
        ]
        for each in self.runs:
            cell = each.done.cell.name
            for failure in each.failures[:_MOST_REASONS]:
                of = f"{failure.rows} of {counted(each.done.run.rows, 'row')} failed, row {failure.first} first"
                notes.append(f"note: {cell}: {', '.join(failure.scorers)}: {of}: {failure.why}")
            if (left := len(each.failures) - _MOST_REASONS) > 0:
                notes.append(f"note: {cell}: {left} further reasons; `llmops eval show {each.run_id} --failed`")
            if without := ", ".join(each.scoreless):
                mend = "mend the reason and run the suite again"
                notes.append(f"warning: {cell} has no score at all of {without}; {mend}")
        return notes

    def to_dict(self) -> dict[str, Any]:
        return {
            "suite": self.suite.name,
            "runs": [run.to_dict() for run in self.runs],
            "mlflow_experiment_id": self.runs[0].done.run.experiment_id,
            "ui": self.ui,
            "leaderboard": to_jsonable_python(self.leaderboard),
            "stopped_early": self.stopped_early.to_json() if self.stopped_early else None,
        }

    def blocks(self) -> Iterator[Block]:
        yield _metrics_table(self.suite.name, self.runs)
        if self.leaderboard is not None:
            yield from leaderboard_blocks(self.leaderboard)
        if (stop := self.stopped_early) is not None:
            outcome = "decided" if stop.decided else "not decided"
            where = f"95 % interval {interval(stop.ci95)}, p = {stop.p_value:.3g}, valid at any time"
            left_out = f"; {counted(stop.failed, 'row')} failed, which must not decide" if stop.failed else ""
            yield f"stopped after {stop.rows} of {counted(stop.of, 'row')}, {outcome}: {where}{left_out}"

    def records(self) -> list[dict[str, Any]]:
        return [{"run_id": run.run_id, "cell": run.name, **row} for run in self.runs for row in run.records()]

    def write(self, *, html: Path | str | None = None, markdown: Path | str | None = None) -> list[Path]:
        """Writes the leaderboard, where there is one, to files; returns them. Raises CannotRun."""
        from llmops.evaluation.reports import html as html_reports
        from llmops.evaluation.reports import markdown as markdown_reports
        from llmops.pages.rendering import write_page

        if (board := self.leaderboard) is None:
            return []
        if html is not None:
            write_page([html_reports.leaderboard_html(board)], Path(html))
        if markdown is not None:
            write_text(Path(markdown), markdown_reports.leaderboard_markdown(board))
        return [Path(path) for path in (html, markdown) if path is not None]


def _metrics_table(suite: str, runs: Sequence[Run]) -> Table:
    """One line a metric, one column a cell."""
    rows: list[tuple[str, ...]] = []
    for name in runs[0].metrics:
        metrics = [run.metrics[name] for run in runs]
        shown = [f"{number(metric.mean)} ({interval(metric.ci95)})" for metric in metrics]
        failed = [f", {metric.n_failed} failed" if metric.n_failed else "" for metric in metrics]
        rows.append((name, *(mean + rest for mean, rest in zip(shown, failed, strict=True))))
    rows.append(("answers", *(run.done.run.answers.sentence() for run in runs)))
    rows.append(("generated, cached", *(f"{run.done.generated}, {run.done.from_cache}" for run in runs)))
    rows.append(("run", *(run.run_id for run in runs)))
    run = runs[0].done.run
    part = f" of {run.suite_rows}" if run.suite_rows is not None and run.rows < run.suite_rows else ""
    title = f"Suite {suite}: {counted(run.rows, 'row')}{part}, mean (95 % interval)"
    return Table(title, ("scorer", *(each.name for each in runs)), rows)


@dataclass(frozen=True)
class Leaders(Shown):
    """A leaderboard. `to_pandas` has a line for each cell, best first."""

    board: Leaderboard

    def to_dict(self) -> dict[str, Any]:
        return to_jsonable_python(self.board)  # type: ignore[no-any-return]

    def blocks(self) -> Iterator[Block]:
        return leaderboard_blocks(self.board)

    def records(self) -> Sequence[Mapping[str, Any]]:
        return self.board["cells"]


@dataclass(frozen=True)
class ComparisonResult(Shown):
    """Two runs, row by row. `to_pandas` has a line for each metric, of all rows and of each slice. votes: people's,
    between two releases; None where there are none. opinions: MLflow's too, by metric; None where not asked for."""

    comparison: Comparison
    votes: Votes | None
    report: Callable[[], RunReport] = field(repr=False)
    notes: Sequence[str] = ()
    opinions: Mapping[str, MetricOpinions] | None = None

    @property
    def metrics(self) -> Mapping[str, Any]:
        """By scorer: difference, interval, p-value …"""
        return self.comparison.metrics

    def to_dict(self) -> dict[str, Any]:
        value = {**self.comparison.to_json(), "votes": self.votes.to_json() if self.votes is not None else None}
        if self.opinions is not None:
            value["second_opinion"] = {name: each.to_json() for name, each in self.opinions.items()}
        return value

    def blocks(self) -> Iterator[Block]:
        yield from comparison_blocks(self.comparison)
        if self.votes is not None:
            yield self.votes.sentence()
        if self.opinions is not None:
            yield from opinion_blocks(self.opinions)

    def records(self) -> list[dict[str, Any]]:
        parts = [("", self.comparison.metrics), *self.comparison.slices.items()]
        return [
            {"slice": part, "metric": name, **metric.to_json()}
            for part, metrics in parts
            for name, metric in metrics.items()
        ]

    def write(self, **files: Path | str | None) -> list[Path]:
        """Writes the comparison to files; returns them. files: `html`, `junit` and `markdown`. Raises CannotRun."""
        return write_reports(self.report(), **files) if any(files.values()) else []


def write_reports(
    report: RunReport,
    html: Path | str | None = None,
    junit: Path | str | None = None,
    markdown: Path | str | None = None,
) -> list[Path]:
    """A comparison, or a run that was compared with none, as each file that was asked for. Raises CannotRun."""
    from llmops.evaluation.reports import html as html_reports
    from llmops.evaluation.reports import junit as junit_reports
    from llmops.evaluation.reports import markdown as markdown_reports
    from llmops.pages.rendering import write_page

    if html is not None:
        write_page(html_reports.report_html(report), Path(html))
    if junit is not None:
        write_text(Path(junit), junit_reports.junit(report))
    if markdown is not None:
        write_text(Path(markdown), markdown_reports.markdown(report))
    return [Path(path) for path in (html, junit, markdown) if path is not None]


@dataclass(frozen=True)
class GateResult(Shown):
    """A verdict and what it was read from. `to_pandas` has a line for each check."""

    suite: str
    gated: Gated = field(repr=False)
    report: RunReport = field(repr=False)

    @property
    def verdict(self) -> Verdict:
        """`pass`, `fail` or `inconclusive`, and why."""
        return self.gated.verdict

    @property
    def comparison(self) -> Comparison | None:
        """With the champion; None where there is none yet."""
        return self.gated.comparison

    @property
    def passed(self) -> bool:
        """Neither failed nor inconclusive."""
        return self.verdict.verdict == "pass"

    def to_dict(self) -> dict[str, Any]:
        return {**self.verdict.to_json(), "comparison": self.comparison.to_json() if self.comparison else None}

    def blocks(self) -> Iterator[Block]:
        if self.comparison is not None:
            yield from comparison_blocks(self.comparison, with_rows=False)
        yield f"gate {self.suite}: {self.verdict.verdict}"
        yield from (f"  {reason}" for reason in self.verdict.reasons)

    def records(self) -> list[dict[str, Any]]:
        return self.verdict.to_json()["checks"]  # type: ignore[no-any-return]

    def write(self, **files: Path | str | None) -> list[Path]:
        """Writes the verdict to files; returns them. files: `html`, `junit` and `markdown`. Raises CannotRun."""
        return write_reports(self.report, **files)
