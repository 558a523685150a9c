"""The monitor's actions in MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmops.recording.active_run import start_run
from llmops.registry.store import Store, translated

KEY_TAG = "llmops.action_key"


def record_action(
    store: Store, experiment: str, key: str, action: Mapping[str, Any], evidence: Mapping[str, Any]
) -> str:
    """Writes one run for an action, once for each key; returns the run's id.

    action: `app`, `action`, `release`, `dry_run`, `why`, `outcome`. evidence: what it was decided on; the ids of its
    rows are a file of their own. Raises StoreUnavailable.
    """
    experiment_id = store.experiment(experiment)
    with translated(f"recording {action['action']} of {action['release']}"):
        runs = store.client.search_runs([experiment_id], f"tags.`{KEY_TAG}` = '{key}'", max_results=1)
        if runs and runs[0].info.status == "FINISHED":
            return str(runs[0].info.run_id)
        shown = f"{action['action']} {action['release']}" + (" (dry run)" if action["dry_run"] else "")
        place = {"run_id": runs[0].info.run_id} if runs else {"experiment_id": experiment_id, "run_name": shown}
        tags = {
            KEY_TAG: key,
            "llmops.app": str(action["app"]),
            "llmops.action": str(action["action"]),
            "llmops.release": str(action["release"]),
            "llmops.dry_run": str(action["dry_run"]).lower(),
            "mlflow.note.content": str(action["why"]),
        }
        with start_run(store, **place, tags=tags) as run:
            run_id = str(run.info.run_id)
            store.client.log_dict(run_id, dict(action), "action.json")
            store.client.log_dict(run_id, dict(evidence), "evidence.json")
            store.client.log_text(run_id, "".join(f"{row}\n" for row in _rows(evidence)), "rows.txt")
        return run_id


def _rows(evidence: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(row for alarm in evidence.get("alarms", ()) for row in alarm["rows"]))
