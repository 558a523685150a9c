"""`llmops review`: answers of eval runs and of production in MLflow's review queues, and the labels back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmops.cli.eval import open_evaluations
from llmops.cli.log import read_time
from llmops.cli.output import FILE, echo, emit, json_option, print_table, row_count, say, write_file
from llmops.errors import UnknownVersion, UsageError
from llmops.pages.numbers import counted
from llmops.production_log import moment_of
from llmops.settings import data_folder

if TYPE_CHECKING:
    from llmops.eval_runs.evaluations import Evaluations
    from llmops.production_log import ProductionLog


@click.group("review")
def command() -> None:
    """Review: have people label answers in MLflow, those first whose label decides most, and take the labels back."""


log_option = click.option(
    "--log",
    "is_app",
    is_flag=True,
    help="NAME is an app, whose production log is meant, even if a suite has that name.",
)


@command.command("open")
@click.argument("name", metavar="SUITE|APP")
@log_option
@click.option("--run", help="Whose answers; a run or cell as in `eval compare`. Default: the suite's newest run.")
@click.option("--against", metavar="RUN", help="The run it may be gated against. Default: the newest of another cell.")
@click.option(
    "--since", callback=read_time, metavar="TIME", help="Of an app: from this UTC time, or this long ago. Default: 7d."
)
@click.option("--until", callback=read_time, metavar="TIME", help="Of an app: before this time, or this long ago.")
@click.option("--rows", type=click.IntRange(1, 500), default=20, help="Maximum number of rows.")
@click.option(
    "--reviewer",
    "reviewers",
    multiple=True,
    metavar="USER",
    help="Who may answer (repeatable), by the name they sign in with at MLflow's server; default: anybody.",
)
@json_option
def open_queue(
    name: str,
    is_app: bool,
    run: str | None,
    against: str | None,
    since: datetime | None,
    until: datetime | None,
    rows: int,
    reviewers: Sequence[str],
    as_json: bool,
) -> None:
    """Put answers into MLflow's review queue of a suite, or of an app, with two questions: whether the answer is
    correct, and what would be a right one.

    Of a suite's run those rows come first where two runs differ on the gate's metric, and where scorers contradict each
    other or a score lies halfway: there a label most likely decides a gate, or a judge's calibration. Of an app's
    production log, answers that users contradict each other about, then those they find wrong, then frequent ones.

    \b
    Example: llmops review open qa --rows 30
    Example: llmops review open assistant --since 24h
    """
    from llmops.eval_runs.reviewing import open_log_review, open_review

    evaluations = open_evaluations()
    log = _log_of(evaluations, name, is_app)
    wrong = {"--since": since, "--until": until} if log is None else {"--run": run, "--against": against}
    if given := [option for option, value in wrong.items() if value is not None]:
        raise UsageError(f"{given[0]}: {name} is {'a suite' if log is None else 'an app'}")
    if log is None:
        found = open_review(evaluations, name, run, against, rows, reviewers)
    else:
        start = moment_of("7d") if since is None else since
        found = open_log_review(evaluations.registry.store, log, name, start, until, rows, reviewers)

    def table() -> None:
        shown = [(rank, row.row, f"{row.decides:.2f}", row.why) for rank, row in enumerate(found.rows, 1)]
        source = "the production log" if found.run_id is None else f"run {found.run_id}"
        title = f"Queue {found.queue}: {row_count(len(found.rows))} of {source} put in"
        print_table(title, ("#", "row" if log is None else "request", "decides#", "why"), shown)
        if found.there:
            echo(f"{row_count(found.there)} stood in the queue already")
        if found.untraced:
            echo(f"{row_count(found.untraced)} have no trace in MLflow, and cannot be reviewed there")

    emit(as_json, found.to_json(), table)
    page = f"experiments/{found.experiment_id}/review-queue?selectedQueueId={found.queue_id}"
    say(f"to review: `llmops ui`, http://127.0.0.1:5000/#/{page}")
    say(f"afterwards: `llmops review take {name}{' --log' if is_app else ''} --labels labels.jsonl`")


@command.command()
@click.argument("name", metavar="SUITE|APP")
@log_option
@click.option("--labels", type=FILE, help="Write the labels, for `eval calibrate-judge`.")
@click.option("--expectations", type=FILE, help="Write rows of an eval set with the answers that people expect.")
@click.option(
    "--feedback",
    is_flag=True,
    help="Of an app: also write the answers into the production log, as feedback of the caller `review`.",
)
@click.option("--input-variable", default="question", help="Of an app: prompt variable that the user's message fills.")
@json_option
def take(
    name: str,
    is_app: bool,
    labels: Path | None,
    expectations: Path | None,
    feedback: bool,
    input_variable: str,
    as_json: bool,
) -> None:
    """Take people's answers from the review queue of a suite, or of an app, with who gave them and when.

    Each answer is checked, which MLflow does not: its kind, the trace, the reviewer, and that nobody says otherwise.
    What cannot be taken is listed, and stays in MLflow.

    \b
    Example: llmops review take qa --labels labels.jsonl --expectations rows.jsonl
    """
    from llmops.eval_runs.reviewing import take_log_review, take_review

    evaluations = open_evaluations()
    log = _log_of(evaluations, name, is_app)
    if log is None and feedback:
        raise UsageError(f"--feedback: {name} is a suite")
    if log is None:
        found = take_review(evaluations, name)
    else:
        found = take_log_review(evaluations.registry.store, log, name, input_variable, to_log=feedback)
    for path, lines in ((labels, found.labels), (expectations, found.expectations)):
        if path is not None:
            write_file(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    for trace_id, why in found.refused.items():
        say(f"not taken: {trace_id}: {why}")

    def table() -> None:
        taken = [(each["id"], each["label"], each["by"], each["at"]) for each in found.labels]
        print_table(f"Labels of {name}", ("row", "correct", "by", "at"), taken)
        labelled, expected = counted(len(taken), "label"), counted(len(found.expectations), "expected answer")
        echo(f"{labelled} and {expected} taken, {counted(len(found.refused), 'reviewed row')} not taken")
        echo(f"{row_count(found.pending)} to review yet, {found.declined} declined")
        if feedback:
            echo(f"{counted(found.feedback, 'answer')} written into the production log")

    emit(as_json, found.to_json(), table)


def _log_of(evaluations: Evaluations, name: str, is_app: bool) -> ProductionLog | None:
    """The production log, where the name is an app's; None where it is a suite's. Raises UnknownVersion: neither."""
    from llmops.evaluation.suite import suite_names
    from llmops.production_log import ProductionLog

    settings = evaluations.settings
    suites = suite_names(data_folder(settings, "eval_sets"))
    if not is_app and name in suites:
        return None
    log = ProductionLog(settings.resolved_log_url)
    if not log.count(app=name):
        known = "" if is_app else f"no suite {name!r} (there are {', '.join(suites) or 'none'}), and "
        raise UnknownVersion(f"{known}the production log has no answer of an app {name!r}")
    return log
