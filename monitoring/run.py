"""Runs the monitor once: describe what is new, choose windows, test, say what to look at. Start reading here."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from llmops.errors import CannotRun
from llmops.production_log import ProductionLog
from llmops.settings import Settings
from monitoring.decide.detector_store import DetectorStore
from monitoring.decide.pinned_summaries import PinnedSummaries, comparable
from monitoring.decide.pooled import Pool, pool_of
from monitoring.decide.references import AcceptedWindow, Awaited
from monitoring.decide.replay import RESAMPLED_MONTHS, Replay, ReplayRequest, replay
from monitoring.decide.result import MonitorResult
from monitoring.decide.watch import FlagFinding, watch_flags
from monitoring.decide.window_choice import ReferenceProgress, WindowPair, choose_windows, reference_progress
from monitoring.examination import Question, examine
from monitoring.store.database import apps_in_log, open_database
from monitoring.store.ingest import Ingested
from monitoring.stores import Progress, Stores, opened

if TYPE_CHECKING:
    from monitoring.config import MonitorConfig
    from monitoring.decide.rules import DriftRules

FIRST_SINCE = "rows before the first --since"


def run_monitor(
    settings: Settings,
    app: str,
    since: datetime | None = None,
    until: datetime | None = None,
    rules: DriftRules | None = None,
    progress: Progress | None = None,
    *,
    config: MonitorConfig | None = None,
    champion: str | None = None,
    scheduled: bool = False,
) -> MonitorResult:
    """Tests the app's current window against its reference; pins the reference when there was none.

    Rows that were not described yet are, and their values kept. A proposed reference with fewer rows than
    `rules.minimum_rows` is not pinned. A window that ends `ok` is remembered as accepted.

    rules: instead of the configuration's. config: instead of the settings' file. champion: the release that is served,
    where the caller knows; it decides which pinned reference counts (see `references`). scheduled: `since` is where a
    schedule's window begins, and nobody chose the rows before it: they become the reference only when there are as
    many as of a first window.

    Raises:
        BadFile: the configuration is wrong.
        UsageError: windows that make no sense.
        CannotRun: no rows, or no reference and no `since` to make one; the text says what to do.
        StoreUnavailable: the production log cannot be read or written.
    """
    with opened(settings, config, rules) as stores:
        ingested = stores.ingest(progress)
        prepared = _pinned(stores, prepare(stores, app, since, until, champion, scheduled=scheduled))
        watched = _watch(stores, prepared)
        result = _examined(stores, prepared, ingested, watched)
        return _settle(stores, prepared, result)


def write_report(
    settings: Settings,
    app: str,
    out: Path,
    since: datetime | None = None,
    until: datetime | None = None,
    rules: DriftRules | None = None,
    progress: Progress | None = None,
    *,
    config: MonitorConfig | None = None,
    champion: str | None = None,
) -> Path:
    """Writes the Evidently report of the same windows, headed by our verdict, to `out`; returns it. Pins nothing.

    Raises as `run_monitor`; CannotRun also when `out` cannot be written.
    """
    from monitoring.show.report import save_report

    with opened(settings, config, rules) as stores:
        ingested = stores.ingest(progress)
        prepared = prepare(stores, app, since, until, champion)
        result = _examined(stores, prepared, ingested, _watch(stores, prepared))
        return save_report(
            result,
            out,
            log=stores.log,
            reader=stores.reader,
            descriptors=stores.config.descriptors,
            reference=prepared.question.reference.whole,
        )


def replay_past(
    settings: Settings,
    app: str,
    until: datetime | None = None,
    *,
    months: int = RESAMPLED_MONTHS,
    progress: Progress | None = None,
    champion: str | None = None,
) -> Replay:
    """How often the configuration would have alarmed since the app's reference; see `replay`.

    Raises BadFile, StoreUnavailable; CannotRun without a reference, or with too short a past after it.
    """
    with opened(settings) as stores:
        stores.ingest()
        pinned = stores.references.pinned(app, champion)
        if pinned is None:
            raise CannotRun(
                f"no reference is pinned for app {app}; the first `llmops monitor run --since TIME` pins one"
            )
        reference = stores.references.frozen(pinned)
        if reference is None:
            reference = stores.freeze(app, pinned.since, pinned.until, pinned.release)
        descriptors, _ = comparable(stores.config.descriptors.descriptors, reference.whole)
        request = ReplayRequest(
            app, reference, pinned.counts_from, until or datetime.now(UTC),
            descriptors, stores.config.rules, stores.config.limits, stores.config.slices, months,
        )  # fmt: skip
        return replay(stores.reader, request, progress)


def list_apps(settings: Settings) -> list[str]:
    """Apps that have records in the production log, sorted. Raises StoreUnavailable."""
    log = ProductionLog(settings.resolved_log_url)
    try:
        engine = open_database(settings.resolved_log_url)
        try:
            return apps_in_log(engine)
        finally:
            engine.dispose()
    finally:
        log.close()


def _pinned(stores: Stores, prepared: Prepared) -> Prepared:
    """With a proposed reference pinned, when it has enough rows, and its summaries stored when they were not."""
    pair, app, frozen = prepared.pair, prepared.question.app, prepared.question.reference
    enough = frozen.whole.rows >= stores.config.rules.minimum_rows
    if pair.pinned is None and pair.reference is not None and enough:
        window = pair.reference
        pinned = stores.references.pin(
            app, window.since, window.until, FIRST_SINCE, source="first-since", frozen=frozen
        )
        question = dataclasses.replace(prepared.question, pair=dataclasses.replace(pair, pinned=pinned))
        return dataclasses.replace(prepared, question=question)
    if pair.pinned is not None and pair.whole and not pair.pinned.frozen:
        stores.references.freeze(pair.pinned, frozen)
    return prepared


def _watch(stores: Stores, prepared: Prepared) -> list[FlagFinding]:
    """Takes the detectors over the window's rows. They count from the end of a pinned reference on, all rows once."""
    pinned, window = prepared.pair.pinned, prepared.pair.current
    reference = stores.references.frozen(pinned) if pinned is not None else None
    if pinned is None or reference is None:
        return []
    return watch_flags(
        DetectorStore(stores.engine), stores.reader, pinned, reference, stores.config.descriptors.descriptors,
        stores.config.rules, window.since, window.until,
    )  # fmt: skip


def _examined(stores: Stores, prepared: Prepared, ingested: Ingested, watched: Sequence[FlagFinding]) -> MonitorResult:
    window = prepared.pair.current
    failures = stores.reader.failures(prepared.question.app, window.since, window.until)
    counts = {name: each.rows for name, each in failures.items()}
    question = dataclasses.replace(prepared.question, pool=pool_with(stores, prepared))
    result = examine(stores.reader, stores.config, question, failures=counts, watched=watched)
    gathering = prepared.gathering
    if gathering is None or gathering.complete:
        return dataclasses.replace(result, computed=ingested.rows)
    note = "; ".join(filter(None, (result.note, gathering.note)))
    return dataclasses.replace(result, computed=ingested.rows, gathering=gathering, note=note)


def _settle(stores: Stores, prepared: Prepared, result: MonitorResult) -> MonitorResult:
    """Remembers whether the window was accepted; pins an awaited reference when it is complete."""
    if result.state == "alarm":
        if result.bad_by_itself:
            stores.references.reject(result.app, result.window.until)
        return result
    if result.state == "ok":
        stores.references.accept(result.app, _accepted(stores, result))
    gathering = prepared.gathering
    if gathering is None or gathering.release is None or not gathering.complete:
        return result
    return _pin_gathered(stores, gathering, gathering.release, result)


def _accepted(stores: Stores, result: MonitorResult) -> AcceptedWindow:
    window = result.window
    by_release = stores.reader.summary(result.app, window.since, window.until, "release")
    release = max(by_release, key=lambda name: by_release[name].rows, default=None)
    return AcceptedWindow(window.since, window.until, release, window.rows)


def _pin_gathered(stores: Stores, gathering: ReferenceProgress, release: str, result: MonitorResult) -> MonitorResult:
    since, until = gathering.since, gathering.until
    alone = set(stores.reader.summary(result.app, since, until, "release")) == {release}
    frozen = stores.freeze(result.app, since, until, None if alone else release)
    pinned = stores.references.pin(
        result.app, since, until, f"first accepted window of {release}",
        source="first-window", release=release, frozen=frozen,
    )  # fmt: skip
    pinned_now = f"{gathering.rows} rows of {release} are the reference from now on"
    return dataclasses.replace(result, pinned=pinned, note="; ".join(filter(None, (result.note, pinned_now))))


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
