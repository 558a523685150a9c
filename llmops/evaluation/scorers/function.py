"""Own scorers that are plain functions: `@scorer`."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, overload

from llmops.errors import UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score
from llmops.hashing import content_hash, source_of

FUNCTION = "python"
"""The type of such a scorer, where a suite's others have theirs."""

_ARGUMENTS: Mapping[str, Callable[[EvalRow, Output], Any]] = {
    "inputs": lambda row, _: dict(row.inputs),
    "expected": lambda row, _: dict(row.expectations),
    "answer": lambda _, output: output.text,
    "contexts": lambda row, _: list(row.contexts),
    "tags": lambda row, _: dict(row.tags),
}


@dataclass(frozen=True)
class FunctionScorer:
    """A function as a scorer; it can still be called. Its identity is its name, its source and its version: two that
    differ in one of them are two scorers, whose scores are not compared."""

    name: str
    function: Callable[..., bool | float | None] = field(repr=False)
    version: str | None = None
    higher_is_better: bool | None = True
    worst: float | None = 0.0
    limits: tuple[float, float] = (0.0, 1.0)

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"source": content_hash(source_of(self.function)), "version": self.version}

    def score(self, row: EvalRow, output: Output) -> Score:
        """None is no score; the row then counts as one without."""
        wanted = inspect.signature(self.function).parameters
        value: Any = self.function(**{name: _ARGUMENTS[name](row, output) for name in wanted})
        if value is None:
            return Score(error="the scorer gave no score")
        if not isinstance(value, (bool, int, float)):
            value = value.item() if hasattr(value, "item") else value  # a number of NumPy's
        if not isinstance(value, (bool, int, float)):
            return Score(error=f"the scorer gave {value!r}, which is neither a truth value nor a number")
        if not self.limits[0] <= value <= self.limits[1]:
            return Score(error=f"the scorer gave {value:g}, which is not within its limits, {self.limits}")
        return Score(value)

    def __call__(self, *arguments: Any, **named: Any) -> bool | float | None:
        return self.function(*arguments, **named)


@overload
def scorer(function: Callable[..., bool | float | None], /) -> FunctionScorer: ...


@overload
def scorer(
    *,
    name: str | None = None,
    version: str | None = None,
    higher_is_better: bool | None = True,
    limits: tuple[float, float] = (0.0, 1.0),
) -> Callable[[Callable[..., bool | float | None]], FunctionScorer]: ...


def scorer(
    function: Callable[..., bool | float | None] | None = None,
    /,
    *,
    name: str | None = None,
    version: str | None = None,
    higher_is_better: bool | None = True,
    limits: tuple[float, float] = (0.0, 1.0),
) -> Any:
    """Makes a scorer of a function of some of `inputs`, `expected`, `answer`, `contexts` and `tags`, which returns a
    truth value, a number, or None for no score.

    Args:
        function: the function, where the decorator stands without brackets.
        name: of the metric; by default the function's.
        version: of what the function calls, which its source does not show. Change it when that changes.
        higher_is_better: None when neither direction is better.
        limits: the least and the greatest value, which may be infinite. A row without a score counts as the worse one
            in comparisons, where it is finite.

    Raises UsageError: an argument is none of those.
    """
    if function is None:
        return partial(scorer, name=name, version=version, higher_is_better=higher_is_better, limits=limits)
    name = name or str(getattr(function, "__name__", type(function).__name__))
    if unknown := [each for each in inspect.signature(function).parameters if each not in _ARGUMENTS]:
        raise UsageError(f"scorer {name}: unknown argument {unknown[0]}; there are {', '.join(_ARGUMENTS)}")
    low, high = limits
    worst = None if higher_is_better is None else low if higher_is_better else high
    if worst is not None and math.isinf(worst):
        worst = None
    return FunctionScorer(name, function, version, higher_is_better, worst, limits)
