"""The texts of one side of a batch, with what several descriptors need of them computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, overload

_Derived = TypeVar("_Derived")


class Texts(Sequence[str]):
    """Texts to describe; never None. refused: which of them are answers that a model declined in its own field for it,
    whatever their text; None for none."""

    def __init__(self, texts: Sequence[str], refused: Sequence[bool] | None = None) -> None:
        self._texts = list(texts)
        self.refused = [False] * len(self._texts) if refused is None else list(refused)
        self._derived: dict[Callable[[Texts], Any], Any] = {}

    def derived(self, make: Callable[[Texts], _Derived]) -> _Derived:
        """What `make` says of these texts; asked once, then kept as long as the batch."""
        if make not in self._derived:
            self._derived[make] = make(self)
        kept: _Derived = self._derived[make]
        return kept

    def __len__(self) -> int:
        return len(self._texts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Texts: ...
    def __getitem__(self, place: int | slice) -> str | Texts:
        return Texts(self._texts[place], self.refused[place]) if isinstance(place, slice) else self._texts[place]
