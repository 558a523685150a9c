"""`llmops eval compare --second-opinion`: MLflow's own comparison beside ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from llmops.cli.output import echo, print_table
from llmops.pages.numbers import NOTHING, interval, signed

if TYPE_CHECKING:
    from llmops.eval_runs.second_opinion import MetricOpinions

second_opinion_option = click.option(
    "--second-opinion",
    "with_second_opinion",
    is_flag=True,
    help="Also compare with MLflow's own `compare_evaluations` (MLflow 3.18), and explain where both disagree.",
)


def show_second_opinion(opinions: Mapping[str, MetricOpinions]) -> None:
    """Both verdicts of each metric, MLflow's figures, and why they differ."""
    rows = []
    for name, found in opinions.items():
        opinion = found.opinion
        figures: tuple[str, ...] = (NOTHING,) * 5
        if opinion is not None:
            p_value = NOTHING if opinion.p_value is None else f"{opinion.p_value:.3g}"
            difference = NOTHING if opinion.difference is None else signed(opinion.difference)
            ci95 = interval(opinion.ci95, of_difference=True)
            figures = (str(opinion.n), difference, ci95, p_value, opinion.method or NOTHING)
        rows.append((name, found.here, found.mlflow, *figures))
    columns = ("metric", "b is, here", "b is, by MLflow", "rows#", "difference#", "95 % interval", "p#", "test")
    caption = "by MLflow: p below 0.05, for each metric by itself; its figures follow"
    print_table("MLflow's second opinion", columns, rows, caption)
    for name, found in opinions.items():
        for reason in found.reasons:
            echo(f"{name}{'' if found.agree else ', where they disagree'}: {reason}")
    agree = sum(found.agree for found in opinions.values())
    echo(f"both say the same of {agree} of {len(opinions)} metrics")
