"""An alert as JSON, kept in the outbox and posted as it is; and as the lines that a person reads.

    {"id": "alarm-7-opened-1", "event": "opened", "app": "assistant", "release": "assistant@3", "what": "refusal",
     "kind": "sequential", "severity": "high", "slice": {"release": "assistant@3"}, "why": "…", "first_at": "…",
     "last_at": "…", "times": 1, "rows": [{"request_id": "r1", "show": "llmops log show r1", "url": "https://…"}],
     "run_url": "https://…"}

event: `opened`, `lasting`, `resolved`, or `action`; an action has `action`, `dry_run` and `outcome` besides. The id is
the same in every attempt and on every channel: a receiver that got an alert twice can tell.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from monitoring.act.alerts.settings import AlertSettings

ROWS_SHOWN = 5

_HEADS = {
    "opened": "ALARM",
    "lasting": "STILL ALARMING",
    "resolved": "RESOLVED",
    "action": "ACTION",
}


def row_links(settings: AlertSettings, request_ids: Iterable[str]) -> list[dict[str, str]]:
    """How to see each request: as a command, and as an address where `row_url` is set."""
    links = []
    for request_id in request_ids:
        link = {"request_id": request_id, "show": f"llmops log show {shlex.quote(request_id)}"}
        if settings.row_url:
            link["url"] = settings.row_url.replace("{request_id}", quote(request_id, safe=""))
        links.append(link)
    return links


def run_url(settings: AlertSettings, run_id: str | None) -> str | None:
    """Where MLflow's UI shows a run, where `mlflow_url` is set; it finds the experiment by itself."""
    if not settings.mlflow_url or not run_id:
        return None
    return f"{settings.mlflow_url.rstrip('/')}/#/runs/{quote(run_id, safe='')}"


def title(alert: Mapping[str, Any]) -> str:
    """One line: what happened, to whom."""
    where = alert.get("release") or alert["app"]
    if alert["event"] == "action":
        mode = "dry run, nothing was done: " if alert["dry_run"] else ""
        failed = "" if alert.get("succeeded", True) else " FAILED"
        return _one_line(f"ACTION{failed} {mode}{alert['action']} of {where}")
    return _one_line(f"{_HEADS[alert['event']]} {alert['what']} ({alert['kind']}, {alert['severity']}) in {where}")


def text(alert: Mapping[str, Any]) -> str:
    """The whole alert for a person, in plain lines."""
    lines = [title(alert), "", str(alert["why"])]
    if alert.get("outcome"):
        lines += [f"  {name}: {value}" for name, value in alert["outcome"].items()]
    if alert["event"] in ("opened", "lasting", "resolved"):
        lines.append(f"first {alert['first_at']}, last {alert['last_at']}, seen {alert['times']} times")
    rows = alert.get("rows", ())
    lines += [f"  {row.get('url') or row['show']}" for row in rows[:ROWS_SHOWN]]
    if len(rows) > ROWS_SHOWN:
        lines.append(f"  and {len(rows) - ROWS_SHOWN} more rows")
    if alert.get("run_url"):
        lines.append(f"MLflow: {alert['run_url']}")
    lines += ["", f"alert {alert['id']}; llmops monitor alarms list"]
    return "\n".join(lines)


def _one_line(value: str) -> str:
    return " ".join(value.split())
