"""Comparisons and leaderboards as tables, for terminals and notebooks."""

from collections.abc import Iterator

from llmops.evaluation.comparison import Comparison
from llmops.evaluation.metric_comparison import MetricComparison
from llmops.evaluation.reports.contents import Leaderboard
from llmops.evaluation.reports.wording import FAILED_IN_DIFFERENCES, cell_figures, failed_in_pairs, rank
from llmops.pages.numbers import count, interval, number, signed
from llmops.pages.tables import Block, Table

_OUTCOMES = ("wins#", "losses#", "ties#", "failed a, b#")
_COLUMNS = ("metric", "a#", "b#", "difference#", "95 % interval", "p#", "p adjusted#", *_OUTCOMES)


def comparison_blocks(comparison: Comparison, *, with_rows: bool = True) -> Iterator[Block]:
    """The comparison as a table, its slices as a second one, and what it can see. with_rows: also what became of the
    rows, where no verdict says so."""
    title = f"{comparison.a} → {comparison.b}, {comparison.rows} row{'' if comparison.rows == 1 else 's'} paired"
    rows = [_cells(name, metric) for name, metric in comparison.metrics.items()]
    yield Table(title, _COLUMNS, rows, "difference is b − a; p adjusted by Holm over the metrics")
    if with_rows:
        yield comparison.rows_told()
    yield from _notes(comparison)
    sliced = [
        (name, metric_name, *_cells(name, metric)[1:], str(metric.n))
        for name, metrics in comparison.slices.items()
        for metric_name, metric in metrics.items()
    ]
    if sliced:
        yield Table("By slice", ("slice", *_COLUMNS, "rows#"), sliced, "p adjusted by Holm over the slices")
    primary = next((name for metrics in comparison.slices.values() for name in metrics), None)
    for name, sentence in comparison.power.items():
        if name == primary or (primary is None and name == next(iter(comparison.power))):
            yield f"{name}: {sentence}"
    if (noise := comparison.noise) is not None:
        yield (
            f"{noise.changed} of {comparison.rows} answers differ; the engine alone would change about "
            f"{noise.expected:.0f} ({noise.noise.flips} of {noise.noise.n} answers flipped when made again)"
        )
    if comparison.sequential:
        yield "these runs were stopped early: p and intervals hold whenever one stops"


def _notes(comparison: Comparison) -> Iterator[str]:
    """How failed rows count, what is not compared, and what limits an interval."""
    if any(metric.failed_a or metric.failed_b for metric in comparison.metrics.values()):
        yield FAILED_IN_DIFFERENCES
    for name, apart in comparison.not_compared.items():
        failed = f"of {apart.n} rows {apart.failed_a} failed in a, {apart.failed_b} in b"
        yield f"{name} is not compared: {apart.reason}; {failed}"
    for name, found in comparison.metrics.items():
        if found.note:
            yield f"{name}: {found.note}"


def _cells(name: str, m: MetricComparison) -> tuple[str, ...]:
    change = (number(m.a), number(m.b), signed(m.difference), interval(m.ci95), f"{m.p_value:.3g}")
    outcomes = (str(m.wins), str(m.losses), str(m.ties), f"{m.failed_a}, {m.failed_b}")
    return (name, *change, f"{m.p_adjusted:.3g}", *outcomes)


def leaderboard_blocks(board: Leaderboard) -> Iterator[Block]:
    """Cells by the primary metric with the ranks they may have, and every pair with whether its difference is real."""
    cells = [
        (
            rank(cell["rank_range"]),
            cell["name"],
            number(cell["mean"]),
            interval(cell["ci95"]),
            f"{cell['n_scored']}/{cell['n_scored'] + cell['n_failed']}",
            *cell_figures(cell),
            count(cell["tokens_out"]),
            count(cell["latency_ms_p50"]),
            number(cell["cost"]),
        )
        for cell in board["cells"]
    ]
    counts = ("failed#", "cut off#", "empty#")
    columns = ("rank", "cell", f"{board['primary']}#", "95 % interval", "scored#", *counts)
    yield Table("Leaderboard", (*columns, "tokens#", "median ms#", "cost#"), cells)
    pairs = [
        (
            pair["better"],
            pair["worse"],
            signed(pair["difference"]),
            interval(pair["ci95"]),
            f"{pair['p_adjusted']:.3g}",
            "real" if pair["real"] else "cannot be told",
        )
        for pair in board["pairs"]
    ]
    if not pairs:
        return
    yield Table("Which differences are real", ("ahead", "behind", "by#", "95 % interval", "p adjusted#", "is"), pairs)
    if (failed := failed_in_pairs(board)) is not None:
        yield failed
