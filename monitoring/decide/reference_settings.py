"""What the configuration says of references."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from llmops.errors import UsageError

AtPromotion = Literal["gate", "first-window", "previous-window"]


@dataclass(frozen=True, slots=True)
class ReferenceSettings:
    """at_promotion: what becomes the reference when a release is promoted; see `references`.

    first_window_rows: so many rows of the promoted release are gathered before a first window is pinned.
    """

    at_promotion: AtPromotion = "first-window"
    first_window_rows: int = 200

    def __post_init__(self) -> None:
        if self.at_promotion not in get_args(AtPromotion):
            raise UsageError(f"at_promotion must be {' or '.join(get_args(AtPromotion))}, not {self.at_promotion!r}")
        if self.first_window_rows < 1:
            raise UsageError(f"first_window_rows must be above 0, not {self.first_window_rows}")
