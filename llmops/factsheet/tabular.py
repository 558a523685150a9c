"""The fact sheet of a tabular model: its signature, training run, data, held-out metrics and gates."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from llmops import __version__
from llmops.factsheet.contents import Column, Data, Evaluation, Factsheet, Gate, Metric, Registered, Tabular
from llmops.factsheet.evaluations import Gates, Verdict, gates_of
from llmops.factsheet.history import AuditTrail, audit_trail, history_of
from llmops.factsheet.monitoring import monitoring_of
from llmops.factsheet.times import iso, now
from llmops.recording.facts import DatasetUse, RunFacts, registration, run_facts, shown_store, verdicts_of
from llmops.recording.tabular import DATA_TAG
from llmops.registry import Registry
from llmops.tabular import RowSchema
from llmops.versions import TabularVersion

_ALGORITHM = ("algorithm", "candidate")
_HELD_OUT = ("test", "validation", "evaluation")
_LOW, _HIGH = "_low", "_high"
_NO_NUMBERS = ("example_count",)  # MLflow's own evaluation counts its rows among its metrics
_NO_PARAMETERS = (*_ALGORITHM, "rows_trained_on", "rows_held_out")


def tabular_sheet(registry: Registry, version: TabularVersion) -> Factsheet:
    """The sheet without its limits. Raises UnknownVersion where the training run is gone, StoreUnavailable,
    Corrupted."""
    store, book = registry.store, registry.tabular_versions
    run = run_facts(store, version.run_id)
    trail = audit_trail(registry, version.name)
    history = history_of(trail, book.history(version.name), version)
    gates = _gates(version, book.gates(version), verdicts_of(store, version.run_id), trail)
    return Factsheet(
        ref=version.ref,
        kind="tabular",
        made_at=now(),
        llmops=__version__,
        store=shown_store(store),
        aliases=version.aliases,
        description=run.tags.get("mlflow.note.content", ""),
        registered=tuple(_registered(registry, version, run, trail)),
        parameters={name: value for name, value in run.params.items() if name not in _NO_PARAMETERS},
        tabular=_tabular(version, run),
        data=_data(version, run),
        evaluations=tuple(_evaluations(run, gates)),
        gates=gates,
        history=history,
        monitoring=monitoring_of(store, version.name, version.ref, history.periods),
    )


def _registered(registry: Registry, version: TabularVersion, run: RunFacts, trail: AuditTrail) -> list[Registered]:
    made = registration(registry.store, version.name, version.version)
    return [
        Registered("tabular model", version.ref, iso(made.at), trail.registrar(version.ref) or made.by),
        Registered("training run", version.run_id, iso(run.at), run.by),
    ]


def _tabular(version: TabularVersion, run: RunFacts) -> Tabular:
    schema = RowSchema.from_json(version.schema)
    return Tabular(
        ref=version.ref,
        task=schema.task,
        algorithm=next((run.params[name] for name in _ALGORITHM if name in run.params), None),
        sha256=version.sha256,
        source=version.source,
        run_id=version.run_id,
        inputs=tuple(Column(**dataclasses.asdict(column)) for column in schema.inputs),
        output=Column(**dataclasses.asdict(schema.output)),
        cycle=version.cycle,
        provenance=dict(version.provenance),
    )


def _gates(version: TabularVersion, gates: Gates, filed: Sequence[Verdict], trail: AuditTrail) -> tuple[Gate, ...]:
    """The version's verdicts. filed: those kept with its training run, which is then the run that they judge."""
    found, run_id = gates_of(gates, filed, trail, version.ref), version.run_id if filed else None
    return tuple(dataclasses.replace(gate, run_id=gate.run_id or run_id) for gate in found)


def _data(version: TabularVersion, run: RunFacts) -> tuple[Data, ...]:
    """What the run was told it used, with the hash of the file it was taken from; and that file by itself where none of
    it was."""
    told = version.provenance
    licence, sha256 = (str(told[name]) if told.get(name) else None for name in ("licence", "data_sha256"))
    found = _once([_used(used) for used in run.datasets])
    origin = str(told["data_source"]) if told.get("data_source") else None
    sources = {data.source for data in found if data.use == "training"} | {origin}
    found = [
        dataclasses.replace(
            data,
            licence=licence if data.source and data.source in sources else None,
            source_sha256=sha256 if _taken_from(data, origin) and data.sha256 != sha256 else None,
        )
        for data in found
    ]
    if sha256 is not None and all(sha256 not in (data.sha256, data.source_sha256) for data in found):
        found.append(Data("source", "the file it was registered with", sha256, licence, source=origin))
    return tuple(found)


def _once(found: Sequence[Data]) -> list[Data]:
    """Without what MLflow's own evaluation logs again: rows held out, without use, name and hash of their own."""
    held_out = {data.rows for data in found if data.use in _HELD_OUT and data.sha256}
    again = [data for data in found if not data.use and data.sha256 is None and data.rows in held_out]
    return [data for data in found if data not in again]


def _taken_from(data: Data, origin: str | None) -> bool:
    """Whether it is of the file; labs say after a comma how they drew rows of it."""
    return bool(origin and data.source) and (data.source or "").partition(", ")[0] == origin


def _used(used: DatasetUse) -> Data:
    rows, source = used.profile.get("num_rows"), used.source.get("uri")
    return Data(
        used.context,
        used.name,
        used.tags.get(DATA_TAG),
        rows=rows if isinstance(rows, int) else None,
        source=str(source) if source else None,
        digest=used.digest,
    )


def _evaluations(run: RunFacts, gates: Sequence[Gate]) -> list[Evaluation]:
    """The training run's own numbers, of the rows that it held out; none where it has none."""
    if not run.metrics:
        return []
    held_out = [used for used in run.datasets if used.context in _HELD_OUT]
    rows = held_out[0].profile.get("num_rows") if held_out else None
    return [
        Evaluation(
            suite=held_out[0].name if held_out else run.experiment,
            run_id=run.run_id,
            at=iso(run.at),
            by=run.by,
            rows=rows if isinstance(rows, int) else None,
            metrics=_metrics(run.metrics, rows),
            deciding=tuple(dict.fromkeys(str(gate.rules["primary"]) for gate in gates if "primary" in gate.rules)),
            data=tuple(used.name for used in held_out),
        )
    ]


def _metrics(numbers: Mapping[str, float], rows: Any) -> tuple[Metric, ...]:
    """Numbers whose interval's ends stand beside them (`rmse`, `rmse_low`, `rmse_high`) first."""
    found = []
    for name, value in numbers.items():
        low, high = numbers.get(name + _LOW), numbers.get(name + _HIGH)
        ends = None if low is None or high is None else (low, high)
        is_end = any(name.endswith(end) and name.removesuffix(end) in numbers for end in (_LOW, _HIGH))
        if not is_end and name not in _NO_NUMBERS:
            found.append(Metric(name, value, ends, rows if isinstance(rows, int) and ends else None))
    return tuple(sorted(found, key=lambda metric: (metric.ci95 is None, metric.name)))
