"""What has become of columns: drift, and rows that are not in order.

Drift of inputs, prediction and, once labels have come, the target. All columns of a window are one family:
Benjamini-Hochberg runs over those that can be tested. A column has drifted when its adjusted p is at most
`TabularSettings.alpha("drift", …)` and its effect, in the unit of `decide.drift`, reaches the floor. Independent rows
are tested as there; rows in blocks by the same statistics, with p-values from permuting whole blocks (`permutation`).
Drift is not harm: a season moves every input of a model that copes with it.

Order: values missing, out of the reference's range, labels never seen, rows repeated. A limit is broken when the rows
prove it: when the exact lower bound (Clopper & Pearson 1934) of the true share is above both what is allowed and the
upper bound of the reference's own share. Rows of a block fail together (a sensor is down for a day), so shares are
taken of as many rows as are worth independent ones (Korn & Graubard 1998).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llmops.evaluation.statistics import cluster_sums, estimate_mean, independent_rows
from monitoring.decide.drift import NOT_TESTED, Drift, DriftTest, adjusted_in_family, compare_labels, compare_numbers
from monitoring.decide.limits import lower_bound
from monitoring.store.summaries import LabelSummary, NumberSummary
from monitoring.tabular.error import widened
from monitoring.tabular.observed import PREDICTION, TRUTH, Array, ObservedRows, Values
from monitoring.tabular.permutation import (
    BlockDraws,
    BlockTable,
    block_sums,
    compare_blocks,
    kolmogorov_smirnov,
    neighbour_correlation,
    root_chi_square,
)
from monitoring.tabular.settings import TabularSettings

if TYPE_CHECKING:
    from llmops.tabular.schema import RowSchema

Role = Literal["input", "prediction", "target"]

MOST_BINS = 64
"""Of numbers in blocks: a distance over so many equally full bins is at most 1/64 below the true one."""
_FEWEST_DRAWS, _MOST_DRAWS = 999, 29_999


@dataclass(frozen=True, slots=True)
class ColumnDrift(Drift):
    """One column."""

    role: Role

    def to_json(self) -> dict[str, Any]:
        return {"role": self.role, **Drift.to_json(self)}


def drift_of(
    reference: ObservedRows,
    current: ObservedRows,
    settings: TabularSettings,
    alpha: float,
    target: str,
    *,
    labelled: bool,
) -> dict[str, ColumnDrift]:
    """By column, in the schema's order, then `prediction`, then the target by its own name.

    alpha: what an adjusted p is held against.
    target: the output's name.
    labelled: whether the target has come.

    Raises nothing: what cannot be tested has p = 1.
    """
    pairs: dict[str, tuple[Role, Values, Values]] = {
        name: ("input", values, current.inputs[name]) for name, values in reference.inputs.items()
    }
    pairs[PREDICTION] = "prediction", reference.prediction, current.prediction
    if labelled:
        pairs[target if target not in pairs else TRUTH] = "target", reference.truth, current.truth
    draws = None  # for independent rows
    if reference.block is not None and min(reference.blocks, current.blocks) >= settings.minimum_blocks:
        # So many that one drifted column among the others can reach the level.
        most = min(max(math.ceil(2 * len(pairs) / alpha), _FEWEST_DRAWS), _MOST_DRAWS)
        draws = BlockDraws(reference.blocks, current.blocks, most)
    blocks = reference.block, current.block
    results = {
        name: _compare(before, after, blocks, draws, settings.minimum_rows)
        for name, (_, before, after) in pairs.items()
    }
    adjusted = adjusted_in_family(results)
    drifts = {}
    for name, (role, before, after) in pairs.items():
        drifted = adjusted[name] <= alpha and abs(results[name].effect) >= settings.effect_floor
        drifts[name] = ColumnDrift(results[name], adjusted[name], drifted, level(before), level(after), role)
    return drifts


def level(values: Values) -> float | str | None:
    """What a column is like, in one value; of equally frequent labels the first."""
    there = values.data[values.present]
    if not len(there):
        return None
    if values.numeric:
        return float(there.mean())
    labels, counts = np.unique(there.astype(str), return_counts=True)
    return str(labels[counts.argmax()])


def _compare(
    before: Values,
    after: Values,
    blocks: tuple[Array | None, Array | None],
    draws: BlockDraws | None,
    minimum_rows: int,
) -> DriftTest:
    values = [each.data[each.present] for each in (before, after)]
    if min(map(len, values)) < minimum_rows or (blocks[0] is not None and draws is None):
        return NOT_TESTED
    codes, cells = _coded(values, before.numeric, most=MOST_BINS if draws else 0)
    if cells < 2:
        return NOT_TESTED
    if draws is None:
        counted = [np.unique(each, return_counts=True) for each in codes]
        if before.numeric:  # bins are the values' own ranks, so that no two values share one
            return compare_numbers(*(NumberSummary(n=int(n.sum()), bins=bins, counts=n) for bins, n in counted))
        return compare_labels(
            *(LabelSummary(dict(zip(map(str, bins), n.tolist(), strict=True))) for bins, n in counted)
        )
    where = [block[each.present] for block, each in zip(blocks, (before, after), strict=True) if block is not None]
    return _compare_in_blocks(codes, cells, where, draws, numeric=before.numeric)


def _coded(values: list[Array], numeric: bool, most: int) -> tuple[list[Array], int]:
    """Values of both windows as numbers of cells, from 0; how many cells. most: bins of numbers at most, 0 for all."""
    pooled = np.concatenate(values)
    levels = np.unique(pooled if numeric else pooled.astype(str))
    if numeric and most and len(levels) > most:
        edges = np.unique(np.quantile(pooled, np.linspace(0, 1, most + 1)[1:-1], method="lower"))
        return [np.searchsorted(edges, each) for each in values], len(edges) + 1
    return [np.searchsorted(levels, each if numeric else each.astype(str)) for each in values], len(levels)


def _compare_in_blocks(
    codes: list[Array], cells: int, blocks: list[Array], draws: BlockDraws, *, numeric: bool
) -> DriftTest:
    counts = [
        np.bincount(block * cells + code, minlength=number * cells).reshape(number, cells).astype(np.float32)
        for code, block, number in zip(codes, blocks, (draws.reference, draws.current), strict=True)
    ]
    # Numbers are counted in their bin or in a lower one: what distances are made of, and what neighbouring days have in
    # common, which single bins hardly show.
    together = np.concatenate(counts)
    in_cells = np.cumsum(together, axis=1)[:, :-1] if numeric else together
    table = BlockTable(in_cells, together.sum(axis=1), draws.reference)
    totals = table.cells[: table.reference].sum(axis=0), table.cells[table.reference :].sum(axis=0)
    rows = [float(table.sizes[: table.reference].sum()), float(table.sizes[table.reference :].sum())]
    before, after = (total / of for total, of in zip(totals, rows, strict=True))
    if numeric:
        tested = compare_blocks(table, kolmogorov_smirnov, draws)
        # Where the reference's distribution function lies above, the current values are larger.
        direction = int(np.sign((before - after)[np.abs(before - after).argmax()]))
        return DriftTest("ks-blocks", tested.statistic, tested.p_value, tested.statistic, direction)
    tested = compare_blocks(table, root_chi_square((totals[0] + totals[1]) / sum(rows)), draws)
    chi_square = tested.statistic**2 * rows[0] * rows[1] / sum(rows)
    effect = float(np.abs(after - before).sum() / 2)
    return DriftTest("chi-square-blocks", chi_square, tested.p_value, effect)


Fault = Literal["missing", "unseen", "outside", "duplicate"]

_TRUTH_VALUES = ("false", "true")  # as `observed` names them
_TOLD = {
    "missing": "{column}: a value is missing",
    "unseen": "{column}: a label that was never seen",
    "outside": "{column}: a number outside of the reference's range",
    "duplicate": "a row repeats another",
}


@dataclass(frozen=True, slots=True)
class QualityFinding:
    """One fault of one column; column: empty for duplicates.

    share, reference_share: of the rows. allowed: the share that may be; None: told, but never an alarm. lower_bound:
    of the true share, at confidence 1 - half of the check's level.
    """

    column: str
    fault: Fault
    rows: int
    share: float
    reference_share: float
    allowed: float | None
    lower_bound: float
    broken: bool

    @property
    def why(self) -> str:
        """The finding in a sentence."""
        allowed = "" if self.allowed is None else f"; {self.allowed:.1%} may be"
        return (
            f"{_TOLD[self.fault].format(column=self.column)} in {self.rows} rows ({self.share:.1%}), surely more than "
            f"{self.lower_bound:.1%} of all; in the reference {self.reference_share:.1%}{allowed}"
        )


@dataclass(frozen=True, slots=True)
class Quality:
    """findings: every fault that the window or the reference has. outside_rows: share of the window's rows with any
    value that the reference does not cover."""

    findings: tuple[QualityFinding, ...]
    outside_rows: float

    def share(self, fault: Fault, column: str = "") -> float:
        """Of the window's rows; 0 where there is no such fault."""
        return next((each.share for each in self.findings if (each.fault, each.column) == (fault, column)), 0.0)

    @property
    def broken(self) -> tuple[QualityFinding, ...]:
        return tuple(each for each in self.findings if each.broken)

    def to_json(self) -> dict[str, Any]:
        """`missing`, `unseen`, `outside`: column → share of rows; `duplicates`, `outside_rows`: shares of rows."""
        shares: dict[str, dict[str, float]] = {"missing": {}, "unseen": {}, "outside": {}}
        for each in self.findings:
            if each.fault in shares:
                shares[each.fault][each.column] = each.share
        return {
            **shares,
            "duplicates": self.share("duplicate"),
            "outside_rows": self.outside_rows,
            "findings": [asdict(each) for each in self.findings],
        }


def quality_of(
    reference: ObservedRows, current: ObservedRows, schema: RowSchema, settings: TabularSettings, alpha: float
) -> Quality:
    """Every fault of the window. alpha: error rate of all checks together."""
    faults = list(_faults(reference, current, schema))
    allowed = {
        "missing": settings.missing_at_most,
        "unseen": settings.unseen_at_most,
        "outside": settings.outside_at_most,
        "duplicate": settings.duplicates_at_most,
    }
    outside = np.zeros(current.rows, dtype=bool)
    for _, fault, _, hits in faults:
        if fault in ("unseen", "outside"):
            outside |= hits
    checks = sum(allowed[fault] is not None for _, fault, _, _ in faults)
    findings = [
        _check(column, fault, (before, reference), (after, current), allowed[fault], alpha / max(checks, 1))
        for column, fault, before, after in faults
        if before.any() or after.any()
    ]
    return Quality(tuple(findings), float(outside.mean()) if current.rows else 0.0)


def _faults(
    reference: ObservedRows, current: ObservedRows, schema: RowSchema
) -> Iterator[tuple[str, Fault, Array, Array]]:
    """Column, fault, and which rows of the reference and of the window have it; one for each check that is made."""
    columns = {name: (values, current.inputs[name]) for name, values in reference.inputs.items()}
    for name, (before, after) in [*columns.items(), (PREDICTION, (reference.prediction, current.prediction))]:
        yield name, "missing", ~before.present, ~after.present
    categories = {
        column.name: _TRUTH_VALUES if column.kind == "boolean" else column.categories for column in schema.inputs
    }
    for name, (before, after) in columns.items():
        nowhere = np.zeros(reference.rows, dtype=bool)
        if before.numeric:
            there = before.data[before.present]
            low, high = (there.min(), there.max()) if len(there) else (-np.inf, np.inf)
            yield name, "outside", nowhere, (after.data < low) | (after.data > high)
        else:
            known = {*before.data[before.present], *categories[name]}
            unseen = [value is not None and value not in known for value in after.data]
            yield name, "unseen", nowhere, np.array(unseen, dtype=bool)
    yield "", "duplicate", reference.duplicates, current.duplicates


def _check(
    column: str,
    fault: Fault,
    before: tuple[Array, ObservedRows],
    after: tuple[Array, ObservedRows],
    allowed: float | None,
    alpha: float,
) -> QualityFinding:
    hits_before, hits = before[0], after[0]
    correlation, tables = 0.0, []
    for found, observed in (before, after):
        if observed.block is not None:
            cells = block_sums(observed.block, observed.blocks, found[:, None].astype(float))
            tables.append((cells, np.bincount(observed.block, minlength=observed.blocks).astype(float)))
    if tables:
        cells, sizes = (np.concatenate(part) for part in zip(*tables, strict=True))
        correlation = neighbour_correlation(BlockTable(cells, sizes, len(tables[0][1])))
    rows, rows_before = (_worth(*each, correlation) for each in (after, before))
    share, share_before = (float(each.mean()) if len(each) else 0.0 for each in (hits, hits_before))
    bound = lower_bound(math.floor(share * rows), math.ceil(rows), alpha / 2) if rows else 0.0
    # The upper bound of the reference's share: of those without the fault, the lower bound.
    usual = 1 - lower_bound(math.floor((1 - share_before) * rows_before), math.ceil(rows_before), alpha / 2)
    limit = None if allowed is None else max(allowed, usual if hits_before.any() else 0.0)
    return QualityFinding(
        column, fault, int(hits.sum()), share, share_before, limit, bound, limit is not None and bound > limit
    )


def _worth(hits: Array, observed: ObservedRows, correlation: float) -> float:
    """How many independent rows tell as much of the share as these do."""
    if observed.block is None or not hits.any():
        return float(len(hits))
    sums, sizes = cluster_sums(hits.astype(float), observed.block.tolist())
    share = widened(estimate_mean(sums, sizes), correlation, len(sums))
    return independent_rows(share, sizes, share.mean * (1 - share.mean))
