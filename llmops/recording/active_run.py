"""MLflow's module-level functions write into whichever store was named last; here that is the one given."""

from __future__ import annotations

from typing import Any

from llmops.registry.store import Store


def start_run(store: Store, **arguments: Any) -> Any:
    """`mlflow.start_run` in this store: a context that marks the run finished, or failed when something is raised."""
    import mlflow

    store.make_current()
    return mlflow.start_run(**arguments)
