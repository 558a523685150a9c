"""`llmops eval pairwise`: two recorded runs, compared row by row by a judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from llmops.cli.calibrate import (
    input_option,
    instructions_option,
    judge_option,
    key_option,
    position_rows,
    text_or_file,
)
from llmops.cli.output import emit, interval, json_option, number, print_table, progress_bar, row_count, say, say_folder
from llmops.settings import Settings

if TYPE_CHECKING:
    from llmops.eval_runs.pairwise import RunsJudged


@click.command()
@click.argument("a")
@click.argument("b")
@click.option("--suite", help="The suite; required if several use the prompt.")
@judge_option
@key_option
@instructions_option
@input_option
@click.option("--limit", type=click.IntRange(1), help="Only the first rows.")
@json_option
def pairwise(
    a: str,
    b: str,
    suite: str | None,
    judge: str | None,
    key_variable: str | None,
    instructions: str | None,
    input_variable: str | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Let a judge decide row by row which run answers better. A and B as in `eval compare`.

    The judge sees every pair in both orders; a verdict that depends on the order is a tie. Wins are wins of B. You can
    calibrate the judge on labelled pairs with `eval calibrate-judge`; otherwise its verdict is shown as untrusted.

    \b
    Example: llmops eval pairwise qa@1 qa@2 --judge openai:http://127.0.0.1:8001/v1#judge
    """
    from llmops.eval_runs.evaluations import Evaluations
    from llmops.eval_runs.pairwise import PairwiseAsked, judge_runs
    from llmops.registry import Registry

    settings = Settings.from_environment()
    asked = PairwiseAsked(a, b, suite, judge, key_variable, text_or_file(instructions), input_variable, limit)
    evaluations = Evaluations(settings, Registry(settings))
    say_folder(evaluations.folder)
    with progress_bar() as show:
        found = judge_runs(evaluations, settings, asked, lambda done, total: show("asking the judge", done, total))
    for doubt in found.doubts:
        say(f"note: do not rely on these verdicts: {doubt}")
    emit(as_json, found.to_json(), lambda: _show(found))


def _show(found: RunsJudged) -> None:
    value = found.to_json()
    unanswered = zip("AB", found.unanswered, strict=True)
    rows: list[Sequence[Any]] = [
        ("B better", value["wins"], ""),
        ("A better", value["losses"], ""),
        ("ties", value["ties"], f"of these {found.contradicting} turned with the order"),
        ("without a verdict", value["n_failed"], "; ".join(f"{n} unanswered by {side}" for side, n in unanswered)),
        ("unmatched", "{}, {}".format(*found.unmatched), "rows of A, of B that the other run does not have"),
        ("share of B", number(value["win_share"]), interval(value["ci95"])),
        ("p of the sign test", f"{value['p_value']:.3g}", "that B is better as often as A"),
        *position_rows(found.summary.position_bias),
    ]
    caption = f"{found.judge} is " + (f"untrusted: {found.untrusted}" if found.untrusted else "calibrated and trusted")
    title = f"Suite {found.suite}: A = {found.a}, B = {found.b}, {row_count(value['rows'])}"
    print_table(title, ("", "value#", "95 % interval, or what it means"), rows, caption)
