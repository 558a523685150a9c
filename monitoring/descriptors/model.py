"""What a descriptor is, how its values are computed, and what describing records gives.

Whatever the rows hold, a row that cannot be described fails alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from llmops.errors import CannotRun, first_line
from llmops.production_log import SHADOW, LogRecord
from llmops.settings import Settings
from monitoring.tables import ConfigTable

if TYPE_CHECKING:
    import numpy as np

Item = TypeVar("Item")
Kind = Literal["numeric", "flag", "label"]
Side = Literal["input", "output", "service"]
Value = float | bool | str | None


@dataclass(frozen=True, slots=True)
class Descriptor:
    """One number, flag or label of a request.

    side: where a change comes from: what users ask, what the model answers, or how the service runs.
    harmful: a flag whose rise is bad; it is tested for a rise only. unit: shown after its value, may be empty.
    version: 16 hex digits over all that decides its values; values of another version are not comparable.
    sampled: share of requests that have a value, chosen by the record's key.
    """

    name: str
    kind: Kind
    side: Side
    harmful: bool = False
    unit: str = ""
    version: str = ""
    sampled: float = 1.0


@dataclass(frozen=True, slots=True)
class Described:
    """The values of some records, in their order.

    columns: descriptor name → numbers and flags as float32 with NaN for none, labels as objects with None.
    failures: descriptor name → rows that it should have had a value for and could not compute; absent when none.
    reasons: why the first of them failed.
    """

    columns: Mapping[str, np.ndarray[Any, Any]]
    failures: Mapping[str, int]
    reasons: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))


def is_answered(record: LogRecord) -> bool:
    """Whether the answer is whole, returned or in the shadow: only then has its text anything to say."""
    return record.outcome in ("ok", SHADOW) and record.status < 400


def is_sampled(key: str, share: float) -> bool:
    """Whether a record is in the sample: the same ones each time and for every descriptor of that share or more."""
    number = int.from_bytes(hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=8).digest())
    return number < share * 2**64


_Derived = TypeVar("_Derived")


class Texts(list[str]):
    """Texts to describe; never None. refused: which of them are answers that a model declined in its own field for it,
    whatever their text; None for none."""

    def __init__(self, texts: Sequence[str], refused: Sequence[bool] | None = None) -> None:
        super().__init__(texts)
        self.refused = [False] * len(self) if refused is None else list(refused)
        self._derived: dict[Callable[[Texts], Any], Any] = {}

    def derived(self, make: Callable[[Texts], _Derived]) -> _Derived:
        """What `make` says of these texts; asked once, then kept as long as the batch."""
        if make not in self._derived:
            self._derived[make] = make(self)
        kept: _Derived = self._derived[make]
        return kept

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        return Texts(found, self.refused[place]) if isinstance(place, slice) else found


Known = TypeVar("Known")


class Memo(dict[str, Known]):
    """What a function says of each word: asked once, then kept, until there are `most` of them."""

    def __init__(self, ask: Callable[[str], Known], most: int = 200_000) -> None:
        super().__init__()
        self._ask, self._most = ask, most

    def __missing__(self, word: str) -> Known:
        if len(self) >= self._most:
            self.clear()
        known = self[word] = self._ask(word)
        return known


Compute = Callable[[Any], Sequence[Any]]
"""From what a descriptor reads (`Texts`, or a list of log records) to a value, None or `Failed` for each."""


@dataclass(frozen=True, slots=True)
class Failed:
    """In place of a value: it could not be computed, and why."""

    reason: str

    @classmethod
    def of(cls, error: BaseException) -> Failed:
        said = first_line(error) if str(error).strip() else "(no message)"
        return cls(f"{type(error).__name__}: {said[:200]}")


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
        labels[np.asarray(positions, dtype=np.intp)] = _checked(values, _text, failed)
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


Of = Literal["input", "output", "pair", "record"]
"""What a descriptor reads: a text of the request, both of an answered one (as its record), or any record."""

TEXTS: tuple[Of, ...] = ("input", "output")


@dataclass(frozen=True, slots=True)
class DescriptorKind:
    """A kind that can be declared.

    value: what its values are. make: reads the kind's parameters from the table and gives the computation.
    revision: raised by hand when its code, or the library it calls, changes what it returns. of: what it can read; the
    only one need not be declared. side, harmful, unit: what the file may override. sorts: it is declared once and
    gives one descriptor for each of these.
    """

    value: Kind
    make: Callable[[ConfigTable, Settings], Computation]
    revision: int = 1
    of: tuple[Of, ...] = TEXTS
    side: Side | None = None
    harmful: bool = False
    unit: str = ""
    sorts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Declared:
    """A descriptor, what it reads and how its values are computed."""

    descriptor: Descriptor
    of: Of
    compute: Compute


def _text(value: Any) -> Any:
    return value if isinstance(value, str) else Failed(f"TypeError: not a text but {type(value).__name__}")


def in_parts(items: Sequence[Item], characters: Callable[[Item], int], *, rows: int, most: int) -> Iterator[list[Item]]:
    """Some items at a time: no more than `rows`, nor, but for a single one, than `most` characters."""
    part: list[Item] = []
    held = 0
    for item in items:
        size = characters(item)
        if part and (len(part) >= rows or held + size > most):
            yield part
            part, held = [], 0
        part.append(item)
        held += size
    if part:
        yield part
