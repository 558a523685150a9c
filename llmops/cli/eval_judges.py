"""`llmops eval calibrate-judge` and `llmops eval pairwise`: what judges say, beside people's labels and of two runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmops.cli.eval import open_evaluations, suite_option
from llmops.cli.output import FILE, echo, emit, json_option, print_table, row_count, say
from llmops.pages.numbers import interval, number
from llmops.progress import progress_bar
from llmops.settings import Settings, data_folder, describe_folder
from llmops.text_io import read_text

if TYPE_CHECKING:
    from llmops.eval_runs.calibrating import Calibrated
    from llmops.eval_runs.pairwise import RunsJudged
    from llmops.evaluation.agreement import LengthBias, PositionBias

_ALPHA = 0.05

judge_option = click.option(
    "--judge", metavar="NAME|openai:URL#MODEL", help="A judge of the suite, or any upstream; default: LLMOPS_JUDGE."
)
key_option = click.option(
    "--key-variable", metavar="NAME", help="Environment variable that holds the key of an openai: judge."
)
instructions_option = click.option(
    "--instructions", metavar="FILE|TEXT", help="Rubric for the judge; default: correctness."
)
input_option = click.option("--input-variable", metavar="NAME", help="The row input that holds the question.")


@click.command("calibrate-judge")
@click.argument("labels", type=FILE)
@click.option("--suite", help="Calibrate a judge scorer of this suite, so that its gate may use it.")
@click.option("--scorer", help="The suite's scorer; required if several use the judge.")
@judge_option
@key_option
@instructions_option
@click.option("--scale", help="Without a suite: pass_fail (default), LOWEST,HIGHEST or LABEL,LABEL,…")
@click.option("--good", multiple=True, metavar="LABEL", help="Labels of the scale that count as true.")
@input_option
@click.option("--threshold", type=float, default=0.5, help="Lowest score that counts as true.")
@click.option("--kappa", type=click.FloatRange(-1, 1), help="Lowest κ to trust it; default: the suite's, else 0.6.")
@json_option
def calibrate_judge(
    labels: Path,
    suite: str | None,
    judge: str | None,
    key_variable: str | None,
    instructions: str | None,
    scale: str | None,
    good: Sequence[str],
    input_variable: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure and record a judge's agreement with people; exit 0 only if it is trusted.

    LABELS is a JSON Lines file with `inputs`, `output` and `label` (true or false, a number, or text), plus
    `expectations` and `contexts` if the judge needs them. Lines with `output_a`, `output_b` and a label of "a", "b" or
    "tie" are pairs; the judge sees each pair in both orders.

    A suite's judge may gate only after it was calibrated with --suite. Trust applies to one judge, rubric and scale; it
    ends when one of them changes. A judge is trusted if the lower end of the 95 % interval of Cohen's κ reaches
    --kappa.

    \b
    Example: llmops eval calibrate-judge labels.jsonl --suite support --scorer helpful
    Example: llmops eval calibrate-judge labels.jsonl --judge openai:http://127.0.0.1:8001/v1#judge
    """
    from llmops.eval_runs.calibrating import Rubric
    from llmops.eval_runs.calibrating import calibrate_judge as calibrate
    from llmops.eval_runs.evaluations import Evaluations
    from llmops.eval_runs.pairwise import with_judge
    from llmops.registry import Registry

    settings = with_judge(Settings.from_environment(), judge, key_variable)
    rubric = Rubric(text_or_file(instructions), scale, good, input_variable)
    evaluations = Evaluations(settings, Registry(settings))
    if suite is not None:
        say(describe_folder(data_folder(settings, "eval_sets")))
    with progress_bar() as show:
        asking = partial(show, "asking the judge")
        found = calibrate(labels, evaluations, asking, suite=suite, judge=judge, rubric=rubric, **options)
    emit(as_json, found.value, lambda: _show_calibrated(found))
    sys.exit(0 if found.untrusted is None else 1)


def text_or_file(given: str | None) -> str | None:
    """The text of an option that takes a text or a file: one word is the name of a file. Raises BadFile."""
    if given is None:
        return None
    try:
        is_file = Path(given).is_file()
    except OSError:  # too long for a name, so it is a text
        is_file = False
    return read_text(Path(given.strip())) if is_file or len(given.split()) == 1 else given


def _show_calibrated(found: Calibrated) -> None:
    calibration, kappa = found.calibration, found.calibration.kappa
    rows: list[Sequence[Any]] = [
        ("Cohen's κ", number(kappa.kappa) if kappa else "–", interval(kappa.ci95) if kappa else "–"),
        (
            "agreement",
            number(kappa.agreement) if kappa else "–",
            f"by chance {number(kappa.by_chance)}" if kappa else "",
        ),
        ("labels judged", calibration.n, f"{calibration.n_failed} without a verdict"),
        length_row(calibration.length_bias),
        *position_rows(found.position_bias),
    ]
    print_table(
        f"{calibration.scorer}, {found.value['judge']}", ("", "value#", "95 % interval, or what it means"), rows
    )
    if (confusion := calibration.confusion) is not None:
        columns = ("people say", *(f"judge: {_label(label)}#" for label in confusion.labels))
        counted = zip(confusion.labels, confusion.counts, strict=True)
        print_table("People and judge", columns, [(_label(label), *counts) for label, counts in counted])
    for row in [row for row in calibration.rows if row.error][:3]:
        echo(f"  {row.row_id}: {row.error}")
    if found.untrusted is None:
        echo(f"trusted: κ is surely {found.value['kappa_asked']:g} or more; run {found.value['run_id']}")
    else:
        echo(f"untrusted, it cannot gate: {found.untrusted}; run {found.value['run_id']}")


def _label(label: Any) -> str:
    return str(label).lower() if isinstance(label, bool) else str(label)


def length_row(bias: LengthBias | None) -> Sequence[Any]:
    """The judge's bias by length as a line of a table."""
    if bias is None or bias.correlation is None:
        return "bias by length", "–", "cannot be told"
    kinder = "kinder to long answers" if bias.correlation > 0 else "harder on long answers"
    return "bias by length", f"{bias.correlation:+.3f}", _found(kinder, bias.p_value)


def position_rows(bias: PositionBias | None) -> list[Sequence[Any]]:
    """The judge's bias by position as lines of a table; none where nothing was judged in two orders."""
    if bias is None:
        return []
    first = (bias.prefers_first or 0) > 0.5
    place = _found(f"prefers the {'first' if first else 'second'} place", bias.p_value)
    return [
        ("verdicts that turn with the order", number(bias.flipped), interval(bias.flipped_ci95)),
        ("share of the first place", number(bias.prefers_first), place),
    ]


def _found(meaning: str, p_value: float) -> str:
    return f"{meaning if p_value < _ALPHA else 'none to be seen'}, p = {p_value:.3g}"


@click.command()
@click.argument("a")
@click.argument("b")
@suite_option
@judge_option
@key_option
@instructions_option
@input_option
@click.option("--limit", type=click.IntRange(1), help="Only the first rows.")
@json_option
def pairwise(a: str, b: str, instructions: str | None, as_json: bool, **options: Any) -> None:
    """Let a judge decide row by row which run answers better. A and B as in `eval compare`.

    The judge sees every pair in both orders; a verdict that depends on the order is a tie. Wins are wins of B. You can
    calibrate the judge on labelled pairs with `eval calibrate-judge`; otherwise its verdict is shown as untrusted.

    \b
    Example: llmops eval pairwise qa@1 qa@2 --judge openai:http://127.0.0.1:8001/v1#judge
    """
    from llmops.eval_runs.pairwise import judge_runs

    evaluations = open_evaluations()
    with progress_bar() as show:
        asking = partial(show, "asking the judge")
        found = judge_runs(evaluations, a, b, asking, instructions=text_or_file(instructions), **options)
    for doubt in found.doubts:
        say(f"note: do not rely on these verdicts: {doubt}")
    emit(as_json, found.to_json(), lambda: _show_judged(found))


def _show_judged(found: RunsJudged) -> None:
    unanswered = "; ".join(f"{n} unanswered by {side.upper()}" for side, n in found.unanswered.items())
    turned = round(found.inconsistent * (found.rows - found.n_failed))
    rows: list[Sequence[Any]] = [
        ("B better", found.wins, ""),
        ("A better", found.losses, ""),
        ("ties", found.ties, f"of these {turned} turned with the order"),
        ("without a verdict", found.n_failed, unanswered),
        ("unmatched", "{a}, {b}".format(**found.unmatched), "rows of A, of B that the other run does not have"),
        ("share of B", number(found.win_share), interval(found.ci95)),
        ("p of the sign test", f"{found.p_value:.3g}", "that B is better as often as A"),
        *position_rows(found.position_bias),
    ]
    caption = f"{found.judge} is " + (f"untrusted: {found.why}" if found.why else "calibrated and trusted")
    title = f"Suite {found.suite}: A = {found.a}, B = {found.b}, {row_count(found.rows)}"
    print_table(title, ("", "value#", "95 % interval, or what it means"), rows, caption)
