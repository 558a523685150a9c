"""Which rows show, choose and judge: each group of rows that belong together goes to one part."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmops.errors import CannotRun
from llmops.evaluation.contamination import row_groups
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.eval_set_check import question_hash
from llmops.hashing import JsonData

FEWEST_HELD_OUT = 20
"""Rows; of fewer, no gate that asks for "not worse" says anything."""
FEWEST_SELECTION = 8
_SHARES = {"demonstrations": 0.2, "selection": 0.35, "held_out": 0.45}
_SHARES_BESIDE_POOL = {"demonstrations": 0.0, "selection": 0.5, "held_out": 0.5}


@dataclass(frozen=True, slots=True)
class RowSplit(JsonData):
    """Ids of a suite's rows by what they are used for. held_out_keys, used_keys: by what held-out rows, and all others,
    are known again, whatever their ids: hashes of what they ask."""

    demonstrations: tuple[str, ...]
    selection: tuple[str, ...]
    held_out: tuple[str, ...]
    held_out_keys: tuple[str, ...]
    used_keys: tuple[str, ...]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RowSplit:
        """Reads what `to_json` gave."""
        return cls(**{name: tuple(ids) for name, ids in values.items()})

    def part(self, name: str, rows: Iterable[EvalRow]) -> list[EvalRow]:
        """The rows of `demonstrations`, `selection` or `held_out`, in the order of the split."""
        by_id = {row.id: row for row in rows}
        return [by_id[row_id] for row_id in getattr(self, name)]


def split_rows(
    rows: Sequence[EvalRow], *, seed: int, cluster_by: str | None = None, read: Collection[str] = (), pool: bool = False
) -> RowSplit:
    """Parts the rows by chance, but the same for one seed, in groups as `row_groups` makes them. A group is taken by
    the part that lacks most.

    seed: of the draw.
    cluster_by: as the suite has it.
    read: keys of rows that were held out before, and have been read: no group with one of them is held out again.
    pool: demonstrations come from elsewhere, so that no row is needed for them.

    Raises CannotRun: too few rows are left to choose by, or to judge by.
    """
    groups = [[rows[position] for position in group] for group in row_groups(rows, cluster_by)]
    known = {id(group): any(question_hash(row) in read for row in group) for group in groups}
    # Groups that were read come first: they fill the other parts, and leave the rest to be held out.
    groups.sort(key=lambda group: (not known[id(group)], _draw(seed, group)))
    shares = _SHARES_BESIDE_POOL if pool else _SHARES
    parts: dict[str, list[EvalRow]] = {name: [] for name in shares}
    for group in groups:
        allowed = [name for name in shares if shares[name] and not (known[id(group)] and name == "held_out")]
        lacking = max(allowed, key=lambda name: shares[name] * len(rows) - len(parts[name]))
        parts[lacking] += group
    _check(parts, sum(len(group) for group in groups if known[id(group)]), len(rows))
    ids = {name: tuple(row.id for row in part) for name, part in parts.items()}
    used = [*parts["demonstrations"], *parts["selection"]]
    keys = {"held_out_keys": parts["held_out"], "used_keys": used}
    return RowSplit(**ids, **{name: tuple(map(question_hash, some)) for name, some in keys.items()})


def _draw(seed: int, group: Sequence[EvalRow]) -> str:
    """Where a group stands in the order, whatever its rows are called."""
    return hashlib.sha256(f"{seed}|{min(map(question_hash, group))}".encode()).hexdigest()


def _check(parts: Mapping[str, Sequence[EvalRow]], n_read: int, n_rows: int) -> None:
    short = FEWEST_HELD_OUT - len(parts["held_out"])
    if short > 0 and n_read:
        raise CannotRun(
            f"held-out rows are read once, and {n_read} of {n_rows} rows (with their clusters and near-duplicates) have"
            f" been: of the others {len(parts['held_out'])} are left to judge by, it takes {FEWEST_HELD_OUT}."
            f" Add {short} new rows or more to the suite's eval set"
        )
    if short > 0:
        raise CannotRun(
            f"{len(parts['held_out'])} of {n_rows} rows would be held out, it takes {FEWEST_HELD_OUT}: add rows to the"
            " suite's eval set (rows of one cluster, and near-duplicates, stay together)"
        )
    if len(parts["selection"]) < FEWEST_SELECTION:
        raise CannotRun(f"{len(parts['selection'])} rows are left to choose by, it takes {FEWEST_SELECTION}")
