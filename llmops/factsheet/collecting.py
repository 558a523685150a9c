"""Puts a fact sheet together: everything that registry, eval runs and audit log know of a release. `tabular.py` does
so for a tabular model."""

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from llmops import __version__
from llmops.errors import UnknownVersion
from llmops.eval_runs.matrix import NOISE_PARAM
from llmops.evaluation.gate_rules import GateRules
from llmops.evaluation.results import RowResult, ScoreTally
from llmops.evaluation.statistics import UNLIMITED
from llmops.factsheet.contents import (
    Agreement,
    Data,
    Evaluation,
    Factsheet,
    Metric,
    Model,
    Prompt,
    Slice,
    iso,
)
from llmops.factsheet.history import AuditTrail, Gates, Verdict, gates_of, history_of, monitoring_of, registered
from llmops.factsheet.rendering import limits_of, unknown_of
from llmops.factsheet.tabular import of_tabular_model
from llmops.hashing import content_hash
from llmops.recording import EvalRun, find_calibration, recorded_rows
from llmops.recording.cell import eval_runs, verdicts_of
from llmops.registry import Registry
from llmops.registry.models import KIND_TAG
from llmops.registry.store import Store, translated
from llmops.versions import Ref, Release, shown_guards

MOST_SLICES = 20
"""Of one tag: beyond, it names rows rather than slices."""
_TOLD_ELSEWHERE = ("prompt", "model", "parameters.", NOISE_PARAM, "cleaned_texts")


def make_factsheet(registry: Registry, ref: str) -> Factsheet:
    """The sheet of a release or a tabular model: `assistant@3`, `bike@champion`, or `assistant` (its champion).

    Raises:
        UnknownVersion: there is no such version, or the training run of a tabular model is gone.
        UsageError: `ref` is no name of one.
        StoreUnavailable, Corrupted.
    """
    name, apps, tabular = Ref.parse(ref).name, registry.release_versions, registry.tabular_versions
    kinds = {str(item.name): item.tags.get(KIND_TAG) for item in registry.store.registered_models()}
    if kinds.get(name) == apps.kind:
        sheet = _of_release(registry, apps.get(ref))
    elif kinds.get(name) == tabular.kind:
        sheet = of_tabular_model(registry, tabular.get(ref))
    else:
        known = ", ".join(name for kind in (apps.kind, tabular.kind) for name in sorted(kinds) if kinds[name] == kind)
        raise UnknownVersion(f"no app or tabular model {name!r} is registered; there are: {known or 'none'}")
    return dataclasses.replace(
        sheet,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        llmops=__version__,
        store=re.sub(r"(?<=://)[^/]*@", "", registry.store.uri),  # without user and password
        limits=limits_of(sheet),
        unknown=unknown_of(sheet),
    )


def _of_release(registry: Registry, release: Release) -> Factsheet:
    store, prompt, model = registry.store, release.prompt, release.model
    gates = registry.release_versions.gates(release)
    trail = AuditTrail.of(registry, release.name)
    history = history_of(trail, registry.release_versions.history(release.name), release)
    shown, further, others = _shown_runs(store, release, gates)
    filed = [verdict for _, verdicts in shown for verdict in verdicts]
    parts = (("release", release.ref), ("prompt", prompt.ref), ("model", model.ref))
    return Factsheet(
        ref=release.ref,
        kind="release",
        aliases=release.aliases,
        registered=tuple(registered(store, trail, *part) for part in parts),
        parameters={name: value for name, value in release.parameters.to_mapping().items() if value not in (None, [])},
        guards=tuple(shown_guards(release.guards)),
        prompt=Prompt(
            ref=prompt.ref,
            sha256=prompt.template.content_hash,
            input_variable=prompt.template.input_variable,
            turns=tuple((turn["role"], turn["content"]) for turn in prompt.template.turns),
            description=prompt.template.description,
        ),
        model=Model(
            ref=model.ref,
            source=model.source,
            format=model.format,
            sha256=model.sha256,
            licence=model.licence or None,
            size_bytes=model.size_bytes or None,
            provenance=dict(model.provenance),
        ),
        data=_eval_sets(run for run, _ in shown),
        evaluations=tuple(_evaluation(store, *found, gates) for found in shown),
        further_runs=further,
        other_parameters=others,
        gates=gates_of(gates, filed, trail, release.ref),
        history=history,
        monitoring=monitoring_of(store, release.name, release.ref, history.periods),
    )


Shown = tuple[EvalRun, tuple[Verdict, ...]]
"""An eval run, and the verdicts on record with it."""


def _shown_runs(store: Store, release: Release, gates: Gates) -> tuple[list[Shown], int, int]:
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


def _evaluation(store: Store, run: EvalRun, verdicts: Sequence[Verdict], gates: Gates) -> Evaluation:
    """A run as the sheet tells it. Raises StoreUnavailable."""
    content, on_record = run.content, [gates[run.suite]] if run.suite in gates else verdicts
    rules = next((gate["rules"] for gate in on_record if gate.get("rules")), None)
    deciding = () if rules is None else tuple(dict.fromkeys(GateRules.from_mapping(rules).scorers))
    scorers = [name for name in deciding or run.metrics if name in run.metrics]
    noise = run.params.get(NOISE_PARAM)
    judges: dict[str, Agreement | None] = {}
    for scorer, identity in content.get("judges", {}).items():
        if "judge" in identity:
            known = find_calibration(store, content_hash(identity))
            ends = None if known is None or known["kappa_low"] is None else (known["kappa_low"], known["kappa_high"])
            judges[scorer] = None if known is None else Agreement(known["kappa"], ends, int(known["n"]))
    with translated(f"run {run.run_id}"):
        rows = recorded_rows(store, run.run_id, run.rows)
    return Evaluation(
        suite=run.suite,
        run_id=run.run_id,
        at=iso(run.at),
        by=run.by,
        rows=run.rows,
        metrics=tuple(
            Metric(name, metric.mean, metric.ci95, metric.n_scored, metric.n_failed)
            for name, metric in run.metrics.items()
        ),
        slices=slices_of(
            rows, scorers, content.get("cluster_by"), {name: run.metrics[name].limits for name in scorers}
        ),
        deciding=deciding,
        settings={
            name: value
            for name, value in run.params.items()
            if not name.startswith(_TOLD_ELSEWHERE) and value not in ("null", "None", "[]")
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
        rows, dataset, sha256 = used.profile.get("num_rows"), used.source.get("dataset_id"), used.source.get("sha256")
        data = Data(
            used.context or "evaluation",
            used.name,
            sha256,
            rows=rows if isinstance(rows, int) else None,
            source=f"MLflow dataset {dataset}" if dataset else None,
            digest=used.digest,
        )
        found.setdefault((data.name, data.sha256), data)
    return tuple(found.values())


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
    slices = []
    for (name, scorer), tally in tallies.items():
        metric = tally.metric()
        slices.append(Slice(name, Metric(scorer, metric.mean, metric.ci95, metric.n_scored, metric.n_failed)))
    return tuple(slices)
