"""Pins references: by hand, and at a promotion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from llmops.errors import CannotRun
from llmops.production_log import LogRecord
from llmops.settings import Settings
from monitoring.config import MonitorConfig
from monitoring.decide.pinned_summaries import PinnedSummaries, freeze_records
from monitoring.decide.references import Awaited, PinnedReference
from monitoring.stores import opened

GateAnswers = Callable[[], Sequence[LogRecord]]
"""Gives the answers that the gate saw, as records; what needs the registry is handed in by the CLI."""

_MOMENT = timedelta(milliseconds=1)


def pin_reference(
    settings: Settings,
    app: str,
    since: datetime,
    until: datetime,
    why: str,
    *,
    release: str | None = None,
    config: MonitorConfig | None = None,
) -> PinnedReference:
    """Makes a window the app's reference from now on, with its summaries. release: only its rows, and only while it
    is the champion.

    Raises UsageError, StoreUnavailable; CannotRun when the window has no rows.
    """
    with opened(settings, config) as stores:
        stores.ingest()
        frozen = stores.freeze(app, since, until, release)
        if since < until and not frozen.whole.rows:
            whose = f"release {release}" if release else f"app {app}"
            raise CannotRun(
                f"no rows of {whose} from {since.isoformat()} to {until.isoformat()}: nothing to compare with"
            )
        return stores.references.pin(app, since, until, why, release=release, frozen=frozen)


def pin_at_promotion(
    settings: Settings,
    release: str,
    previous: str | None,
    gate_answers: GateAnswers,
    *,
    at: datetime | None = None,
    config: MonitorConfig | None = None,
) -> PinnedReference | Awaited:
    """What a promotion does to the app's reference, as the configuration's `reference.at_promotion` says.

    release, previous: the new champion and the old one. gate_answers: called for `gate` only. at: when it was
    promoted; now when None. Where `gate` has no answers, or `previous-window` no accepted window, the first window is
    awaited. Raises BadFile, StoreUnavailable, and what `gate_answers` raises.
    """
    app, at = release.partition("@")[0], at or datetime.now(UTC)
    with opened(settings, config) as stores:
        kind, references = stores.config.reference.at_promotion, stores.references
        if kind == "gate" and (answers := gate_answers()):
            frozen = freeze_records(stores.config.descriptors, answers)
            moments = [record.at for record in answers]
            since, until, why = min(moments), max(moments) + _MOMENT, f"what the gate saw of {release}"
            return references.pin(app, since, until, why, source="gate", release=release, frozen=frozen)
        last = references.last_accepted(app, previous) if kind == "previous-window" else None
        if last is not None:
            stores.ingest()
            frozen = stores.freeze(app, last.since, last.until, None)
            why = f"last accepted window before {release}"
            return references.pin(
                app, last.since, last.until, why, source="previous-window", release=release, frozen=frozen
            )
        references.await_first_window(app, release, at)
        return Awaited(release, at)


def list_references(settings: Settings, app: str | None = None) -> list[PinnedReference]:
    """Every reference ever pinned, of the app or of all, the newest first. Raises StoreUnavailable."""
    with opened(settings) as stores:
        return stores.references.all(app)


def reference_in_force(
    settings: Settings, app: str, champion: str | None = None
) -> tuple[PinnedReference | None, PinnedSummaries | None, Awaited | None]:
    """The app's reference, what it was like, and the release whose first window is awaited. Raises StoreUnavailable."""
    with opened(settings) as stores:
        pinned = stores.references.pinned(app, champion)
        frozen = stores.references.frozen(pinned) if pinned is not None else None
        return pinned, frozen, stores.references.awaited(app, champion)
