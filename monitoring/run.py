"""Runs the monitor once: choose windows, describe what is new, test, say what to look at."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from llmops.production_log import ProductionLog
from llmops.settings import Settings
from monitoring.alarms import alarms_of
from monitoring.database import apps_in_log, open_database
from monitoring.descriptor_store import DescribedRows, DescriptorStore, Progress
from monitoring.drift import count_families, examine_slices, slices_of
from monitoring.result import MonitorResult
from monitoring.rules import DriftRules
from monitoring.windows import PinnedReference, ReferenceWindows, Window, WindowPair, choose_windows

FIRST_SINCE = "rows before the first --since"
_DEFAULT_RULES = DriftRules()


def run_monitor(
    settings: Settings,
    app: str,
    since: datetime | None = None,
    until: datetime | None = None,
    rules: DriftRules = _DEFAULT_RULES,
    progress: Progress | None = None,
) -> MonitorResult:
    """Tests the app's current window against its reference; pins the reference when there was none.

    Descriptors are computed for rows that have none yet, and kept. A proposed reference with fewer rows than
    `rules.minimum_rows` is not pinned.

    Raises:
        UsageError: windows that make no sense.
        CannotRun: no rows, or no reference and no `since` to make one; the text says what to do.
        StoreUnavailable: the production log cannot be read or written.
    """
    with _opened(settings) as stores:
        pair = choose_windows(stores.log, stores.references, app, since, until)
        loaded = _load(stores, app, pair, progress)
        pinned = pair.pinned
        if pinned is None and loaded.reference_window.rows >= rules.minimum_rows:
            window = loaded.reference_window
            pinned = stores.references.pin(app, window.since, window.until, FIRST_SINCE)
        return _judge(app, loaded, pinned, rules)


def write_report(
    settings: Settings,
    app: str,
    out: Path,
    since: datetime | None = None,
    until: datetime | None = None,
    rules: DriftRules = _DEFAULT_RULES,
    progress: Progress | None = None,
) -> Path:
    """Writes the Evidently report of the same windows, headed by our verdict, to `out`; returns it. Pins nothing.

    Raises as `run_monitor`; CannotRun also when a window has no rows or `out` cannot be written.
    """
    from monitoring.report import save_report

    with _opened(settings) as stores:
        pair = choose_windows(stores.log, stores.references, app, since, until)
        loaded = _load(stores, app, pair, progress)
    return save_report(_judge(app, loaded, pair.pinned, rules), loaded.reference, loaded.current, out, rules)


def pin_reference(settings: Settings, app: str, since: datetime, until: datetime, why: str) -> PinnedReference:
    """Makes a window the app's reference from now on, as a promotion does. Raises UsageError, StoreUnavailable."""
    with _opened(settings) as stores:
        return stores.references.pin(app, since, until, why)


def list_apps(settings: Settings) -> list[str]:
    """Apps that have records in the production log, sorted. Raises StoreUnavailable."""
    with _opened(settings) as stores:
        return stores.apps


@dataclass(frozen=True, slots=True)
class _Stores:
    log: ProductionLog
    descriptors: DescriptorStore
    references: ReferenceWindows
    apps: list[str]


@dataclass(frozen=True, slots=True)
class _Loaded:
    reference_window: Window
    current_window: Window
    reference: DescribedRows
    current: DescribedRows
    computed: int


@contextmanager
def _opened(settings: Settings) -> Iterator[_Stores]:
    log = ProductionLog(settings.resolved_log_url)  # first: it makes the folder and the log's own table
    try:
        engine = open_database(settings.resolved_log_url)
        try:
            yield _Stores(log, DescriptorStore(engine), ReferenceWindows(engine), apps_in_log(engine))
        finally:
            engine.dispose()
    finally:
        log.close()


def _load(stores: _Stores, app: str, pair: WindowPair, progress: Progress | None) -> _Loaded:
    computed = 0
    rows = []
    for window in (pair.reference, pair.current):
        computed += stores.descriptors.compute_missing(
            stores.log, app=app, since=window.since, until=window.until, progress=progress
        )
        rows.append(stores.descriptors.read(app=app, since=window.since, until=window.until))
    # Requests that ended meanwhile were described too: count what was read.
    reference_window = dataclasses.replace(pair.reference, rows=len(rows[0]))
    current_window = dataclasses.replace(pair.current, rows=len(rows[1]))
    return _Loaded(reference_window, current_window, rows[0], rows[1], computed)


def _judge(app: str, loaded: _Loaded, pinned: PinnedReference | None, rules: DriftRules) -> MonitorResult:
    note = _too_few(loaded, rules)
    slices = [] if note else slices_of(app, loaded.current, rules)
    drifts = examine_slices(slices, loaded.reference, rules) if slices else []
    alarms = alarms_of(slices, drifts, loaded.reference, rules)
    families = count_families(slices) if slices else 1
    return MonitorResult(
        app=app,
        state="too-few-rows" if note else "alarm" if alarms else "ok",
        note=note,
        window=loaded.current_window,
        reference=loaded.reference_window,
        pinned=pinned,
        slices=drifts,
        alarms=alarms,
        expected_false_alarms_per_month=rules.expected_false_alarms_per_month(families),
        computed=loaded.computed,
    )


def _too_few(loaded: _Loaded, rules: DriftRules) -> str:
    short = [
        f"the {name} window has {len(rows)}"
        for name, rows in (("reference", loaded.reference), ("current", loaded.current))
        if len(rows) < rules.minimum_rows
    ]
    return f"nothing was tested: {' and '.join(short)} of the {rules.minimum_rows} rows needed" if short else ""
