"""The fact sheet of a tabular model, from its registered version, its training run and the audit log."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from llmops.factsheet.contents import Data, Evaluation, Factsheet, Gate, Metric, Registered, Tabular, iso
from llmops.factsheet.history import AuditTrail, gates_of, history_of, monitoring_of, registered
from llmops.recording.cell import USER_TAG, DatasetUse, used_datasets, verdicts_of
from llmops.recording.tabular import DATA_TAG
from llmops.registry import Registry
from llmops.registry.store import translated
from llmops.tabular import RowSchema
from llmops.versions import TabularVersion

_ALGORITHM = ("algorithm", "candidate")
_HELD_OUT = ("test", "validation", "evaluation")
_NO_NUMBERS = ("example_count",)  # MLflow's own evaluation counts its rows among its metrics
_NO_PARAMETERS = (*_ALGORITHM, "rows_trained_on", "rows_held_out")


def of_tabular_model(registry: Registry, version: TabularVersion) -> Factsheet:
    """As `make_factsheet`, which adds what is derived from it. Raises UnknownVersion, StoreUnavailable, Corrupted."""
    store, book = registry.store, registry.tabular_versions
    with translated(f"run {version.run_id}"):
        run = store.client.get_run(version.run_id)
        experiment = store.client.get_experiment(run.info.experiment_id).name
    datasets, params, tags = used_datasets(run), run.data.params, run.data.tags
    at, by = iso(run.info.start_time / 1000), tags.get(USER_TAG) or None
    trail = AuditTrail.of(registry, version.name)
    history = history_of(trail, book.history(version.name), version)
    filed = verdicts_of(store, version.run_id)
    # Verdicts that were filed with the training run judge that run.
    gates = tuple(
        dataclasses.replace(gate, run_id=gate.run_id or (version.run_id if filed else None))
        for gate in gates_of(book.gates(version), filed, trail, version.ref)
    )
    schema = RowSchema.from_json(version.schema)
    return Factsheet(
        ref=version.ref,
        kind="tabular",
        aliases=version.aliases,
        description=tags.get("mlflow.note.content", ""),
        registered=(
            registered(store, trail, "tabular model", version.ref),
            Registered("training run", version.run_id, at, by),
        ),
        parameters={name: value for name, value in params.items() if name not in _NO_PARAMETERS},
        tabular=Tabular(
            ref=version.ref,
            task=schema.task,
            algorithm=next((params[name] for name in _ALGORITHM if name in params), None),
            sha256=version.sha256,
            source=version.source,
            run_id=version.run_id,
            inputs=schema.inputs,
            output=schema.output,
            cycle=version.cycle,
            provenance=dict(version.provenance),
        ),
        data=_training_data(version, datasets),
        evaluations=_held_out_evaluation(run, experiment, datasets, gates),
        gates=gates,
        history=history,
        monitoring=monitoring_of(store, version.name, version.ref, history.periods),
    )


def _training_data(version: TabularVersion, datasets: Sequence[DatasetUse]) -> tuple[Data, ...]:
    """What the run was told it used, with the hash of the file it was taken from; and that file by itself where none of
    it was. What MLflow's own evaluation logs again is left out: rows held out, without use, name and hash of their own.
    """
    licence, sha256, origin = (
        str(version.provenance[name]) if version.provenance.get(name) else None
        for name in ("licence", "data_sha256", "data_source")
    )
    found = []
    for used in datasets:
        rows, source = used.profile.get("num_rows"), used.source.get("uri")
        found.append(
            Data(
                used.context,
                used.name,
                used.tags.get(DATA_TAG),
                rows=rows if isinstance(rows, int) else None,
                source=str(source) if source else None,
                digest=used.digest,
            )
        )
    held_out = {data.rows for data in found if data.use in _HELD_OUT and data.sha256}
    sources = {data.source for data in found if data.use == "training"} | {origin}
    data = [
        dataclasses.replace(
            each,
            licence=licence if each.source and each.source in sources else None,
            # Labs say after a comma how they drew rows of the file.
            source_sha256=(
                sha256
                if origin and (each.source or "").partition(", ")[0] == origin and each.sha256 != sha256
                else None
            ),
        )
        for each in found
        if each.use or each.sha256 is not None or each.rows not in held_out
    ]
    if sha256 is not None and all(sha256 not in (each.sha256, each.source_sha256) for each in data):
        data.append(Data("source", "the file it was registered with", sha256, licence, source=origin))
    return tuple(data)


def _held_out_evaluation(
    run: Any, experiment: str, datasets: Sequence[DatasetUse], gates: Sequence[Gate]
) -> tuple[Evaluation, ...]:
    """The training run's own numbers, of the rows that it held out; none where it has none."""
    if not run.data.metrics:
        return ()
    held_out = [used for used in datasets if used.context in _HELD_OUT]
    rows = held_out[0].profile.get("num_rows") if held_out else None
    known = rows if isinstance(rows, int) else None
    return (
        Evaluation(
            suite=held_out[0].name if held_out else experiment,
            run_id=run.info.run_id,
            at=iso(run.info.start_time / 1000),
            by=run.data.tags.get(USER_TAG) or None,
            rows=known,
            metrics=_metrics(run.data.metrics, known),
            deciding=tuple(dict.fromkeys(str(gate.rules["primary"]) for gate in gates if "primary" in gate.rules)),
            data=tuple(used.name for used in held_out),
        ),
    )


def _metrics(numbers: Mapping[str, float], rows: int | None) -> tuple[Metric, ...]:
    """Numbers whose interval's ends stand beside them (`rmse`, `rmse_low`, `rmse_high`) first."""
    found = []
    for name, value in numbers.items():
        low, high = numbers.get(f"{name}_low"), numbers.get(f"{name}_high")
        ends: Any = None if low is None or high is None else (low, high)
        is_end = any(name.endswith(end) and name.removesuffix(end) in numbers for end in ("_low", "_high"))
        if not is_end and name not in _NO_NUMBERS:
            found.append(Metric(name, value, ends, rows if ends else None))
    return tuple(sorted(found, key=lambda metric: (metric.ci95 is None, metric.name)))
