"""What the configuration says of references."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from llmops.errors import UsageError

AtPromotion = Literal["gate", "first-window", "previous-window"]


@dataclass(frozen=True, slots=True)
class ReferenceSettings:
    """at_promotion: what becomes the reference when a release is promoted; see `references`."""

    at_promotion: AtPromotion = "first-window"

    def __post_init__(self) -> None:
        if self.at_promotion not in get_args(AtPromotion):
            raise UsageError(f"at_promotion must be {' or '.join(get_args(AtPromotion))}, not {self.at_promotion!r}")
