"""The evaluations, gates and data of a release's fact sheet, from its recorded eval runs."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmops.eval_runs.cells import NOISE_PARAM
from llmops.evaluation.eval_set import cluster_of
from llmops.evaluation.gate_rules import GateRules
from llmops.evaluation.results import RowResult
from llmops.evaluation.statistics import UNLIMITED, mean_interval
from llmops.factsheet.contents import Agreement, Data, Difference, Evaluation, Gate, Metric, Slice
from llmops.factsheet.history import AuditTrail
from llmops.factsheet.times import iso, to_the_second
from llmops.hashing import content_hash
from llmops.recording import EvalRecorder
from llmops.recording.facts import DatasetUse, EvalFacts, agreement_of, eval_runs
from llmops.registry.store import Store
from llmops.versions import Release

Verdict = Mapping[str, Any]
Gates = Mapping[str, Verdict]
"""Verdicts by suite, as the registry keeps them on a version."""

_TOLD_ELSEWHERE = ("prompt", "model", "parameters.", NOISE_PARAM, "cleaned_texts")


@dataclass(frozen=True, slots=True)
class Recorded:
    """The eval runs of a release. told: those that its sheet shows. further: how many it does not. others: how many had
    its prompt and model, and other parameters."""

    told: tuple[EvalFacts, ...]
    further: int
    others: int

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Those that were kept with the runs."""
        return tuple(verdict for each in self.told for verdict in each.verdicts)


def recorded_of(store: Store, release: Release, gates: Gates) -> Recorded:
    """Of each suite the newest run of all its rows, or, without one, the newest; and those with a verdict.

    A run is the release's when prompt, weights and parameters are. Raises StoreUnavailable, Corrupted.
    """
    found = eval_runs(store, release.prompt.ref, release.model.ref)
    own = [each for each in found if _is_of(each, release)]
    shown: dict[str, EvalFacts] = {}
    for each in sorted(own, key=lambda each: _whole(each) is not True):
        shown.setdefault(each.run.suite, each)
    gated = {run_id for gate in gates.values() for run_id in gate.get("runs", {}).values()}
    told = [each for each in own if shown[each.run.suite] is each or each.verdicts or each.run.run_id in gated]
    return Recorded(tuple(told), len(own) - len(told), len(found) - len(own))


def evaluations_of(store: Store, recorded: Recorded, gates: Gates) -> tuple[Evaluation, ...]:
    """The runs that are told, the newest first. Raises StoreUnavailable."""
    return tuple(_evaluation(store, found, gates) for found in recorded.told)


def gates_of(gates: Gates, filed: Sequence[Verdict], trail: AuditTrail, ref: str) -> tuple[Gate, ...]:
    """The verdicts on the version, which promotions read, with their comparisons; then others on its runs.

    filed: verdicts that were kept with the runs.
    """
    current = []
    for suite, gate in gates.items():
        named = {"suite": suite, **gate}
        attested = trail.attests(ref, suite, gate)
        current.append(dataclasses.replace(_gate(named, _same(named, filed) or named), attested=attested))
    known = [_identity({"suite": suite, **gate}) for suite, gate in gates.items()]
    others = [_gate(verdict, verdict, current=False) for verdict in filed if _identity(verdict) not in known]
    return (*sorted(current, key=lambda gate: gate.at or "", reverse=True), *others)


def data_of(recorded: Recorded) -> tuple[Data, ...]:
    """The eval sets of all runs, each content once."""
    found: dict[tuple[str, str | None], Data] = {}
    for used in (used for each in recorded.told for used in each.datasets):
        data = eval_set_data(used)
        found.setdefault((data.name, data.sha256), data)
    return tuple(found.values())


def eval_set_data(used: DatasetUse) -> Data:
    """An eval set as a run names it. Its licence is kept nowhere."""
    rows, dataset = used.profile.get("num_rows"), used.source.get("dataset_id")
    return Data(
        used.context or "evaluation",
        used.name,
        used.source.get("sha256"),
        rows=rows if isinstance(rows, int) else None,
        source=f"MLflow dataset {dataset}" if dataset else None,
        digest=used.digest,
    )


def _is_of(found: EvalFacts, release: Release) -> bool:
    content = found.content
    return bool(
        content.get("prompt") == [release.prompt.ref, release.prompt.template.content_hash]
        and content.get("model") == [release.model.ref, release.model.sha256]
        and content.get("parameters") == release.parameters.to_mapping()
    )


def _evaluation(store: Store, found: EvalFacts, gates: Gates) -> Evaluation:
    run, content = found.run, found.content
    deciding = _deciding(run.suite, found, gates)
    scorers = [name for name in deciding or run.metrics if name in run.metrics]
    clustered = content.get("cluster_by")
    noise = run.params.get(NOISE_PARAM)
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
            EvalRecorder(store).rows(run), scorers, clustered, {name: run.metrics[name].limits for name in scorers}
        ),
        deciding=deciding,
        settings=_settings(run.params),
        data=tuple(used.name for used in found.datasets),
        judges=_judges(store, content),
        noise=json.loads(noise) if noise else None,
        whole=_whole(found),
        stopped_early=content.get("stopped_early") is not None,
        clustered_by=clustered,
        answers=run.answers,
    )


def _settings(params: Mapping[str, str]) -> dict[str, str]:
    """How it was run, without what the sheet says elsewhere: the parameters are the release's own."""
    nothing = ("null", "None", "[]")
    told = {name: value for name, value in params.items() if not name.startswith(_TOLD_ELSEWHERE)}
    return {name: value for name, value in told.items() if value not in nothing}


def _deciding(suite: str, found: EvalFacts, gates: Gates) -> tuple[str, ...]:
    """Scorers that the suite's gate reads, the primary first; none where no gate is on record."""
    on_record = [gates[suite]] if suite in gates else list(found.verdicts)
    rules = next((gate["rules"] for gate in on_record if gate.get("rules")), None)
    return () if rules is None else tuple(dict.fromkeys(GateRules.from_mapping(rules).scorers))


def _whole(found: EvalFacts) -> bool | None:
    """Whether all rows of the eval sets were run. A suite of several has a dataset of its own before them."""
    content, datasets = found.content, found.datasets
    parts = {used.name: used.source.get("sha256") for used in (datasets if len(datasets) == 1 else datasets[1:])}
    if "rows" not in content or None in parts.values():
        return None
    return bool(content["rows"] == content_hash(parts))


def _judges(store: Store, content: Mapping[str, Any]) -> dict[str, Agreement | None]:
    """Scorers that ask a language model, and how far each agrees with people."""
    judges = {name: identity for name, identity in content.get("judges", {}).items() if "judge" in identity}
    return {name: _agreement(agreement_of(store, content_hash(identity))) for name, identity in judges.items()}


def _agreement(calibration: Mapping[str, Any] | None) -> Agreement | None:
    if calibration is None:
        return None
    low, high = calibration["kappa_low"], calibration["kappa_high"]
    ends = None if low is None or high is None else (float(low), float(high))
    return Agreement(calibration["kappa"], ends, int(calibration["n"]))


def _identity(gate: Verdict) -> tuple[Any, ...]:
    """The runs that a verdict compares; where it names none, against whom it was given."""
    return gate.get("suite"), gate["verdict"], sorted(gate.get("runs", {}).items()) or gate.get("against")


def _same(gate: Verdict, filed: Sequence[Verdict]) -> Verdict | None:
    """The file that was written with the verdict; None when another one took its place, or there was none."""
    return next((verdict for verdict in filed if _identity(verdict) == _identity(gate)), None)


def _gate(gate: Verdict, file: Verdict, *, current: bool = True) -> Gate:
    """A verdict with what was written beside it."""
    comparison, against = file.get("comparison"), gate.get("against")
    checks = file.get("checks") or ()
    other = file.get("compared_with")
    return Gate(
        suite=str(gate.get("suite", "")),
        verdict=gate["verdict"],
        against=against,
        reasons=tuple(gate.get("reasons", ())),
        at=to_the_second(gate.get("at")),
        run_id=gate.get("runs", {}).get("b"),
        rules=gate.get("rules") or file.get("rules") or {},
        differences=tuple(_differences(comparison)) if comparison else (),
        untrusted=tuple(check["metric"] for check in checks if check["kind"] == "judge"),
        power=comparison.get("power", {}) if comparison else {},
        current=current,
        compared_with=None if other == against else other,
        checks=tuple(str(check["name"]) for check in checks if "name" in check),
        loosened=tuple(_loosened(each) for each in gate.get("loosened", ())),
    )


def _loosened(change: Mapping[str, Any]) -> str:
    return f"{change['rule']}, by {change['by']}, {to_the_second(change['at']) or 'with this gate'}"


def _differences(comparison: Mapping[str, Any]) -> list[Difference]:
    whole = [_difference(name, metric, None) for name, metric in comparison["metrics"].items()]
    slices = comparison["slices"].items()
    return whole + [_difference(name, metric, part) for part, found in slices for name, metric in found.items()]


def _difference(name: str, metric: Mapping[str, Any], part: str | None) -> Difference:
    return Difference(
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


MOST_SLICES = 20
"""Of one tag: beyond, it names rows rather than slices."""


@dataclass(slots=True)
class _Gathered:
    values: list[float] = field(default_factory=list)
    clusters: list[str] = field(default_factory=list)
    failed: int = 0

    def metric(self, name: str, clustered: bool, limits: tuple[float, float]) -> Metric:
        if not self.values:
            return Metric(name, None, None, 0, self.failed)
        ci95 = mean_interval(self.values, self.clusters if clustered else None, limits)
        return Metric(name, sum(self.values) / len(self.values), ci95, len(self.values), self.failed)


def slices_of(
    rows: Iterable[RowResult],
    scorers: Sequence[str],
    cluster_by: str | None = None,
    limits: Mapping[str, tuple[float, float]] | None = None,
) -> tuple[Slice, ...]:
    """The scorers' means with 95 % intervals in each slice, in the order of slices and scorers. Tags of more than
    `MOST_SLICES` values are left out.

    rows: read twice, so that they need not be in memory. cluster_by: as `cluster_of` reads it. limits: of a scorer's
    values, where they are known.
    """
    names = _slices(rows) if scorers else []
    gathered = {(name, scorer): _Gathered() for name in names for scorer in scorers}
    for result in rows if names else ():
        cluster = cluster_of(result.row, cluster_by) if cluster_by else None
        for name in _named(result):
            for scorer in scorers:
                if (found := gathered.get((name, scorer))) is not None:
                    _add(found, result, scorer, cluster)
    return tuple(
        Slice(name, found.metric(scorer, cluster_by is not None, (limits or {}).get(scorer, UNLIMITED)))
        for (name, scorer), found in gathered.items()
    )


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


def _named(result: RowResult) -> Iterator[str]:
    return (f"{tag}={value}" for tag, value in result.row.tags.items())


def _add(found: _Gathered, result: RowResult, scorer: str, cluster: str | None) -> None:
    score = result.scores.get(scorer)
    if score is None or score.value is None:
        found.failed += 1
        return
    found.values.append(score.value)
    found.clusters.append(cluster or f"row {result.row.id}")
