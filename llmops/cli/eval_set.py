"""`llmops eval-set`: check, add."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmops.cli.log import window_options
from llmops.cli.output import echo, emit, json_option, print_table, row_count, say
from llmops.cli.registry import open_registry
from llmops.errors import UnknownVersion, UsageError
from llmops.production_log import ProductionLog
from llmops.settings import Settings, data_folder, describe_folder

if TYPE_CHECKING:
    from llmops.evaluation.eval_set import EvalSet

_SHOWN_ROWS = 4


@click.group()
def command() -> None:
    """Eval sets: check them for defects, and add rows from production."""


@command.command()
@click.argument("eval_set", metavar="NAME|PATH|SUITE")
@click.option(
    "--near",
    type=click.FloatRange(0.8, 1.0),
    default=0.9,
    help="Lowest similarity at which two questions count as near-duplicates.",
)
@click.option(
    "--prompt",
    "prompts",
    multiple=True,
    metavar="NAME@V",
    help="Also check whether rows appear in this prompt's examples.",
)
@json_option
def check(eval_set: str, near: float, prompts: Sequence[str], as_json: bool) -> None:
    """Check for duplicates, contradictions, leaked and impossible answers, and tiny slices; exit 1 on an error.

    Give the NAME of an eval set, the PATH of a data file or folder, or a SUITE (which takes precedence over an eval set
    of the same name). A suite's eval sets are checked together, and its scorers are tried on a made-up row, as before a
    run. The columns of a table are named after a row's fields: `id`, `inputs.question`, `expectations.answers`,
    `tags.topic`.

    \b
    Example: llmops eval-set check qa --prompt qa@2
    Example: llmops eval-set check tickets.csv
    """
    from llmops.evaluation.eval_set import Rows
    from llmops.evaluation.eval_set_check import check_rows

    settings = Settings.from_environment()
    found = _find(eval_set, settings)
    rows = Rows(lambda: chain.from_iterable(item.rows for item in found))
    templates = {}
    if prompts:
        registry = open_registry()
        templates = {version.ref: version.template for version in map(registry.prompts.get, prompts)}
    findings = check_rows(rows, near=near, prompts=templates)
    n_rows = sum(item.n_rows for item in found)
    value = {"eval_set": eval_set, "rows": n_rows, "findings": [finding.to_json() for finding in findings]}

    shown = []
    for f in findings:
        first = ", ".join(f.rows[:_SHOWN_ROWS]) + (" …" if len(f.rows) > _SHOWN_ROWS else "")
        shown.append((f.severity, f.kind, len(f.rows), first, f.detail))
    title, caption = f"{eval_set}: {row_count(n_rows)}", None if findings else "nothing found"
    columns = ("severity", "kind", "rows#", "first of them", "detail")
    emit(as_json, value, lambda: print_table(title, columns, shown, caption))
    sys.exit(1 if any(finding.severity == "error" for finding in findings) else 0)


@command.command()
@click.argument("name")
@click.option("--from-log", is_flag=True, help="Step 1: write requests of the production log to a review file.")
@click.option("--reviewed", type=click.Path(path_type=Path), help="Step 2: add the accepted rows of this review file.")
@window_options
@click.option("-n", "--limit", type=click.IntRange(1), default=100, help="Maximum number of rows to review.")
@click.option(
    "--outcome", type=click.Choice(["ok", "error", "cancelled", "any"]), default="ok", help="How the request ended."
)
@click.option(
    "--feedback",
    type=click.Choice(["negative", "positive", "any"]),
    help="Only answers with this feedback; any: with feedback of any kind.",
)
@click.option(
    "--input-variable",
    help="Prompt variable that the user's message fills; default: the one input of the set's rows, else question.",
)
@click.option("--out", "--review", "out", type=click.Path(path_type=Path), help="Review file to write; must be new.")
@json_option
def add(
    name: str,
    from_log: bool,
    reviewed: Path | None,
    app: str | None,
    since: datetime | None,
    until: datetime | None,
    limit: int,
    outcome: str,
    feedback: str | None,
    input_variable: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Add production requests to an eval set, in two steps with a human review in between.

    First, `--from-log` writes a review file: one row per line, without rows that the eval set already has. Fill in
    `expectations`, and set `review.accept` to true or false. Then `--reviewed` adds the accepted rows: all of them, or
    none if one is invalid.

    Review files and eval sets contain what users wrote, including names and other personal data. Remove it before you
    accept a row, and take care where these files go.

    \b
    Example: llmops eval-set add qa --from-log --app assistant --since 7d --feedback negative --out review.jsonl
    Example: llmops eval-set add qa --reviewed review.jsonl
    """
    if from_log == (reviewed is not None):
        raise UsageError("give one of --from-log and --reviewed")
    settings = Settings.from_environment()
    eval_sets = data_folder(settings, "eval_sets")
    say(describe_folder(eval_sets))
    folder = eval_sets / name
    if reviewed is not None:
        from llmops.eval_runs.eval_set_from_log import add_reviewed

        added, refused, undecided = add_reviewed(reviewed, folder)
        value = {"eval_set": name, "folder": str(folder), "added": added, "refused": refused, "undecided": undecided}
        told = f"added {row_count(added)} to {folder} ({refused} refused, {undecided} undecided)"
        emit(as_json, value, lambda: echo(told))
        return
    if out is None:
        raise UsageError("--from-log needs --out FILE, the review file to write")

    from llmops.eval_runs.eval_set_from_log import RecordChoice, write_review

    records = ProductionLog(settings.resolved_log_url).iterate(app=app, since=since, until=until, feedback=True)
    choice = RecordChoice(None if outcome == "any" else outcome, feedback, limit, input_variable)
    counts = write_review(records, folder, out, choice)
    say("the review file holds what users wrote, personal data included; read it before you share or add it")
    value = {"eval_set": name, "review": str(out), **counts.to_json()}
    passed = f"{counts.known} known already, {counts.not_chosen} not chosen, {counts.unusable} unusable"
    emit(as_json, value, lambda: echo(f"wrote {row_count(counts.written)} to review to {out} ({passed})"))


def _find(text: str, settings: Settings) -> list[EvalSet]:
    """The eval sets that a name, path or suite means. Raises UnknownVersion, BadFile."""
    from llmops.eval_runs.scorer_factory import ScorerFactory
    from llmops.evaluation.eval_set_source import find_eval_set, named_eval_set
    from llmops.evaluation.record_files import SourceAccess
    from llmops.evaluation.suite import load_suite, suite_names

    access = SourceAccess.of(settings)
    path = Path(text)
    if path.is_file() and path.suffix != ".toml":
        return [find_eval_set(path, access)]
    folder, name = (path.parent, path.stem) if path.is_file() else (data_folder(settings, "eval_sets"), text)
    say(describe_folder(folder))
    if name in suite_names(folder):
        suite = load_suite(folder, name, access, ScorerFactory(settings).make)
        say(f"trying the scorers of {name} on a made-up row")  # loads their libraries: ragas takes seconds
        suite.try_scorers()
        return list(suite.eval_sets)
    try:
        return [named_eval_set(text, settings)]
    except UnknownVersion as error:
        raise UnknownVersion(f"{error}; suites: {', '.join(suite_names(folder)) or 'none'}") from error
