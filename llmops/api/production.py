"""What answers were given in production, and whether they changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from llmops.errors import CannotRun, StoreUnavailable, UsageError
from llmops.pages.numbers import counted, number
from llmops.pages.tables import Block, Shown, Table
from llmops.production_log import LogRecord, ProductionLog, moment_of
from llmops.progress import progress_bar
from llmops.ray_cluster import LOCAL, RayCluster
from llmops.settings import Settings
from llmops.text_io import listed, shown_time

if TYPE_CHECKING:
    from llmops.production_log.archive import Archive
    from monitoring.decide.drift import DescriptorDrift
    from monitoring.decide.result import MonitorResult

Time = datetime | timedelta | str | None
"""A time, or how long ago: `24h`, `7d`."""


@dataclass(frozen=True)
class LogRecords(Shown):
    """The newest records of a window, oldest first. `to_pandas` has a line for each. total: of the window."""

    found: Sequence[LogRecord]
    total: int

    def to_dict(self) -> dict[str, Any]:
        return {"records": self.records(), "total": self.total}

    def blocks(self) -> Iterator[Block]:
        columns = ("at", "request", "release", "status", "outcome", "ms#", "feedback", "input", "output")
        yield Table(f"{len(self.found)} of {self.total} records", columns, [_row(record) for record in self.found])

    def records(self) -> list[dict[str, Any]]:
        return [record_json(record) for record in self.found]


def record_json(record: LogRecord) -> dict[str, Any]:
    """The record's JSON; `feedback` is there also where there is none."""
    return {"feedback": [], **record.to_json()}


def _row(record: LogRecord) -> tuple[Any, ...]:
    """A line of the table; of feedback the newest label or score, or that there is a comment."""
    feedback = ""
    if record.feedback:
        last = record.feedback[-1]
        short = last.label if last.label is not None else last.score
        feedback = "comment" if short is None else f"{short:.12g}" if isinstance(short, float) else short[:12]
    why = record.details.get("error")
    texts = (record.input[:60], record.output[:60] or (f"({str(why)[:100]})" if why else ""))
    served = record.release or record.model or "–"
    what = (shown_time(record.at), record.request_id[:12], served, record.status, record.outcome)
    latency = "–" if record.latency_ms is None else f"{record.latency_ms:.0f}"
    return (*what, latency, feedback, *texts)


def read_log(
    app: str | None = None,
    *,
    since: Time = None,
    until: Time = None,
    limit: int | None = None,
    shadow: bool = False,
    archive: str | None = None,
    settings: Settings | None = None,
) -> LogRecords:
    """The newest records of the production log, as `llmops log tail`.

    Args:
        app: only its records.
        since, until: the window, which begins with `since` and ends before `until`.
        limit: at most so many; by default all of the window.
        shadow: include requests that a challenger answered beside the champion.
        archive: read this one, a folder or an `s3://` URL.
        settings: by default those of the environment.

    Raises UsageError, CannotRun, StoreUnavailable.
    """
    window: dict[str, Any] = {"app": app, "since": moment_of(since), "until": moment_of(until), "shadow": shadow}
    log = opened_log(settings or Settings.from_environment(), archive)
    try:
        return LogRecords(log.read(limit=limit, newest=True, feedback=True, **window), log.count(**window))
    finally:
        if isinstance(log, ProductionLog):
            log.close()


def opened_log(settings: Settings, archive: str | None) -> ProductionLog | Archive:
    """The log, or an archive, which is read alike."""
    return ProductionLog(settings.resolved_log_url) if archive is None else open_archive(archive)


def open_archive(url: str) -> Archive:
    """The archive, which is there. Raises UsageError, CannotRun, StoreUnavailable."""
    from llmops.production_log.archive import Archive

    opened = Archive(url)
    opened.check()
    return opened


@dataclass(frozen=True)
class Monitored(Shown):
    """The verdict on a window. `to_pandas`: a line for each descriptor in each slice. run_id: None if not recorded."""

    result: MonitorResult
    run_id: str | None = None
    notes: Sequence[str] = ()

    @property
    def alarm(self) -> bool:
        """Whether there is any."""
        return self.result.alarm

    def to_dict(self) -> dict[str, Any]:
        return {**self.result.to_json(), "run_id": self.run_id}

    def blocks(self) -> Iterator[Block]:
        """The whole app as a table, of slices and variants what drifted; then alarms or their absence, and the cure."""
        result = self.result
        for position, part in enumerate(result.slices):
            if position == 0:
                rows = counted(result.window.rows, "row")
                title = f"{result.app}: {rows} against {result.reference.rows} of reference"
                yield _drift_table(title, part.descriptors)
            elif part.rows < result.window.rows and (drifted := _drifted(part.descriptors)):
                yield _drift_table(f"{' '.join(part.label.values())}: {counted(part.rows, 'row')}", drifted)
        for comparison in result.canary:
            variants = comparison.variants
            rows = counted(variants.after.rows, "row")
            title = f"{variants.kind}: {rows} of {variants.challenger or 'the challenger'} "
            title += f"against {variants.before.rows} of {variants.champion or 'the champion'}"
            drifted = _drifted(comparison.drift.descriptors)
            yield _drift_table(title, drifted) if drifted else f"{title}: no difference"
            if not comparison.alike:
                yield "their questions differ, so that nothing is held against the challenger"
        yield from self._alarms()

    def _alarms(self) -> Iterator[Block]:
        result = self.result
        if result.failures:
            failed = sorted(result.failures.items(), key=lambda item: -item[1])
            yield Table("rows that a descriptor could not be computed of", ("descriptor", "rows#"), failed)
        for alarm in result.alarms:
            yield f"ALARM {alarm.what} ({alarm.kind}): {alarm.why}"
            if alarm.rows:
                yield f"      see llmops log show {listed(alarm.rows, 1)}"
        if result.alarms:
            yield f"a rollback {'may help' if result.cure.helps else 'is no cure'}: {result.cure.why}"
        else:
            yield "no alarm" if not result.note else f"no alarm: {result.note}"

    def records(self) -> list[dict[str, Any]]:
        return [
            {"slice": " ".join(part.label.values()), "descriptor": name, **drift.to_json()}
            for part in self.result.slices
            for name, drift in part.descriptors.items()
        ]


def _drift_table(title: str, descriptors: Mapping[str, DescriptorDrift]) -> Table:
    rows = []
    for name, drift in descriptors.items():
        levels = (_level(drift.before), _level(drift.after), number(drift.result.effect))
        rows.append((name, drift.result.test, *levels, f"{drift.p_adjusted:.3g}", "yes" if drift.drifted else ""))
    return Table(title, ("descriptor", "test", "before#", "after#", "effect#", "p adjusted#", "drifted"), rows)


def _drifted(descriptors: Mapping[str, DescriptorDrift]) -> dict[str, DescriptorDrift]:
    return {name: drift for name, drift in descriptors.items() if drift.drifted}


def _level(value: object) -> str:
    return number(value) if isinstance(value, float) else str(value)


def monitor(
    app: str | None = None,
    *,
    since: Time = None,
    until: Time = None,
    archive: str | None = None,
    on: str = LOCAL,
    record: bool = True,
    progress: bool = True,
    waiting: Callable[[], None] = lambda: None,
    settings: Settings | None = None,
) -> Monitored:
    """Tests a window of production against the reference, as `llmops monitor run`. Without a pinned reference the rows
    before `since` become it.

    Args:
        app: by default the only one in the log.
        since, until: the window; by default what is new.
        archive: read this one too, a folder or an `s3://` URL.
        on: where descriptors are computed: `local`, `ray` or `ray://HOST:PORT`.
        record: the verdict, in MLflow and the dashboard.
        progress: shows bars, on a terminal and in a notebook.
        waiting: called when another process writes to the archive, which is waited for.
        settings: by default those of the environment.

    Raises UsageError, CannotRun, StoreUnavailable, Corrupted.
    """
    from monitoring.run import run_monitor

    settings = settings or Settings.from_environment()
    opened = None if archive is None else open_archive(archive)
    name = chosen_app(settings, app)
    champion, notes = champion_of(settings, name)
    with progress_bar(progress) as show, closing(RayCluster(on)) as cluster:
        result = run_monitor(
            settings,
            name,
            moment_of(since),
            moment_of(until),
            progress=partial(show, "describing"),
            champion=champion,
            archive=opened,
            spread=map if on == LOCAL else cluster.map,
            waiting=waiting,
        )
    run_id = None
    if record:
        run_id, further = record_verdict(settings, result)
        notes += further
    if result.not_compared:
        notes.append(f"not in the reference as they are now, so not compared: {', '.join(result.not_compared)}")
    return Monitored(result, run_id, notes)


def chosen_app(settings: Settings, app: str | None) -> str:
    """The app asked for, or the only one in the log. Raises UsageError when there are several."""
    from monitoring.run import list_apps

    if app is not None:
        return app
    apps = list_apps(settings)
    if len(apps) != 1:
        raise UsageError(
            f"--app: name one of {', '.join(apps)}" if apps else "--app: the log holds no app's records yet"
        )
    return apps[0]


def champion_of(settings: Settings, app: str) -> tuple[str | None, list[str]]:
    """The release that is served, which decides what reference counts; None, and a note, while nobody can say."""
    from llmops.registry import Registry

    try:
        champion = Registry(settings).release_versions.champion(app)
    except StoreUnavailable as error:
        return None, [f"the champion of {app} is not known, so its newest reference counts: {error}"]
    return (champion.ref if champion is not None else None), []


def record_verdict(settings: Settings, result: MonitorResult) -> tuple[str, list[str]]:
    """Writes the result into MLflow and the dashboard; returns run id and notes. Raises StoreUnavailable."""
    from llmops.recording import nameless, record_monitoring_run
    from llmops.registry import Store
    from monitoring.config import read_config
    from monitoring.show.dashboard import Dashboard, workspace_folder
    from monitoring.show.verdict_page import verdict_page

    verdict, version = result.to_json(), read_config(settings).descriptors.version
    run_id = record_monitoring_run(
        Store(settings),
        result.app,
        verdict,
        result.metrics(),
        descriptor_version=version,
        page=verdict_page(nameless(verdict)),
    )
    try:
        Dashboard(workspace_folder(settings)).add_verdict(result.app, run_id, verdict)
    except CannotRun as error:
        return run_id, [f"the verdict is recorded, but not in the dashboard: {error}"]
    return run_id, []
