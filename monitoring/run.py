"""Runs the monitor once: describe what is new, choose windows, test, say what to look at. Start reading here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from llmops.errors import CannotRun
from llmops.settings import Settings
from monitoring.decide.detector_store import DetectorStore
from monitoring.decide.pinned_summaries import PinnedSummaries, comparable
from monitoring.decide.pooled import Pool, pool_of
from monitoring.decide.references import AcceptedWindow
from monitoring.decide.replay import RESAMPLED_MONTHS, Replay, ReplayRequest, replay
from monitoring.decide.result import MonitorResult
from monitoring.decide.watch import FlagFinding, watch_flags
from monitoring.decide.window_choice import ReferenceProgress, WindowPair, choose_windows, reference_progress
from monitoring.examination import Question, examine
from monitoring.store.database import apps_in_log
from monitoring.stores import Progress, Stores, opened

if TYPE_CHECKING:
    from monitoring.config import MonitorConfig
    from monitoring.decide.rules import DriftRules


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
        prepared = prepare(stores, app, since, until, champion, scheduled=scheduled)
        pair, frozen, references = prepared.pair, prepared.question.reference, stores.references
        enough = frozen.whole.rows >= stores.config.rules.minimum_rows
        if pair.pinned is None and pair.reference is not None and enough:
            window = pair.reference
            why = "rows before the first --since"
            pinned = references.pin(app, window.since, window.until, why, source="first-since", frozen=frozen)
            question = dataclasses.replace(prepared.question, pair=dataclasses.replace(pair, pinned=pinned))
            prepared = dataclasses.replace(prepared, question=question)
        elif pair.pinned is not None and pair.whole and not pair.pinned.frozen:
            references.freeze(pair.pinned, frozen)
        result = _examined(stores, prepared, ingested.rows)
        return _settle(stores, prepared.gathering, result)


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
        result = _examined(stores, prepared, ingested.rows)
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
        config = stores.config
        until = until or datetime.now(UTC)
        request = ReplayRequest(
            app, reference, pinned.counts_from, until, descriptors, config.rules, config.limits, config.slices, months
        )
        return replay(stores.reader, request, progress)


def list_apps(settings: Settings) -> list[str]:
    """Apps that have records in the production log, sorted. Raises BadFile, StoreUnavailable."""
    with opened(settings) as stores:
        return apps_in_log(stores.engine)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What one run is to do. gathering: the reference that is being gathered, of whose rows this window may be."""

    question: Question
    gathering: ReferenceProgress | None = None

    @property
    def pair(self) -> WindowPair:
        """The windows that are compared."""
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
    """Chooses windows and reference; writes nothing. Arguments and errors as `run_monitor`."""
    references, config = stores.references, stores.config
    beside = None if since is None else (since, until or datetime.now(UTC))
    pinned = references.pinned(app, champion, beside=beside)
    awaited = references.awaited(app, champion)
    pair = choose_windows(stores.log, pinned, awaited, app, since, until)
    needed = max(config.reference.first_window_rows, config.rules.minimum_rows)
    unchosen = scheduled and pinned is None and pair.reference is not None
    if unchosen and awaited is not None:  # rows before a schedule's window are no reference then
        pair = dataclasses.replace(pair, reference=None)
    frozen = _frozen(stores, app, pair)
    if unchosen and awaited is None and pair.reference is not None and frozen.whole.rows < needed:
        earlier, alone = pair.reference, dataclasses.replace(pair, reference=None)
        progress = ReferenceProgress(None, earlier.since, earlier.until, frozen.whole.rows, needed)
        return Prepared(Question(app, alone, PinnedSummaries({})), progress)
    # Whether somebody chose the reference with --since after the promotion: then no first window is awaited.
    chosen = pair.reference is not None
    if awaited is not None and pair.pinned is not None:
        chosen = pair.pinned.source == "first-since" and pair.pinned.pinned_at >= awaited.since
    if awaited is None or chosen:
        return Prepared(Question(app, pair, frozen))
    gathering = reference_progress(stores.reader, references, app, awaited, pair.current.until, needed)
    # With so many rows in the window the promoted release is judged as a new one.
    begin, answered = max(pair.current.since, awaited.since), None
    if begin < pair.current.until:
        answered = stores.reader.summary(app, begin, pair.current.until, "release").get(awaited.release)
    first = awaited.release if answered is not None and answered.rows >= config.rules.minimum_rows else None
    return Prepared(Question(app, pair, frozen, first), gathering)


def _frozen(stores: Stores, app: str, pair: WindowPair) -> PinnedSummaries:
    """What the pair's reference is like: as it was stored, else as its rows are now."""
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


def _examined(stores: Stores, prepared: Prepared, ingested: int) -> MonitorResult:
    """The verdict on the window. ingested: rows that were described just now."""
    pinned, window, config = prepared.pair.pinned, prepared.pair.current, stores.config
    reference = stores.references.frozen(pinned) if pinned is not None else None
    watched: list[FlagFinding] = []
    if pinned is not None and reference is not None:
        # The detectors count from the end of a pinned reference on, all rows once.
        watched = watch_flags(
            DetectorStore(stores.engine),
            stores.reader,
            pinned,
            reference,
            config.descriptors.descriptors,
            config.rules,
            window.since,
            window.until,
        )
    failures = stores.reader.failures(prepared.question.app, window.since, window.until)
    counts = {name: each.rows for name, each in failures.items()}
    question = dataclasses.replace(prepared.question, pool=pool_with(stores, prepared))
    result = examine(stores.reader, config, question, failures=counts, watched=watched)
    gathering = prepared.gathering
    if gathering is None or gathering.complete:
        return dataclasses.replace(result, computed=ingested)
    note = "; ".join(filter(None, (result.note, gathering.note)))
    return dataclasses.replace(result, computed=ingested, gathering=gathering, note=note)


def _settle(stores: Stores, gathering: ReferenceProgress | None, result: MonitorResult) -> MonitorResult:
    """Remembers whether the window was accepted; pins an awaited reference when it is complete."""
    app, window, references = result.app, result.window, stores.references
    if result.state == "alarm":
        if result.bad_by_itself:
            references.reject(app, window.until)
        return result
    if result.state == "ok":
        by_release = stores.reader.summary(app, window.since, window.until, "release")
        most = max(by_release, key=lambda name: by_release[name].rows, default=None)
        references.accept(app, AcceptedWindow(window.since, window.until, most, window.rows))
    if gathering is None or gathering.release is None or not gathering.complete:
        return result
    since, until, release = gathering.since, gathering.until, gathering.release
    alone = set(stores.reader.summary(app, since, until, "release")) == {release}
    frozen = stores.freeze(app, since, until, None if alone else release)
    why = f"first accepted window of {release}"
    pinned = references.pin(app, since, until, why, source="first-window", release=release, frozen=frozen)
    told = f"{gathering.rows} rows of {release} are the reference from now on"
    return dataclasses.replace(result, pinned=pinned, note="; ".join(filter(None, (result.note, told))))
