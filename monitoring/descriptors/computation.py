"""Computing one column of values, whatever the rows hold: a row that cannot be described fails alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmops.errors import CannotRun
from monitoring.descriptors.model import Kind

if TYPE_CHECKING:
    import numpy as np

Compute = Callable[[Any], Sequence[Any]]
"""From what a descriptor reads (`Texts`, or a list of log records) to a value, None or `Failed` for each."""


@dataclass(frozen=True, slots=True)
class Failed:
    """In place of a value: it could not be computed, and why."""

    reason: str

    @classmethod
    def of(cls, error: BaseException) -> Failed:
        first = (str(error).strip() or "(no message)").splitlines()[0]
        return cls(f"{type(error).__name__}: {first[:200]}")


@dataclass(frozen=True, slots=True)
class Computation:
    """How a declared descriptor gets its values.

    identity: what decides the values beside the parameters in the file, such as the words of a list that was read.
    value: its kind, where the parameters decide it; None means as the declared kind says.
    """

    compute: Compute
    identity: Mapping[str, Any] = field(default_factory=dict)
    value: Kind | None = None


def each(function: Callable[[Any], Any]) -> Compute:
    """The computation that calls `function` for each item."""
    return lambda items: [function(item) for item in items]


def compute_safely(compute: Compute, items: Sequence[Any]) -> Sequence[Any]:
    """A value, None or `Failed` for each item. Raises CannotRun: what the descriptor needs is not there for any row.

    When a batch raises it is halved until the rows at fault stand alone, so that whole-column functions need not know
    of single rows, and a good batch costs nothing more.
    """
    if not len(items):
        return []
    try:
        values = compute(items)
        if len(values) != len(items):
            raise ValueError(f"{len(values)} values for {len(items)} rows")
        return values
    except CannotRun:
        raise
    except Exception as error:  # noqa: BLE001 - a team's own function may raise anything; it is counted and shown
        if len(items) == 1:
            return [Failed.of(error)]
        middle = len(items) // 2
        return [*compute_safely(compute, items[:middle]), *compute_safely(compute, items[middle:])]


def as_column(
    values: Sequence[Any], positions: Sequence[int], rows: int, kind: Kind
) -> tuple[np.ndarray[Any, Any], list[Failed]]:
    """The column of all rows from the values of some, and what failed. A value of the wrong type is a failure."""
    import numpy as np

    failed: list[Failed] = []
    if kind == "label":
        labels = np.full(rows, None, dtype=object)
        labels[np.asarray(positions, dtype=np.intp)] = _checked(values, _label, failed)
        return labels, failed
    numbers = np.full(rows, np.nan, dtype=np.float32)
    if getattr(values, "dtype", np.dtype(object)).kind not in "bif":
        values = _checked(values, _number, failed)
    with np.errstate(over="ignore"):  # beyond float32 means infinite, which is a failure
        given = np.asarray(values, dtype=np.float32)
    endless = np.isinf(given)
    if endless.any():
        given = np.where(endless, np.float32("nan"), given)
        failed += [Failed("ValueError: not a finite number")] * int(endless.sum())
    numbers[np.asarray(positions, dtype=np.intp)] = given
    return numbers, failed


def _checked(values: Sequence[Any], check: Callable[[Any], Any], failed: list[Failed]) -> Any:
    import numpy as np

    checked = np.empty(len(values), dtype=object)
    for place, value in enumerate(values):
        result = None if value is None else value if type(value) is Failed else check(value)
        if type(result) is Failed:
            failed.append(result)
            result = None
        checked[place] = result
    return checked


def _number(value: Any) -> Any:
    if isinstance(value, (int, float)) or hasattr(value, "__float__"):
        try:
            return float(value)
        except (OverflowError, ValueError, TypeError) as error:
            return Failed.of(error)
    return Failed(f"TypeError: not a number but {type(value).__name__}")


def _label(value: Any) -> Any:
    return value if isinstance(value, str) else Failed(f"TypeError: not a text but {type(value).__name__}")
