"""What one run is to do: which window is compared with what, and whether a reference is being gathered meanwhile."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import UTC, datetime

from monitoring.decide.pinned_summaries import PinnedSummaries
from monitoring.decide.pooled import Pool, pool_of
from monitoring.decide.reference_progress import ReferenceProgress, reference_progress
from monitoring.decide.references import Awaited
from monitoring.decide.window_choice import WindowPair, choose_windows
from monitoring.examination import Question
from monitoring.stores import Stores


@dataclass(frozen=True, slots=True)
class Prepared:
    """What one run is to do. gathering: the reference that is being gathered, of whose rows this window may be."""

    question: Question
    gathering: ReferenceProgress | None = None

    @property
    def pair(self) -> WindowPair:
        return self.question.pair


def prepare(
    stores: Stores,
    app: str,
    since: datetime | None,
    until: datetime | None,
    champion: str | None,
    *,
    scheduled: bool = False,
) -> Prepared:
    """Chooses windows and reference; writes nothing. Arguments and errors as `run.run_monitor`."""
    beside = None if since is None else (since, until or datetime.now(UTC))
    pinned = stores.references.pinned(app, champion, beside=beside)
    awaited = stores.references.awaited(app, champion)
    pair = choose_windows(stores.log, pinned, awaited, app, since, until)
    if scheduled and pinned is None and pair.reference is not None:
        return _of_unchosen(stores, app, awaited, pair)
    if awaited is None or _chosen_since(awaited, pair):
        return Prepared(Question(app, pair, _frozen(stores, app, pair)))
    return _of_awaited(stores, app, awaited, pair)


def _chosen_since(awaited: Awaited, pair: WindowPair) -> bool:
    """Whether somebody chose the reference with --since after the promotion: then no first window is awaited."""
    if pair.pinned is None:
        return pair.reference is not None
    return pair.pinned.source == "first-since" and pair.pinned.pinned_at >= awaited.since


def _of_unchosen(stores: Stores, app: str, awaited: Awaited | None, pair: WindowPair) -> Prepared:
    """A schedule's window with nothing pinned: rows before it are no reference while a release's first window is
    awaited, or while there are too few of them."""
    alone = dataclasses.replace(pair, reference=None)
    if awaited is not None:
        return _of_awaited(stores, app, awaited, alone)
    frozen, needed = _frozen(stores, app, pair), _needed(stores)
    if pair.reference is None or frozen.whole.rows >= needed:
        return Prepared(Question(app, pair, frozen))
    window = pair.reference
    return Prepared(
        Question(app, alone, PinnedSummaries({})),
        ReferenceProgress(None, window.since, window.until, frozen.whole.rows, needed),
    )


def _of_awaited(stores: Stores, app: str, awaited: Awaited, pair: WindowPair) -> Prepared:
    gathering = reference_progress(stores.reader, stores.references, app, awaited, pair.current.until, _needed(stores))
    first = awaited.release if _answers_enough(stores, app, awaited, pair) else None
    return Prepared(Question(app, pair, _frozen(stores, app, pair), first), gathering)


def _needed(stores: Stores) -> int:
    return max(stores.config.reference.first_window_rows, stores.config.rules.minimum_rows)


def _answers_enough(stores: Stores, app: str, awaited: Awaited, pair: WindowPair) -> bool:
    """Whether the promoted release has so many rows in the window that it is to be judged as a new one."""
    start, end = max(pair.current.since, awaited.since), pair.current.until
    if start >= end:
        return False
    found = stores.reader.summary(app, start, end, "release").get(awaited.release)
    return found is not None and found.rows >= stores.config.rules.minimum_rows


def _frozen(stores: Stores, app: str, pair: WindowPair) -> PinnedSummaries:
    if pair.reference is None:
        return PinnedSummaries({})
    if pair.pinned is not None and pair.whole and (stored := stores.references.frozen(pair.pinned)) is not None:
        return stored
    release = pair.pinned.release if pair.pinned is not None else None
    return stores.freeze(app, pair.reference.since, pair.reference.until, release)


def pool_with(stores: Stores, prepared: Prepared) -> Pool | None:
    """The windows that this one is to be looked at with; None for none. Raises StoreUnavailable."""
    app, pinned, window = prepared.question.app, prepared.pair.pinned, prepared.pair.current
    if pinned is None or not prepared.pair.whole or window.since <= pinned.counts_from:
        return None
    rejected = stores.references.last_rejected(app, pinned.counts_from, window.since)
    pins = stores.references.pins_before(pinned)
    return pool_of(window.since, window.until, pinned.counts_from, rejected, pins)
