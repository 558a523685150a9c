"""The evaluations, gates and data of a fact sheet, from recorded eval runs and the verdicts kept on a version."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmops.eval_runs.cells import NOISE_PARAM
from llmops.evaluation.gate_rules import GateRules
from llmops.evaluation.results import RowResult, ScoreTally
from llmops.evaluation.statistics import UNLIMITED
from llmops.factsheet.contents import (
    Agreement,
    Data,
    Difference,
    Evaluation,
    Gate,
    Metric,
    Slice,
    iso,
    to_the_second,
)
from llmops.factsheet.history import AuditTrail
from llmops.hashing import content_hash
from llmops.recording import RecordedRows
from llmops.recording.facts import EvalFacts, agreement_of, eval_runs
from llmops.registry.store import Store, translated
from llmops.versions import Release

Verdict = Mapping[str, Any]
Gates = Mapping[str, Verdict]
"""Verdicts by suite, as the registry keeps them on a version."""

MOST_SLICES = 20
"""Of one tag: beyond, it names rows rather than slices."""
_TOLD_ELSEWHERE = ("prompt", "model", "parameters.", NOISE_PARAM, "cleaned_texts")


@dataclass(frozen=True, slots=True)
class Recorded:
    """The eval runs of a release. told: those that its sheet shows. further: how many it does not. others: how many had
    its prompt and model, and other parameters."""

    told: tuple[EvalFacts, ...]
    further: int
    others: int


def recorded_of(store: Store, release: Release, gates: Gates) -> Recorded:
    """Of each suite the newest run of all its rows, or, without one, the newest; and those with a verdict.

    A run is the release's when prompt, weights and parameters are. Raises StoreUnavailable, Corrupted.
    """
    found = eval_runs(store, release.prompt.ref, release.model.ref)
    identity = {
        "prompt": [release.prompt.ref, release.prompt.template.content_hash],
        "model": [release.model.ref, release.model.sha256],
        "parameters": release.parameters.to_mapping(),
    }
    own = [each for each in found if all(each.run.content.get(name) == value for name, value in identity.items())]
    shown: dict[str, EvalFacts] = {}
    for each in sorted(own, key=lambda each: _whole(each) is not True):
        shown.setdefault(each.run.suite, each)
    gated = {run_id for gate in gates.values() for run_id in gate.get("runs", {}).values()}
    told = [each for each in own if shown[each.run.suite] is each or each.verdicts or each.run.run_id in gated]
    return Recorded(tuple(told), len(own) - len(told), len(found) - len(own))


def evaluation_of(store: Store, found: EvalFacts, gates: Gates) -> Evaluation:
    """A run as the sheet tells it. Raises StoreUnavailable."""
    run, content = found.run, found.run.content
    on_record = [gates[run.suite]] if run.suite in gates else list(found.verdicts)
    rules = next((gate["rules"] for gate in on_record if gate.get("rules")), None)
    deciding = () if rules is None else tuple(dict.fromkeys(GateRules.from_mapping(rules).scorers))
    scorers = [name for name in deciding or run.metrics if name in run.metrics]
    noise = run.params.get(NOISE_PARAM)
    with translated(f"run {run.run_id}"):
        rows = RecordedRows(store, run.run_id, run.rows)
    return Evaluation(
        suite=run.suite,
        run_id=run.run_id,
        at=iso(found.at),
        by=found.by,
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
        data=tuple(used.name for used in found.datasets),
        judges={
            scorer: _agreement(store, identity)
            for scorer, identity in content.get("judges", {}).items()
            if "judge" in identity
        },
        noise=json.loads(noise) if noise else None,
        whole=_whole(found),
        stopped_early=content.get("stopped_early") is not None,
        clustered_by=content.get("cluster_by"),
        answers=run.answers,
    )


def _whole(found: EvalFacts) -> bool | None:
    """Whether all rows of the eval sets were run. A suite of several has a dataset of its own before them."""
    content, datasets = found.run.content, found.datasets
    parts = {used.name: used.source.get("sha256") for used in (datasets if len(datasets) == 1 else datasets[1:])}
    if "rows" not in content or None in parts.values():
        return None
    return bool(content["rows"] == content_hash(parts))


def _agreement(store: Store, identity: Mapping[str, Any]) -> Agreement | None:
    """How far a scorer that asks a language model agrees with people."""
    calibration = agreement_of(store, content_hash(identity))
    if calibration is None:
        return None
    low, high = calibration["kappa_low"], calibration["kappa_high"]
    ends = None if low is None or high is None else (float(low), float(high))
    return Agreement(calibration["kappa"], ends, int(calibration["n"]))


def data_of(recorded: Recorded) -> tuple[Data, ...]:
    """The eval sets of all runs, each content once. Their licence is kept nowhere."""
    found: dict[tuple[str, str | None], Data] = {}
    for used in (used for each in recorded.told for used in each.datasets):
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


def gates_of(gates: Gates, filed: Sequence[Verdict], trail: AuditTrail, ref: str) -> tuple[Gate, ...]:
    """The verdicts on the version, which promotions read, with their comparisons; then others on its runs.

    filed: verdicts that were kept with the runs.
    """
    current, known = [], []
    for suite, gate in gates.items():
        named = {"suite": suite, **gate}
        known.append(_identity(named))
        # None was filed with the verdict where another one took its place.
        file = next((verdict for verdict in filed if _identity(verdict) == known[-1]), named)
        attested = trail.attests(ref, suite, gate)
        current.append(dataclasses.replace(_gate(named, file), attested=attested))
    others = [_gate(verdict, verdict, current=False) for verdict in filed if _identity(verdict) not in known]
    return (*sorted(current, key=lambda gate: gate.at or "", reverse=True), *others)


def _identity(gate: Verdict) -> tuple[Any, ...]:
    """The runs that a verdict compares; where it names none, against whom it was given."""
    return gate.get("suite"), gate["verdict"], sorted(gate.get("runs", {}).items()) or gate.get("against")


def _gate(gate: Verdict, file: Verdict, *, current: bool = True) -> Gate:
    """A verdict with what was written beside it."""
    comparison: Mapping[str, Any] = file.get("comparison") or {"metrics": {}, "slices": {}}
    checks, other = file.get("checks") or (), file.get("compared_with")
    parts = [(None, comparison["metrics"]), *comparison["slices"].items()]
    return Gate(
        suite=str(gate.get("suite", "")),
        verdict=gate["verdict"],
        against=gate.get("against"),
        reasons=tuple(gate.get("reasons", ())),
        at=to_the_second(gate.get("at")),
        run_id=gate.get("runs", {}).get("b"),
        rules=gate.get("rules") or file.get("rules") or {},
        differences=tuple(
            Difference(
                metric=name,
                a=metric["a"],
                b=metric["b"],
                difference=metric["difference"],
                ci95=tuple(metric["ci95"]) if metric["ci95"] else None,
                p_value=metric["p_value"],
                rows=metric["n"],
                slice=part,
                higher_is_better=metric.get("higher_is_better"),
            )
            for part, metrics in parts
            for name, metric in metrics.items()
        ),
        untrusted=tuple(check["metric"] for check in checks if check["kind"] == "judge"),
        power=comparison.get("power", {}),
        current=current,
        compared_with=None if other == gate.get("against") else other,
        checks=tuple(str(check["name"]) for check in checks if "name" in check),
        loosened=tuple(
            f"{each['rule']}, by {each['by']}, {to_the_second(each['at']) or 'with this gate'}"
            for each in gate.get("loosened", ())
        ),
    )


def slices_of(
    rows: Iterable[RowResult],
    scorers: Sequence[str],
    cluster_by: str | None = None,
    limits: Mapping[str, tuple[float, float]] | None = None,
) -> tuple[Slice, ...]:
    """The scorers' means with 95 % intervals in each slice, in the order of slices and scorers. Tags of more than
    `MOST_SLICES` values are left out.

    rows: read twice, so that they need not be in memory.
    cluster_by: as `cluster_of` reads it.
    limits: of a scorer's values, where they are known.
    """
    names = _slices(rows) if scorers else []
    tallies = {
        (name, scorer): ScoreTally(scorer, (limits or {}).get(scorer, UNLIMITED), cluster_by)
        for name in names
        for scorer in scorers
    }
    for result in rows if names else ():
        for tag, value in result.row.tags.items():
            for tally in (tallies.get((f"{tag}={value}", scorer)) for scorer in scorers):
                if tally is not None:
                    tally.add(result)
    slices = []
    for (name, scorer), tally in tallies.items():
        metric = tally.metric()
        slices.append(Slice(name, Metric(scorer, metric.mean, metric.ci95, metric.n_scored, metric.n_failed)))
    return tuple(slices)


def _slices(rows: Iterable[RowResult]) -> list[str]:
    """Names of the slices, in order; a tag that all rows share alike makes none."""
    values: dict[str, Counter[str]] = {}
    for result in rows:
        for tag, value in result.row.tags.items():
            counted = values.setdefault(tag, Counter())
            if len(counted) <= MOST_SLICES:
                counted[value] += 1
    return [
        f"{tag}={value}"
        for tag, counted in sorted(values.items())
        if 1 < len(counted) <= MOST_SLICES
        for value in sorted(counted)
    ]
