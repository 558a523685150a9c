"""Red team runs in MLflow: success rates with their intervals, and the attacks that succeeded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llmops.recording.cell import shown_param
from llmops.registry.store import Store, translated

_EXPERIMENT = "redteam"


def record_red_team(store: Store, result: Mapping[str, Any]) -> str:
    """Writes one run: what `RedTeamResult.to_dict` gives as `redteam.json`, rates as metrics. Returns its id. Raises
    StoreUnavailable."""
    from mlflow.entities import Metric

    with translated(f"red team of {result['release']}"):
        tags = {"llmops.release": result["release"], "llmops.redteam.verdict": result["verdict"]}
        run = store.client.create_run(store.experiment(_EXPERIMENT), tags=tags, run_name=result["release"])
        run_id, at = str(run.info.run_id), run.info.start_time
        store.client.log_text(run_id, json.dumps(result, ensure_ascii=False, indent=1), "redteam.json")
        metrics = []
        for kind, found in result["kinds"].items():
            for part, rate in (("", found), ("guarded/", found["guarded"])):
                if rate:
                    ends = {"rate": rate["rate"], "low": rate["ci95"][0], "high": rate["ci95"][1]}
                    metrics += [Metric(f"{part}{kind}/{name}", float(end), at, 0) for name, end in ends.items()]
        shown = {name: shown_param(result[name]) for name in ("release", "seed", "attacks", "ceiling", "guards")}
        store.log_numbers(run_id, metrics, shown)
        store.client.set_terminated(run_id)
        return run_id
