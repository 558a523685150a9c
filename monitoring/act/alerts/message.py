"""An alert as JSON, kept in the outbox and posted as it is; and as the lines that a person reads.

    {"id": "alarm-7-opened-1", "event": "opened", "app": "assistant", "release": "assistant@3", "what": "refusal",
     "kind": "sequential", "severity": "high", "slice": {"release": "assistant@3"}, "why": "…", "first_at": "…",
     "last_at": "…", "times": 1, "rows": [{"request_id": "r1", "show": "llmops log show r1", "url": "https://…"}],
     "run_url": "https://…", "parts": [{"alarm": 7, "release": …, "what": …, …}, …],
     "policy": {"wanted": "rollback", "done": null, "dry_run": false, "why": "…"}}

All alarms that one look at an app found are one alert: `parts` has each, with its fields as above, and the alert's own
are those of the gravest. policy: why the app's policy does nothing about them; absent where it does, or is to observe.

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
    others = len(alert.get("parts", ())) - 1
    more = f" and {others} more" if others > 0 else ""
    return _one_line(
        f"{_HEADS[alert['event']]} {alert['what']} ({alert['kind']}, {alert['severity']}){more} in {where}"
    )


def text(alert: Mapping[str, Any]) -> str:
    """The whole alert for a person, in plain lines."""
    parts = alert.get("parts") or [alert]
    lines = [title(alert), ""]
    if alert["event"] == "action":
        lines.append(str(alert["why"]))
        lines += [f"  {name}: {value}" for name, value in (alert.get("outcome") or {}).items()]
        lines += _rows(alert)
    else:
        for part in parts:
            lines += _part(part, alone=len(parts) == 1)
    if alert.get("policy"):
        lines.append(f"no {alert['policy']['wanted']} was made: {alert['policy']['why']}")
    if alert.get("run_url"):
        lines.append(f"MLflow: {alert['run_url']}")
    lines += ["", f"alert {alert['id']}; llmops monitor alarms list"]
    return "\n".join(lines)


def _part(part: Mapping[str, Any], *, alone: bool) -> list[str]:
    """alone: the title says already what it is."""
    head = (
        []
        if alone
        else [_one_line(f"{part['what']} ({part['kind']}, {part['severity']}): {part.get('release') or ''}")]
    )
    seen = f"first {part['first_at']}, last {part['last_at']}, seen {part['times']} times"
    return [*head, str(part["why"]), seen, *_rows(part)]


def _rows(part: Mapping[str, Any]) -> list[str]:
    rows = part.get("rows", ())
    lines = [f"  {row.get('url') or row['show']}" for row in rows[:ROWS_SHOWN]]
    return [*lines, f"  and {len(rows) - ROWS_SHOWN} more rows"] if len(rows) > ROWS_SHOWN else lines


def _one_line(value: str) -> str:
    return " ".join(value.split())
