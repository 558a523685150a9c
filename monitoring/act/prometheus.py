"""The monitor's state for Prometheus: a text file for node-exporter's textfile collector, replaced as a whole.

A file, not a port: it needs no server in the daemon, is there between two daemons, and a daemon that hangs shows as a
`llmops_monitor_tick_timestamp_seconds` that stands still.
"""

import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from llmops.errors import CannotRun
from monitoring.act.action_tables import daemon_stages
from monitoring.act.actions import MonitorAction
from monitoring.act.alarm_book import BookedAlarm
from monitoring.act.outbox import Delivery
from monitoring.store.database import reading

_ALARM = ("app", "release", "descriptor", "kind", "severity", "state", "alarm")


@dataclass(frozen=True, slots=True)
class StageCount:
    """How a part of the daemon's tick fares. last_error: of the newest failure, however long ago."""

    stage: str
    runs: int
    failures: int
    last_run_at: float
    last_error: str | None


def stage_counts(engine: sa.Engine) -> list[StageCount]:
    """How every part of a tick fares, over all daemons so far. Raises StoreUnavailable."""
    columns = [daemon_stages.c[name] for name in StageCount.__slots__]
    with reading(engine) as connection:
        return [StageCount(*row) for row in connection.execute(sa.select(*columns).order_by(daemon_stages.c.stage))]


@dataclass(eq=False)  # a registry keeps collectors by their hash
class _Collected(Collector):
    families: Sequence[Metric]

    def collect(self) -> Sequence[Metric]:
        return self.families


def exposition(
    alarms: Sequence[BookedAlarm],
    deliveries: Sequence[Delivery],
    actions: Sequence[MonitorAction],
    stages: Sequence[StageCount],
    at: float,
) -> str:
    """Prometheus' text format. alarms: those that last. at: when the tick ended, in seconds."""
    of_app = GaugeMetricFamily(
        "llmops_monitor_app_alarms", "how many alarms of the app last: one thing to be told of", labels=["app"]
    )
    for app, count in sorted(Counter(alarm.app for alarm in alarms).items()):
        of_app.add_metric([app], count)
    lasting = GaugeMetricFamily("llmops_monitor_alarm", "1 while the alarm lasts", labels=_ALARM)
    since = GaugeMetricFamily("llmops_monitor_alarm_since_seconds", "when the alarm was first seen", labels=_ALARM)
    for alarm in alarms:
        of_whom = [alarm.app, alarm.release or "", alarm.what]
        labels = [*of_whom, alarm.kind, alarm.severity, alarm.state, str(alarm.id)]
        lasting.add_metric(labels, 1)
        since.add_metric(labels, alarm.first_at.timestamp())
    alerts = CounterMetricFamily(
        "llmops_monitor_alerts", "alerts by what became of them", labels=["channel", "outcome"]
    )
    waiting = GaugeMetricFamily("llmops_monitor_alerts_waiting", "alerts not delivered yet", labels=["channel"])
    for delivery in deliveries:
        waiting.add_metric([delivery.channel], delivery.waiting)
        for outcome in ("delivered", "given_up", "failed_attempts"):
            alerts.add_metric([delivery.channel, outcome], getattr(delivery, outcome))
    states = GaugeMetricFamily(
        "llmops_monitor_actions", "actions by how they stand", labels=["app", "action", "status", "dry_run"]
    )
    acted = Counter((each.app, each.kind, each.status, str(each.dry_run).lower()) for each in actions)
    for state, count in sorted(acted.items()):
        states.add_metric(state, count)
    runs = CounterMetricFamily("llmops_monitor_stage_runs", "how often each part of a tick ran", labels=["stage"])
    failures = CounterMetricFamily(
        "llmops_monitor_stage_failures", "how often each part of a tick failed", labels=["stage"]
    )
    for stage in stages:
        runs.add_metric([stage.stage], stage.runs)
        failures.add_metric([stage.stage], stage.failures)
    ended = GaugeMetricFamily("llmops_monitor_tick_timestamp_seconds", "when the last tick ended", value=at)
    registry = CollectorRegistry()
    registry.register(_Collected((of_app, lasting, since, alerts, waiting, states, runs, failures, ended)))
    return generate_latest(registry).decode()


def write_textfile(path: Path, text: str) -> None:
    """Replaces the file as a whole: the collector never sees half of it. Raises CannotRun."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False, encoding="utf-8") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o644)  # the collector is another user
        Path(file.name).replace(path)
    except OSError as error:
        raise CannotRun(f"{path}: cannot be written: {error.strerror}") from error
