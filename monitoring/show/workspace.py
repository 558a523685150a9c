"""The dashboard of a home: fed by runs and by the stored history, shown by Evidently's own interface."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops.production_log import ProductionLog
from llmops.settings import Settings
from monitoring.show.dashboard import Dashboard
from monitoring.show.history import levels_since

if TYPE_CHECKING:
    from collections.abc import Callable

    from monitoring.store.windows import WindowReader

_LATE = timedelta(hours=2)
"""So far back the history is looked at again: rows may arrive after their hour."""


def workspace_folder(settings: Settings) -> Path:
    """Where the dashboard lies; an ordinary Evidently workspace."""
    return settings.home / "evidently"


def descriptor_version(settings: Settings) -> str:
    """Of all descriptors that the settings declare together. Raises BadFile."""
    from monitoring.config import read_config

    return read_config(settings).descriptors.version


def publish_verdict(settings: Settings, app: str, run_id: str, verdict: Mapping[str, Any]) -> None:
    """Adds a run to the dashboard. verdict: the contract's JSON. Takes milliseconds: Evidently is not loaded.

    Raises CannotRun when the folder cannot be written.
    """
    Dashboard(workspace_folder(settings)).add_verdict(app, run_id, verdict)


def update_from_history(settings: Settings, told: Callable[[str, int], None] | None = None) -> dict[str, int]:
    """Adds what the history of every app has gained; rows that were not described yet are. Returns points by app.

    told: is given each app and its points. Raises BadFile, CannotRun, StoreUnavailable.
    """
    added = {}
    with _opened(settings) as (log, reader, apps):
        dashboard = Dashboard(workspace_folder(settings))
        for app in apps:
            added[app] = update_levels(dashboard, log, reader, app)
            if told is not None:
                told(app, added[app])
    return added


def update_levels(
    dashboard: Dashboard, log: ProductionLog, reader: WindowReader, app: str, now: datetime | None = None
) -> int:
    """Adds what one app's history has gained since the dashboard's newest point. Returns how many points.

    Raises CannotRun, StoreUnavailable.
    """
    newest = dashboard.newest_level(app)
    if newest is None:
        first = log.read(app=app, limit=1)
        if not first:
            return 0
        newest = first[0].at
    return dashboard.add_levels(app, levels_since(reader, app, newest - _LATE, now or datetime.now(UTC)))


def serve_dashboard(settings: Settings, host: str, port: int) -> None:
    """Shows it until it is interrupted. Nothing leaves the machine."""
    from monitoring.evidently_import import serve_workspace

    folder = workspace_folder(settings)
    folder.mkdir(parents=True, exist_ok=True)
    serve_workspace(folder, host, port)


@contextmanager
def _opened(settings: Settings) -> Iterator[tuple[ProductionLog, WindowReader, list[str]]]:
    from monitoring.config import read_config
    from monitoring.store.database import apps_in_log, open_database
    from monitoring.store.ingest import ingest
    from monitoring.store.windows import WindowReader

    descriptors = read_config(settings).descriptors
    log = ProductionLog(settings.resolved_log_url)
    try:
        engine = open_database(settings.resolved_log_url)
        try:
            ingest(log, engine, descriptors)
            yield log, WindowReader(engine, descriptors), apps_in_log(engine)
        finally:
            engine.dispose()
    finally:
        log.close()
