"""Runs the monitor once: describe what is new, choose windows, test, say what to look at. Pins references: by hand, and
at a promotion. Start reading here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from llmops.errors import CannotRun
from llmops.production_log import LogRecord
from llmops.settings import Settings
from monitoring.config import MonitorConfig
from monitoring.decide.families import pool_of
from monitoring.decide.pinned_summaries import PinnedSummaries, comparable, freeze_records
from monitoring.decide.references import AcceptedWindow, Awaited, PinnedReference
from monitoring.decide.replay import RESAMPLED_MONTHS, Replay, ReplayRequest, replay
from monitoring.decide.result import MonitorResult
from monitoring.decide.watch import (
    STILL_ARRIVING,
    DetectorStore,
    FlagFinding,
    advance_detectors,
    detector_spec,
    findings,
)
from monitoring.decide.window_choice import ReferenceProgress, WindowPair, choose_windows, reference_progress
from monitoring.examination import RunQuestion, examine
from monitoring.store.database import apps_in_log
from monitoring.store.ingest import Progress, Spread
from monitoring.stores import Stores, opened

if TYPE_CHECKING:
    from llmops.production_log.archive import Archive

GateAnswers = Callable[[], Sequence[LogRecord]]
"""Gives the answers that the gate saw, as records; what needs the registry is handed in by the CLI."""

_MOMENT = timedelta(milliseconds=1)


def run_monitor(
    settings: Settings,
    app: str,
    since: datetime | None = None,
    until: datetime | None = None,
    progress: Progress | None = None,
    *,
    config: MonitorConfig | None = None,
    champion: str | None = None,
    scheduled: bool = False,
    archive: Archive | None = None,
    spread: Spread = map,
    waiting: Callable[[], None] = lambda: None,
) -> MonitorResult:
    """Tests the app's current window against its reference; pins the reference when there was none.

    Rows that were not described yet are, and their values kept. A proposed reference with fewer rows than
    `rules.minimum_rows` is not pinned. A window that ends `ok` is remembered as accepted.

    config: instead of the settings' file.
    champion: the release that is served, where the caller knows; it decides which pinned reference counts (see
        `references`).
    scheduled: `since` is where a schedule's window begins, and nobody chose the rows before it: they become the
        reference only when there are as many as of a first window.
    archive, spread, waiting: as `Stores.ingest`.

    Raises:
        BadFile: the configuration is wrong.
        UsageError: windows that make no sense.
        CannotRun: no rows, or no reference and no `since` to make one; the text says what to do.
        StoreUnavailable: the production log, or the archive, cannot be read or written.
        Corrupted: a file of the archive is not as it was written.
    """
    with opened(settings, config) as stores:
        ingested = stores.ingest(progress, archive=archive, spread=spread, waiting=waiting)
        question = prepare(stores, app, since, until, champion, scheduled=scheduled)
        pair, frozen = question.pair, question.reference
        enough = frozen.whole.rows >= stores.config.rules.minimum_rows
        if pair.pinned is None and pair.reference is not None and enough:
            window = pair.reference
            why = "rows before the first --since"
            pinned = stores.references.pin(app, window.since, window.until, why, source="first-since", frozen=frozen)
            question = dataclasses.replace(question, pair=dataclasses.replace(pair, pinned=pinned))
        elif pair.pinned is not None and pair.whole and not pair.pinned.frozen:
            stores.references.freeze(pair.pinned, frozen)
        return _settle(stores, question.gathering, _examined(stores, question, ingested))


def write_report(
    settings: Settings,
    app: str,
    out: Path,
    since: datetime | None = None,
    until: datetime | None = None,
    *,
    champion: str | None = None,
) -> Path:
    """Writes the Evidently report of the same windows, headed by our verdict, to `out`; returns it. Pins nothing.

    Raises as `run_monitor`; CannotRun also when `out` cannot be written.
    """
    from monitoring.show.report import save_report

    with opened(settings) as stores:
        ingested = stores.ingest()
        question = prepare(stores, app, since, until, champion)
        return save_report(stores, _examined(stores, question, ingested), question.reference.whole, out)


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
        reference, config = stores.frozen(pinned), stores.config
        descriptors, _ = comparable(config.descriptors.descriptors, reference.whole)
        until = until or datetime.now(UTC)
        request = ReplayRequest(
            app, reference, pinned.counts_from, until, descriptors, config.rules, config.limits, config.slices, months
        )
        return replay(stores.reader, request, progress)


def list_apps(settings: Settings) -> list[str]:
    """Apps that have records in the production log, sorted. Raises BadFile, StoreUnavailable."""
    with opened(settings) as stores:
        return apps_in_log(stores.engine)


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

    release, previous: the new champion and the old one.
    gate_answers: called for `gate` only.
    at: when it was promoted; now when None.

    Where `gate` has no answers, or `previous-window` no accepted window, the first window is awaited. Raises BadFile,
    StoreUnavailable, and what `gate_answers` raises.
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


def prepare(
    stores: Stores,
    app: str,
    since: datetime | None,
    until: datetime | None,
    champion: str | None,
    *,
    scheduled: bool = False,
) -> RunQuestion:
    """Chooses windows and reference; writes nothing. Arguments and errors as `run_monitor`."""
    references, config = stores.references, stores.config
    beside = None if since is None else (since, until or datetime.now(UTC))
    pinned = references.pinned(app, champion, beside=beside)
    awaited = references.awaited(app, champion)
    pair = choose_windows(stores.reader, pinned, awaited, app, since, until)
    needed = max(config.reference.first_window_rows, config.rules.minimum_rows)
    unchosen = scheduled and pinned is None and pair.reference is not None
    if unchosen and awaited is not None:  # rows before a schedule's window are no reference then
        pair = dataclasses.replace(pair, reference=None)
    frozen = _frozen(stores, app, pair)
    if unchosen and awaited is None and pair.reference is not None and frozen.whole.rows < needed:
        earlier, alone = pair.reference, dataclasses.replace(pair, reference=None)
        progress = ReferenceProgress(None, earlier.since, earlier.until, frozen.whole.rows, needed)
        return RunQuestion(app, alone, PinnedSummaries({}), gathering=progress)
    # Whether somebody chose the reference with --since after the promotion: then no first window is awaited.
    chosen = pair.reference is not None
    if awaited is not None and pair.pinned is not None:
        chosen = pair.pinned.source == "first-since" and pair.pinned.pinned_at >= awaited.since
    if awaited is None or chosen:
        return RunQuestion(app, pair, frozen)
    gathering = reference_progress(stores.reader, references, app, awaited, pair.current.until, needed)
    # With so many rows in the window the promoted release is judged as a new one.
    begin, answered = max(pair.current.since, awaited.since), None
    if begin < pair.current.until:
        answered = stores.reader.by_value(app, begin, pair.current.until, "release").get(awaited.release)
    first = awaited.release if answered is not None and answered.rows >= config.rules.minimum_rows else None
    return RunQuestion(app, pair, frozen, first, gathering=gathering)


def _frozen(stores: Stores, app: str, pair: WindowPair) -> PinnedSummaries:
    """What the pair's reference is like: as it was stored, else as its rows are now."""
    if pair.reference is None:
        return PinnedSummaries({})
    if pair.pinned is not None and pair.whole:
        return stores.frozen(pair.pinned)
    release = pair.pinned.release if pair.pinned is not None else None
    return stores.freeze(app, pair.reference.since, pair.reference.until, release)


def _examined(stores: Stores, question: RunQuestion, ingested: int) -> MonitorResult:
    """The verdict on the window. ingested: rows that were described just now."""
    pair, window, config = question.pair, question.pair.current, stores.config
    reader, references, pinned = stores.reader, stores.references, pair.pinned
    watched: list[FlagFinding] = []
    if pinned is not None and (reference := references.frozen(pinned)) is not None:
        # The detectors count from the end of a pinned reference on, all rows once. Another monitor that is at it at the
        # same moment does it for both.
        store = DetectorStore(stores.engine)
        spec = detector_spec(pinned, reference, config.descriptors.descriptors, config.rules)
        advance_detectors(store, reader, spec, min(window.until, datetime.now(UTC) - STILL_ARRIVING))
        watched = findings(store, spec, window.since, window.until)
    if pinned is not None and pair.whole and window.since > pinned.counts_from:
        rejected = references.last_rejected(question.app, pinned.counts_from, window.since)
        pins = references.pins_before(pinned)
        pool = pool_of(window.since, window.until, pinned.counts_from, rejected, pins)
        question = dataclasses.replace(question, pool=pool)
    failures = reader.failures(question.app, window.since, window.until)
    result = examine(reader, config, question, failures=failures, watched=watched)
    gathering = question.gathering
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
        by_release = stores.reader.by_value(app, window.since, window.until, "release")
        most = max(by_release, key=lambda name: by_release[name].rows, default=None)
        references.accept(app, AcceptedWindow(window.since, window.until, most, window.rows))
    if gathering is None or gathering.release is None or not gathering.complete:
        return result
    since, until, release = gathering.since, gathering.until, gathering.release
    alone = set(stores.reader.by_value(app, since, until, "release")) == {release}
    frozen = stores.freeze(app, since, until, None if alone else release)
    why = f"first accepted window of {release}"
    pinned = references.pin(app, since, until, why, source="first-window", release=release, frozen=frozen)
    told = f"{gathering.rows} rows of {release} are the reference from now on"
    return dataclasses.replace(result, pinned=pinned, note="; ".join(filter(None, (result.note, told))))
