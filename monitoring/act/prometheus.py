"""The monitor's state for Prometheus: a text file for node-exporter's textfile collector, replaced as a whole.

A file, not a port: it needs no server in the daemon, is there between two daemons, and a daemon that hangs shows as a
`llmops_monitor_tick_timestamp_seconds` that stands still.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from llmops.errors import CannotRun
from monitoring.act.action_tables import daemon_stages
from monitoring.act.actions import MonitorAction
from monitoring.act.alarm_book import Entry
from monitoring.act.outbox import Delivery
from monitoring.store.database import reading

_PREFIX = "llmops_monitor_"
Samples = Iterable[tuple[Mapping[str, str], float]]


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


def exposition(
    alarms: Sequence[Entry],
    deliveries: Sequence[Delivery],
    actions: Sequence[MonitorAction],
    stages: Sequence[StageCount],
    at: float,
) -> str:
    """Prometheus' text format. alarms: those that last. at: when the tick ended, in seconds."""
    states = [
        (
            {
                "app": alarm.app,
                "release": alarm.release or "",
                "descriptor": alarm.what,
                "kind": alarm.kind,
                "severity": alarm.severity,
                "state": alarm.state,
                "alarm": str(alarm.id),
            },
            alarm.first_at.timestamp(),
        )
        for alarm in alarms
    ]
    alerts = [
        ({"channel": delivery.channel, "outcome": outcome}, float(getattr(delivery, outcome)))
        for delivery in deliveries
        for outcome in ("delivered", "given_up", "failed_attempts")
    ]
    names = ("app", "action", "status", "dry_run")
    done = Counter((action.app, action.kind, action.status, str(action.dry_run).lower()) for action in actions)
    by_app = sorted(Counter(alarm.app for alarm in alarms).items())
    families: dict[str, tuple[str, str, Samples]] = {
        "app_alarms": (
            "gauge",
            "how many alarms of the app last: one thing to be told of",
            [({"app": app}, float(count)) for app, count in by_app],
        ),
        "alarm": ("gauge", "1 while the alarm lasts", [(labels, 1.0) for labels, _ in states]),
        "alarm_since_seconds": ("gauge", "when the alarm was first seen", states),
        "alerts_total": ("counter", "alerts by what became of them", alerts),
        "alerts_waiting": (
            "gauge",
            "alerts not delivered yet",
            [({"channel": delivery.channel}, float(delivery.waiting)) for delivery in deliveries],
        ),
        "actions": (
            "gauge",
            "actions by how they stand",
            [(dict(zip(names, key, strict=True)), float(count)) for key, count in sorted(done.items())],
        ),
        "stage_runs_total": (
            "counter",
            "how often each part of a tick ran",
            [({"stage": stage.stage}, float(stage.runs)) for stage in stages],
        ),
        "stage_failures_total": (
            "counter",
            "how often each part of a tick failed",
            [({"stage": stage.stage}, float(stage.failures)) for stage in stages],
        ),
        "tick_timestamp_seconds": ("gauge", "when the last tick ended", [({}, at)]),
    }
    lines = []
    for name, (kind, meaning, samples) in families.items():
        lines.append(f"# HELP {_PREFIX}{name} {meaning}\n# TYPE {_PREFIX}{name} {kind}\n")
        for labels, value in samples:
            shown = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
            lines.append(f"{_PREFIX}{name}{f'{{{shown}}}' if shown else ''} {value:.17g}\n")
    return "".join(lines)


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


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
