"""Deletes what MLflow holds of a user's requests: traces sampled from the production log, and opinions on others."""

from typing import Any

import sqlalchemy as sa

from llmops.errors import UnknownVersion
from llmops.production_log import Belongings, in_batches
from llmops.production_log.forgetting import erase_from_file
from llmops.recording.production_traces import FEEDBACK_KEY, experiment_of, trace_id_of
from llmops.registry.store import Store, translated
from llmops.settings import Settings
from llmops.state_files import sqlite_path

_AT_ONCE = 100  # MLflow's limit


class Traces:
    """The traces in one store. None is made where there is no store yet."""

    def __init__(self, settings: Settings) -> None:
        """Raises StoreUnavailable."""
        self._file = sqlite_path(settings.resolved_tracking_uri)
        self._store = Store(settings) if self._file is None or self._file.exists() else None

    def forget(self, found: Belongings) -> dict[str, int]:
        """Deletes the traces of the records and the assessments made of the feedback; counts by kind.

        Called again it finds nothing. Raises StoreUnavailable.
        """
        if self._store is None:
            return {"traces": 0, "assessments": 0}
        from mlflow.tracing.client import TracingClient

        client, traces, own = TracingClient(self._store.uri), 0, found.all_keys
        with translated("production traces"):
            for app, keys in found.keys.items():
                experiment = self._store.client.get_experiment_by_name(experiment_of(app))
                if experiment is None:
                    continue
                for ids in in_batches(map(trace_id_of, sorted(keys)), _AT_ONCE):
                    traces += client.delete_traces(experiment_id=experiment.experiment_id, trace_ids=ids)
        others = [(key, trace_id_of(record_key)) for key, record_key in sorted(found.opinions) if record_key not in own]
        return {"traces": traces, "assessments": sum(self._delete_opinions(client, *each) for each in others)}

    def erase(self, found: Belongings) -> bool:
        """Erases what was deleted from the store's files, where they are SQLite's; returns whether it did. Raises
        CannotRun."""
        if self._store is None or self._file is None:
            return False
        engine = sa.create_engine(f"sqlite:///{self._file}")
        try:
            # The keys stand in tags of the traces. MLflow does not overwrite what it deletes.
            alone = engine.execution_options(isolation_level="AUTOCOMMIT").connect
            erase_from_file(alone, self._file, found.all_keys, found.pieces)
        finally:
            engine.dispose()
        return True

    def _delete_opinions(self, client: Any, key: str, trace_id: str) -> int:
        try:
            with translated(f"trace {trace_id}"):
                said = client.get_trace_info(trace_id).assessments
                own = [item.assessment_id for item in said if (item.metadata or {}).get(FEEDBACK_KEY) == key]
                for assessment_id in own:
                    client.delete_assessment(trace_id, assessment_id)
        except UnknownVersion:
            return 0  # its record was not sampled
        return len(own)
