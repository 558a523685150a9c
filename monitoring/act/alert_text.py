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

from collections.abc import Mapping
from typing import Any

ROWS_SHOWN = 5
_HEADS = {"opened": "ALARM", "lasting": "STILL ALARMING", "resolved": "RESOLVED"}


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
    lines = [title(alert), ""]
    if alert["event"] == "action":
        lines.append(str(alert["why"]))
        lines += [f"  {name}: {value}" for name, value in (alert.get("outcome") or {}).items()]
        lines += _rows(alert)
    else:
        parts = alert.get("parts") or [alert]
        for part in parts:
            if len(parts) > 1:  # else the title says already what it is
                lines.append(_one_line(f"{part['what']} ({part['kind']}, {part['severity']}): {part['release'] or ''}"))
            seen = f"first {part['first_at']}, last {part['last_at']}, seen {part['times']} times"
            lines += [str(part["why"]), seen, *_rows(part)]
    if alert.get("policy"):
        lines.append(f"no {alert['policy']['wanted']} was made: {alert['policy']['why']}")
    if alert.get("run_url"):
        lines.append(f"MLflow: {alert['run_url']}")
    lines += ["", f"alert {alert['id']}; llmops monitor alarms list"]
    return "\n".join(lines)


def _rows(part: Mapping[str, Any]) -> list[str]:
    rows = part.get("rows", ())
    lines = [f"  {row.get('url') or row['show']}" for row in rows[:ROWS_SHOWN]]
    return [*lines, f"  and {len(rows) - ROWS_SHOWN} more rows"] if len(rows) > ROWS_SHOWN else lines


def _one_line(value: str) -> str:
    return " ".join(value.split())
