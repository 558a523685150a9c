"""Puts a fact sheet together: everything that registry, eval and training runs, and audit log know of a version."""

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from llmops import __version__
from llmops.errors import UnknownVersion
from llmops.eval_runs.matrix import NOISE_PARAM
from llmops.evaluation.gate_rules import GateRules
from llmops.evaluation.results import RowResult, ScoreTally
from llmops.evaluation.statistics import UNLIMITED
from llmops.factsheet.contents import (
    Data,
    Factsheet,
    JudgeAgreement,
    Model,
    RecordedEvaluation,
    RecordedGate,
    RecordedMetric,
    RecordedPrompt,
    Registered,
    Slice,
    Tabular,
    iso,
)
from llmops.factsheet.history import AuditTrail, Gates, Verdict, gates_of, history_of, monitoring_of, registered
from llmops.factsheet.rendering import limits_of, unknown_of
from llmops.hashing import content_hash
from llmops.recording import EvalRun, find_calibration, recorded_rows
from llmops.recording.cell import USER_TAG, DatasetUse, eval_runs, used_datasets, verdicts_of
from llmops.recording.tabular import DATA_TAG
from llmops.registry import Registry
from llmops.registry.models import KIND_TAG
from llmops.registry.promotions import Promotions
from llmops.registry.store import Store, translated
from llmops.tabular import RowSchema
from llmops.versions import Ref, Release, TabularVersion, shown_guards

MOST_SLICES = 20
"""Of one tag: beyond, it names rows rather than slices."""
_NO_SETTINGS = ("prompt", "model", "parameters.", NOISE_PARAM, "cleaned_texts")
_ALGORITHM = ("algorithm", "candidate")
_HELD_OUT = ("test", "validation", "evaluation")
_NO_NUMBERS = ("example_count",)  # MLflow's own evaluation counts its rows among its metrics
_NO_PARAMETERS = (*_ALGORITHM, "rows_trained_on", "rows_held_out")


def make_factsheet(registry: Registry, ref: str) -> Factsheet:
    """The sheet of a release or a tabular model: `assistant@3`, `bike@champion`, or `assistant` (its champion). Raises
    UnknownVersion: there is no such version, or the training run of a tabular model is gone. UsageError: `ref` is no
    name of one. StoreUnavailable, Corrupted."""
    name, books = Ref.parse(ref).name, (registry.release_versions, registry.tabular_versions)
    kinds = {str(item.name): item.tags.get(KIND_TAG) for item in registry.store.registered_models()}
    for book in books:
        if kinds.get(name) == book.kind:
            return sheet_of(registry, book.get(ref))
    known = ", ".join(name for book in books for name in sorted(kinds) if kinds[name] == book.kind)
    raise UnknownVersion(f"no app or tabular model {name!r} is registered; there are: {known or 'none'}")


def sheet_of(registry: Registry, version: Release | TabularVersion) -> Factsheet:
    """As `make_factsheet`."""
    is_release, store, trail = isinstance(version, Release), registry.store, AuditTrail.of(registry, version.name)
    book: Promotions[Any] = registry.release_versions if is_release else registry.tabular_versions
    history, gates = history_of(trail, book.history(version.name), version), book.gates(version)
    parts = (
        _of_release(store, version, gates, trail)
        if isinstance(version, Release)
        else _of_tabular_model(store, version, gates, trail)
    )
    sheet = Factsheet(
        ref=version.ref,
        kind="release" if is_release else "tabular",
        aliases=version.aliases,
        history=history,
        monitoring=monitoring_of(store, version.name, version.ref, history.periods),
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        llmops=__version__,
        store=re.sub(r"(?<=://)[^/]*@", "", store.uri),  # without user and password
        **parts,
    )
    return dataclasses.replace(sheet, limits=limits_of(sheet), unknown=unknown_of(sheet))


def _of_release(store: Store, release: Release, gates: Gates, trail: AuditTrail) -> dict[str, Any]:
    """Fields of the sheet. Raises StoreUnavailable, Corrupted."""
    prompt, model = release.prompt, release.model
    shown, further, others = _shown_runs(store, release, gates)
    filed = [verdict for _, verdicts in shown for verdict in verdicts]
    made_of = (("release", release.ref), ("prompt", prompt.ref), ("model", model.ref))
    return {
        "registered": tuple(registered(store, trail, *part) for part in made_of),
        "parameters": {
            name: value for name, value in release.parameters.to_mapping().items() if value not in (None, [])
        },
        "guards": tuple(shown_guards(release.guards)),
        "prompt": RecordedPrompt(
            ref=prompt.ref,
            sha256=prompt.template.content_hash,
            input_variable=prompt.template.input_variable,
            turns=tuple((turn["role"], turn["content"]) for turn in prompt.template.turns),
            description=prompt.template.description,
        ),
        "model": Model(
            ref=model.ref,
            source=model.source,
            format=model.format,
            sha256=model.sha256,
            licence=model.licence or None,
            size_bytes=model.size_bytes or None,
            provenance=dict(model.provenance),
        ),
        "data": _eval_sets(run for run, _ in shown),
        "evaluations": tuple(_evaluation(store, *found, gates) for found in shown),
        "further_runs": further,
        "other_parameters": others,
        "gates": gates_of(gates, filed, trail, release.ref),
    }


RunWithVerdicts = tuple[EvalRun, tuple[Verdict, ...]]
"""An eval run, and the verdicts on record with it."""


def _shown_runs(store: Store, release: Release, gates: Gates) -> tuple[list[RunWithVerdicts], int, int]:
    """The release's eval runs that its sheet shows; how many it does not; and how many had its prompt and model, and
    other parameters.

    Shown are of each suite the newest run of all its rows, or, without one, the newest; and those with a verdict. A run
    is the release's when prompt, weights and parameters are. Raises StoreUnavailable, Corrupted.
    """
    found = eval_runs(store, release.prompt.ref, release.model.ref)
    identity = {
        "prompt": [release.prompt.ref, release.prompt.template.content_hash],
        "model": [release.model.ref, release.model.sha256],
        "parameters": release.parameters.to_mapping(),
    }
    own = [run for run in found if all(run.content.get(name) == value for name, value in identity.items())]
    first: dict[str, EvalRun] = {}
    for run in sorted(own, key=lambda run: _whole(run) is not True):
        first.setdefault(run.suite, run)
    gated = {run_id for gate in gates.values() for run_id in gate.get("runs", {}).values()}
    verdicts = {run.run_id: verdicts_of(store, run.run_id) for run in own}
    shown = [
        (run, verdicts[run.run_id])
        for run in own
        if first[run.suite] is run or verdicts[run.run_id] or run.run_id in gated
    ]
    return shown, len(own) - len(shown), len(found) - len(own)


def _evaluation(store: Store, run: EvalRun, verdicts: Sequence[Verdict], gates: Gates) -> RecordedEvaluation:
    """A run as the sheet tells it. Raises StoreUnavailable."""
    content, on_record = run.content, [gates[run.suite]] if run.suite in gates else verdicts
    rules = next((gate["rules"] for gate in on_record if gate.get("rules")), None)
    deciding = () if rules is None else tuple(dict.fromkeys(GateRules.from_mapping(rules).scorers))
    scorers = [name for name in deciding or run.metrics if name in run.metrics]
    noise = run.params.get(NOISE_PARAM)
    judges: dict[str, JudgeAgreement | None] = {}
    for scorer, identity in content.get("judges", {}).items():
        if "judge" in identity:
            known = find_calibration(store, content_hash(identity))
            ends = None if known is None or known["kappa_low"] is None else (known["kappa_low"], known["kappa_high"])
            judges[scorer] = None if known is None else JudgeAgreement(known["kappa"], ends, int(known["n"]))
    with translated(f"run {run.run_id}"):
        rows = recorded_rows(store, run.run_id, run.rows)
    return RecordedEvaluation(
        suite=run.suite,
        run_id=run.run_id,
        at=iso(run.at),
        by=run.by,
        rows=run.rows,
        metrics=tuple(RecordedMetric.of(name, metric) for name, metric in run.metrics.items()),
        slices=slices_of(
            rows, scorers, content.get("cluster_by"), {name: run.metrics[name].limits for name in scorers}
        ),
        deciding=deciding,
        settings={
            name: value
            for name, value in run.params.items()
            if not name.startswith(_NO_SETTINGS) and value not in ("null", "None", "[]")
        },
        data=tuple(used.name for used in run.datasets),
        judges=judges,
        noise=json.loads(noise) if noise else None,
        whole=_whole(run),
        stopped_early=content.get("stopped_early") is not None,
        clustered_by=content.get("cluster_by"),
        answers=run.answers,
    )


def _whole(run: EvalRun) -> bool | None:
    """Whether all rows of the eval sets were run. A suite of several has a dataset of its own before them."""
    content, datasets = run.content, run.datasets
    parts = {used.name: used.source.get("sha256") for used in (datasets if len(datasets) == 1 else datasets[1:])}
    if "rows" not in content or None in parts.values():
        return None
    return bool(content["rows"] == content_hash(parts))


def _eval_sets(shown: Iterable[EvalRun]) -> tuple[Data, ...]:
    """The eval sets of all runs, each content once. Their licence is kept nowhere."""
    found: dict[tuple[str, str | None], Data] = {}
    for used in (used for each in shown for used in each.datasets):
        dataset, use, sha256 = used.source.get("dataset_id"), used.context or "evaluation", used.source.get("sha256")
        source = f"MLflow dataset {dataset}" if dataset else None
        data = Data(use, used.name, sha256, rows=_row_count(used), source=source, digest=used.digest)
        found.setdefault((data.name, data.sha256), data)
    return tuple(found.values())


def _row_count(used: DatasetUse) -> int | None:
    rows = used.profile.get("num_rows")
    return rows if isinstance(rows, int) else None


def slices_of(
    rows: Iterable[RowResult],
    scorers: Sequence[str],
    cluster_by: str | None = None,
    limits: Mapping[str, tuple[float, float]] | None = None,
) -> tuple[Slice, ...]:
    """The scorers' means with 95 % intervals in each slice, in the order of slices and scorers. A tag that all rows
    share alike makes none, nor does one of more than `MOST_SLICES` values.

    rows: read twice, so that they need not be in memory.
    cluster_by: as `cluster_of` reads it.
    limits: of a scorer's values, where they are known.
    """
    values: dict[str, Counter[str]] = {}
    for result in rows if scorers else ():
        for tag, value in result.row.tags.items():
            counted = values.setdefault(tag, Counter())
            if len(counted) <= MOST_SLICES:
                counted[value] += 1
    tallies = {
        (f"{tag}={value}", scorer): ScoreTally(scorer, (limits or {}).get(scorer, UNLIMITED), cluster_by)
        for tag, counted in sorted(values.items())
        if 1 < len(counted) <= MOST_SLICES
        for value in sorted(counted)
        for scorer in scorers
    }
    for result in rows if tallies else ():
        for tag, value in result.row.tags.items():
            for tally in (tallies.get((f"{tag}={value}", scorer)) for scorer in scorers):
                if tally is not None:
                    tally.add(result)
    return tuple(Slice(name, RecordedMetric.of(scorer, tally.metric())) for (name, scorer), tally in tallies.items())


def _of_tabular_model(store: Store, version: TabularVersion, gates: Gates, trail: AuditTrail) -> dict[str, Any]:
    """As `_of_release`. Raises UnknownVersion: the training run is gone."""
    with translated(f"run {version.run_id}"):
        run = store.client.get_run(version.run_id)
        experiment = store.client.get_experiment(run.info.experiment_id).name
    datasets, params, tags = used_datasets(run), run.data.params, run.data.tags
    at, by = iso(run.info.start_time / 1000), tags.get(USER_TAG) or None
    filed = verdicts_of(store, version.run_id)
    # Verdicts that were filed with the training run judge that run.
    judged = tuple(
        dataclasses.replace(gate, run_id=gate.run_id or (version.run_id if filed else None))
        for gate in gates_of(gates, filed, trail, version.ref)
    )
    schema = RowSchema.from_json(version.schema)
    return {
        "description": tags.get("mlflow.note.content", ""),
        "registered": (
            registered(store, trail, "tabular model", version.ref),
            Registered("training run", version.run_id, at, by),
        ),
        "parameters": {name: value for name, value in params.items() if name not in _NO_PARAMETERS},
        "tabular": Tabular(
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
        "data": _training_data(version, datasets),
        "evaluations": _held_out_evaluation(run, experiment, datasets, judged),
        "gates": judged,
    }


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
        sha256_of_rows, source = used.tags.get(DATA_TAG), str(used.source.get("uri") or "") or None
        found.append(
            Data(used.context, used.name, sha256_of_rows, rows=_row_count(used), source=source, digest=used.digest)
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
    run: Any, experiment: str, datasets: Sequence[DatasetUse], gates: Sequence[RecordedGate]
) -> tuple[RecordedEvaluation, ...]:
    """The training run's own numbers, of the rows that it held out; none where it has none."""
    if not run.data.metrics:
        return ()
    held_out = [used for used in datasets if used.context in _HELD_OUT]
    rows = _row_count(held_out[0]) if held_out else None
    return (
        RecordedEvaluation(
            suite=held_out[0].name if held_out else experiment,
            run_id=run.info.run_id,
            at=iso(run.info.start_time / 1000),
            by=run.data.tags.get(USER_TAG) or None,
            rows=rows,
            metrics=_metrics(run.data.metrics, rows),
            deciding=tuple(dict.fromkeys(str(gate.rules["primary"]) for gate in gates if "primary" in gate.rules)),
            data=tuple(used.name for used in held_out),
        ),
    )


def _metrics(numbers: Mapping[str, float], rows: int | None) -> tuple[RecordedMetric, ...]:
    """Numbers whose interval's ends stand beside them (`rmse`, `rmse_low`, `rmse_high`) first."""
    found = []
    for name, value in numbers.items():
        low, high = numbers.get(f"{name}_low"), numbers.get(f"{name}_high")
        ends: Any = None if low is None or high is None else (low, high)
        is_end = any(name.endswith(end) and name.removesuffix(end) in numbers for end in ("_low", "_high"))
        if not is_end and name not in _NO_NUMBERS:
            found.append(RecordedMetric(name, value, ends, rows if ends else None))
    return tuple(sorted(found, key=lambda metric: (metric.ci95 is None, metric.name)))
