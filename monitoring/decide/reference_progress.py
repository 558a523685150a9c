"""A reference that is being gathered: the rows of a release from its promotion on, until there are enough of them.

Few rows see little: against 25 of them refusals must rise to half before anything is proved. So a first window is not
pinned before the promoted release has given `first_window_rows` answers. A window that alarmed is no part of it, nor
is what lies before that window's end.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from monitoring.decide.references import Awaited, References

if TYPE_CHECKING:
    from monitoring.decide.pinned_summaries import Windows


@dataclass(frozen=True, slots=True)
class ReferenceProgress:
    """How far a reference has come. release: whose rows count; None for all rows of the app. since, until: where they
    lie. rows: so many there are; needed: so many it takes."""

    release: str | None
    since: datetime
    until: datetime
    rows: int
    needed: int

    @property
    def complete(self) -> bool:
        return self.rows >= self.needed

    @property
    def note(self) -> str:
        """Empty when it is complete."""
        return "" if self.complete else f"reference is being gathered: {self.rows} of {self.needed} rows"

    def to_json(self) -> dict[str, Any]:
        return {
            "release": self.release,
            "since": self.since.isoformat(),
            "rows": self.rows,
            "needed": self.needed,
        }


def reference_progress(
    reader: Windows, references: References, app: str, awaited: Awaited, until: datetime, needed: int
) -> ReferenceProgress | None:
    """What there is of an awaited reference up to `until`; None when that lies before the promotion.

    Raises StoreUnavailable.
    """
    if until <= awaited.since:
        return None
    since = references.last_rejected(app, awaited.since, until) or awaited.since
    found = reader.summary(app, since, until, "release").get(awaited.release) if since < until else None
    return ReferenceProgress(awaited.release, since, until, found.rows if found else 0, needed)
