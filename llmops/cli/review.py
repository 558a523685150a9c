"""`llmops review`: rows of eval runs in MLflow's review queue, and people's labels back from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from llmops.cli.eval import open_evaluations
from llmops.cli.output import echo, emit, json_option, print_table, row_count, say, write_file
from llmops.pages.numbers import counted

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group("review")
def command() -> None:
    """Review: have people label rows in MLflow, those first whose label decides most, and take the labels back."""


@command.command("open")
@click.argument("suite")
@click.option("--run", help="Whose answers; a run or cell as in `eval compare`. Default: the suite's newest run.")
@click.option("--against", metavar="RUN", help="The run it may be gated against. Default: the newest of another cell.")
@click.option("--rows", type=click.IntRange(1, 500), default=20, show_default=True, help="Maximum number of rows.")
@click.option(
    "--reviewer",
    "reviewers",
    multiple=True,
    metavar="USER",
    help="Who may answer (repeatable), by the name they sign in with at MLflow's server; default: anybody.",
)
@json_option
def open_queue(
    suite: str, run: str | None, against: str | None, rows: int, reviewers: Sequence[str], as_json: bool
) -> None:
    """Put rows of an eval run into MLflow's review queue of the suite, with two questions: whether the answer is
    correct, and what would be a right one.

    Rows where two runs differ on the gate's metric come first, and rows where scorers contradict each other or a score
    lies halfway: there a label most likely decides a gate, or a judge's calibration.

    \b
    Example: llmops review open qa --rows 30
    """
    from llmops.eval_runs.reviewing import open_review

    found = open_review(open_evaluations(), suite, run, against, rows, reviewers)

    def table() -> None:
        shown = [(place, row.row, f"{row.decides:.2f}", row.why) for place, row in enumerate(found.rows, 1)]
        title = f"Queue {found.queue}: {row_count(len(found.rows))} of run {found.run_id} put in"
        print_table(title, ("#", "row", "decides#", "why"), shown)
        if found.there:
            echo(f"{row_count(found.there)} stood in the queue already")
        if found.untraced:
            echo(f"{row_count(found.untraced)} have no trace in MLflow, and cannot be reviewed there")

    emit(as_json, found.to_json(), table)
    say(f"to review: `llmops ui`, http://127.0.0.1:5000/#/experiments/{found.experiment_id}/review-queue")
    say(f"afterwards: `llmops review take {suite} --labels labels.jsonl`")


@command.command()
@click.argument("suite")
@click.option("--labels", type=_FILE, help="Write the labels, for `eval calibrate-judge`.")
@click.option("--expectations", type=_FILE, help="Write rows of an eval set with the answers that people expect.")
@json_option
def take(suite: str, labels: Path | None, expectations: Path | None, as_json: bool) -> None:
    """Take people's answers from the suite's review queue, with who gave them and when.

    Each answer is checked, which MLflow does not: its kind, the trace, the reviewer, and that nobody says otherwise.
    What cannot be taken is listed, and stays in MLflow.

    \b
    Example: llmops review take qa --labels labels.jsonl --expectations rows.jsonl
    """
    from llmops.eval_runs.reviewing import take_review

    found = take_review(open_evaluations(), suite)
    for path, lines in ((labels, found.labels), (expectations, found.expectations)):
        if path is not None:
            write_file(path, _json_lines(lines))
    for trace_id, why in found.refused.items():
        say(f"not taken: {trace_id}: {why}")

    def table() -> None:
        taken = [(each["id"], each["label"], each["by"], each["at"]) for each in found.labels]
        print_table(f"Labels of suite {suite}", ("row", "correct", "by", "at"), taken)
        labelled, expected = counted(len(taken), "label"), counted(len(found.expectations), "expected answer")
        echo(f"{labelled} and {expected} taken, {counted(len(found.refused), 'reviewed row')} not taken")
        echo(f"{row_count(found.pending)} to review yet, {found.declined} declined")

    emit(as_json, found.to_json(), table)


def _json_lines(lines: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
