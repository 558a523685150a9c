"""Whether the rows are still in order: values missing, out of the reference's range, labels never seen, rows repeated.

A limit is broken when the rows prove it: when the exact lower bound (Clopper & Pearson 1934) of the true share is above
both what is allowed and the upper bound of the reference's own share. Rows of a block fail together (a sensor is down
for a day), so shares are taken of as many rows as are worth independent ones (Korn & Graubard 1998).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llmops.evaluation.statistics import cluster_sums, estimate_mean, independent_rows
from monitoring.decide.limits import lower_bound
from monitoring.tabular.loss import widened
from monitoring.tabular.observed import PREDICTION, Array, ObservedRows
from monitoring.tabular.permutation import BlockTable, block_sums, neighbour_correlation

if TYPE_CHECKING:
    from llmops.tabular.schema import RowSchema
    from monitoring.tabular.settings import TabularSettings

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
    found = widened(estimate_mean(sums, sizes), correlation, len(sums))
    return independent_rows(found, sizes, found.mean * (1 - found.mean))
