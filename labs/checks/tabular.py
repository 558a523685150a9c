"""What a home shows of the labs wine, bike and insurance: versions, answers, alarms, promotions, what each changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from labs.checks.check import NOTHING_YET, Achievement, Gathered, Question, has_store
from labs.lab import FIRST, Lab
from llmops.settings import Settings

if TYPE_CHECKING:
    from labs.evaluation import Judgement
    from llmops.audit import AuditEntry
    from llmops.production_log import PredictionBatch
    from llmops.versions import TabularVersion

# Of part 3 of the insurance lab's page, with a driver of 22 years
_POLICY = {
    "driver_age": 22,
    "ncd_years": 3,
    "conviction_points": 0,
    "vehicle_group": 20,
    "vehicle_age": 5,
    "annual_mileage": 10000,
    "band": "C",
    "accident_rate": 0.8,
}
_ROLLBACK, _RETURN = "rollback", "force-rollback"


@dataclass
class _Home:
    """What a home holds of a lab.

    versions: registered ones, oldest first. candidates: that were trained, by MLflow. recorded: the first version's
    metric, by MLflow. batches: by window, what was answered; of several cycles, of the one that came furthest.
    beside: what else was answered. alarms: the windows with one, in order. moves: of the champion, by people.
    """

    lab: Lab
    versions: Sequence[TabularVersion] = ()
    champion: str | None = None
    candidates: frozenset[str] = frozenset()
    recorded: float | None = None
    batches: Mapping[str, PredictionBatch] = field(default_factory=dict)
    beside: Sequence[PredictionBatch] = ()
    alarms: Sequence[str] = ()
    moves: Sequence[AuditEntry] = ()

    @cached_property
    def errors(self) -> Mapping[str, float]:
        """By window, of what was answered."""
        return {name: self.lab.error(self.lab.window(name), each.predictions) for name, each in self.batches.items()}

    @property
    def first(self) -> TabularVersion | None:
        return next((each for each in self.versions if each.provenance.get("trained_on") == FIRST), None)

    @property
    def successors(self) -> list[tuple[TabularVersion, TabularVersion]]:
        """Versions trained after an alarm that served, each with the one that it replaced."""
        served = {each.model for each in self.batches.values()}
        serving = [each for each in self.versions if each == self.first or each.ref in served]
        return list(pairwise(serving))

    @property
    def replaced(self) -> str | None:
        """The window after which the first version was replaced."""
        return next((str(new.provenance["trained_on"]) for _, new in self.successors), None)

    @cached_property
    def gates(self) -> list[tuple[str, Judgement]]:
        """Each successor's ref, with its gate against the version before it, judged anew."""
        judged = []
        for old, new in self.successors:
            rows = self.lab.holdout(str(new.provenance["trained_on"]))
            challenger, champion = ((ref, self.lab.predicted(ref, rows)) for ref in (new.ref, old.ref))
            judged.append((new.ref, self.lab.judge(challenger, champion, rows)))
        return judged

    @cached_property
    def first_metric(self) -> float | None:
        """Of the first version's registered weights on the rows held out, computed anew."""
        if self.first is None:
            return None
        rows = self.lab.holdout(FIRST)
        predictions = np.asarray(self.lab.predicted(self.first.ref, rows), dtype=rows.truth.dtype)
        return self.lab.evaluate_rows(rows, predictions)[self.lab.metric].value

    def error_of(self, ref: str, window: str) -> float:
        """What a version's error would have been in a window."""
        rows = self.lab.window(window)
        return self.lab.error(rows, self.lab.predicted(ref, rows))


def _home(kind: type[Lab], settings: Settings) -> _Home:
    """Reads the home. One without a store is left as it is: a check makes none."""
    if not has_store(settings):
        return _Home(kind(settings, cycle="check"))
    from llmops.recording.cell import runs_where
    from llmops.registry import Registry
    from llmops.registry.store import translated

    registry = Registry(settings)
    versions = list(registry.tabular_versions.versions(kind.model_name))
    source = str(versions[0].provenance.get("data_source", "")) if versions else ""
    lab = kind(settings, source=source if source.startswith("file:") else None, cycle="check")
    champion = registry.tabular_versions.champion(kind.model_name)
    home = _Home(lab, versions, champion.ref if champion is not None else None)
    with translated(f"reading what is recorded of {kind.model_name}"):
        trained = list(runs_where(registry.store, kind.model_name, f"tags.`llmops.lab` = '{kind.model_name}'"))
        home.candidates = frozenset(run.data.tags["llmops.candidate"] for run in trained)
        alarmed = runs_where(registry.store, f"monitoring-{kind.model_name}", "tags.`llmops.state` = 'alarm'")
        home.alarms = sorted({run.data.tags["llmops.since"] for run in alarmed})
        if home.first is not None:
            run = registry.store.client.get_run(home.first.run_id)
            home.recorded = run.data.metrics.get(kind.metric)
    if versions:
        home.moves = [
            each
            for each in registry.audit.entries(kind.model_name)
            if each.details.get("phase") == "done" and not each.actor.startswith("lab ")
        ]
        home.batches, home.beside = _answered(lab, settings)
    return home


def _answered(lab: Lab, settings: Settings) -> tuple[dict[str, PredictionBatch], list[PredictionBatch]]:
    from llmops.production_log import ProductionLog, read_predictions

    cycles: dict[str, dict[str, PredictionBatch]] = {}
    beside = []
    windows = {f"-{window.replace(' ', '-')}": window for window in lab.windows()}
    with closing(ProductionLog(settings.resolved_log_url)) as log:
        for batch in read_predictions(log, lab.model_name):
            ending = next((each for each in windows if batch.request_id.endswith(each)), None)
            if ending is not None and batch.request_id.startswith(f"{lab.name}-"):
                cycles.setdefault(batch.request_id.removesuffix(ending), {})[windows[ending]] = batch
            else:
                beside.append(batch)
    furthest = max(cycles.values(), key=len, default={})
    return {window: furthest[window] for window in lab.windows() if window in furthest}, beside


def _achievements(home: _Home) -> list[Achievement]:
    """Those that all labs have."""
    lab, name, first = home.lab, home.lab.name, home.first
    metric = home.first_metric
    tracked = (
        metric is not None
        and home.recorded is not None
        and len(home.candidates) > 1
        and bool(np.isclose(metric, home.recorded))
    )
    told = [
        Achievement(
            "candidates are tracked",
            tracked,
            f"{', '.join(sorted(home.candidates))}; {first.ref}'s {lab.metric} computed anew: {metric:.3f}"
            if first is not None and metric is not None
            else (", ".join(sorted(home.candidates)) or NOTHING_YET),
            f"llmops lab {name}, or step by step: llmops lab {name} train, then register",
        )
    ]
    passed = False
    if first is not None:
        rows = lab.holdout(FIRST)
        passed = lab.judge((first.ref, lab.predicted(first.ref, rows)), None, rows).passed
    told.append(
        Achievement(
            "a version passed the gate and is the champion",
            passed and home.champion is not None,
            f"champion {home.champion}" if home.champion else NOTHING_YET,
            f"llmops lab {name} register",
        )
    )
    agreeing = [window for window, batch in home.batches.items() if _as_registered(lab, batch)]
    told.append(
        Achievement(
            "the gateway answers with the registered weights",
            bool(agreeing) and len(agreeing) == len(home.batches),
            f"{len(agreeing)} of {len(home.batches)} logged windows are what the weights say"
            if home.batches
            else NOTHING_YET,
            f"llmops lab {name} monitor",
        )
    )
    return [*told, _alarm(home), *_retrained(home)]


def _as_registered(lab: Lab, batch: PredictionBatch) -> bool:
    again, said = lab.model(batch.model).predict(batch.rows).values, batch.predictions
    return bool(np.allclose(again, said) if isinstance(said[0], float) else list(again) == list(said))


def _alarm(home: _Home) -> Achievement:
    name, seen = home.lab.name, [window for window in home.alarms if window in home.batches]
    what, following = "an alarm found a real rise of the error", f"llmops lab {name} monitor, until it alarms"
    if not seen or home.first is None:
        return Achievement(what, False, f"{len(home.batches)} windows without an alarm", following)
    rows = home.lab.holdout(FIRST)
    before = home.lab.error(rows, home.lab.predicted(home.first.ref, rows))
    error = home.errors[seen[0]]
    measured = f"{home.lab.error_name} {error:.3f}, on the rows held out {before:.3f}"
    found = f"{seen[0]}: {measured}; alarms in {len(seen)} windows"
    return Achievement(what, error > before, found, following)


def _retrained(home: _Home) -> list[Achievement]:
    """Whether successors passed their gate, and whether they helped."""
    following = f"llmops lab {home.lab.name} retrain after an alarm, then monitor"
    judged, gained = [(ref, gate.passed) for ref, gate in home.gates], []
    for old, new in home.successors:
        windows = [window for window, batch in home.batches.items() if batch.model == new.ref]
        before = float(np.mean([home.error_of(old.ref, window) for window in windows]))
        after = float(np.mean([home.errors[window] for window in windows]))
        gained.append((new.ref, before, after))
    passed = ", ".join(f"{ref}: {'pass' if passes else 'no pass'}" for ref, passes in judged)
    errors = ", ".join(f"{ref}: {before:.3f} → {after:.3f}" for ref, before, after in gained)
    return [
        Achievement(
            "a retrained version passed the gate against the one before",
            bool(judged) and all(passes for _, passes in judged),
            passed or NOTHING_YET,
            following,
        ),
        Achievement(
            "retraining lowered the error in the windows that followed",
            bool(gained) and all(after < before for _, before, after in gained),
            errors or NOTHING_YET,
            following,
        ),
    ]


def check_wine(settings: Settings) -> Gathered:
    """The wine lab. The exercise: the old instrument is back, and so must be the model that knows it."""
    from labs.wine.lab import WineLab

    home = _home(WineLab, settings)
    versions, errors = [each.ref for each in home.versions], {}
    if home.successors:
        rows = home.lab.holdout(FIRST)
        errors = {ref: home.lab.error(rows, home.lab.predicted(ref, rows)) for ref in versions}
    serving, rolled_back = errors.get(home.champion or ""), any(move.action == _ROLLBACK for move in home.moves)
    exercise = Achievement(
        "the old instrument is back: the version that reads it serves",
        serving is not None and rolled_back and serving == min(errors.values()),
        ", ".join(f"{ref}: {error:.3f} wrong with the old instrument" for ref, error in errors.items()) or NOTHING_YET,
        "exercise 5 of the page of module 1 (docs/labs/wine.md)",
    )
    last_gate = home.gates[-1][1].comparison if home.gates else None
    judged = last_gate.to_json()["metrics"][home.lab.rules.primary] if last_gate is not None else {}
    first_alarm = next(iter(home.alarms), None)
    return [*_achievements(home), exercise], [
        Question("accuracy", "The first champion's accuracy on the wines held out?", home.first_metric, 0.0006),
        Question("alarm", "Which batch raised the first alarm?", first_alarm),
        Question(
            "wrong",
            "What share of that batch was classified wrongly?",
            home.errors.get(first_alarm) if first_alarm else None,
            0.0006,
        ),
        Question("wins", "How many pairs does the retrained version win in its gate?", judged.get("wins")),
        Question("replaced", "After which batch was the model replaced?", home.replaced),
        Question(
            "old_readings",
            "What share of the wines held out does the retrained version get wrong with the old instrument?",
            errors.get(home.successors[-1][1].ref) if home.successors else None,
            0.0006,
        ),
    ]


def check_bike(settings: Settings) -> Gathered:
    """The bike lab. The exercise: go back to the version before, see what December costs with it, and return."""
    from labs.bike.lab import BikeLab

    home = _home(BikeLab, settings)
    windows = list(home.batches)
    last = windows[-1] if windows else ""
    errors = {ref: home.error_of(ref, last) for pair in home.successors[-1:] for ref in (each.ref for each in pair)}
    moved = [move.action for move in home.moves]
    newest = home.versions[-1].ref if home.versions else None
    exercise = Achievement(
        "you rolled back to the version before, and returned",
        moved[-2:] == [_ROLLBACK, _RETURN] and home.champion == newest,
        f"{last}: " + ", ".join(f"{ref}: {error:.1f}" for ref, error in errors.items()) if errors else NOTHING_YET,
        "exercise 5 of the page of module 2 (docs/labs/bike.md)",
    )
    worst = max(home.errors, key=lambda window: home.errors[window], default=None)
    january = home.errors.get("2012-01")
    quality = home.lab.data.quality if home.versions else None
    first = home.first
    return [*_achievements(home), exercise], [
        Question("rmse", "The first champion's RMSE on November and December 2011?", home.first_metric, 0.06),
        Question("suspect", "How many values are suspect, and kept?", quality.count("suspect") if quality else None),
        Question("alarms", "In which months was there an alarm?", ", ".join(home.alarms) or None),
        Question("worst", "Which month had the largest RMSE, as it was served?", worst),
        Question("january", "What was the RMSE of January 2012?", january, 0.06),
        Question(
            "never",
            "What would the first version's RMSE have been in the last month?",
            home.error_of(first.ref, last) if first is not None and last else None,
            0.06,
        ),
        Question(
            "better", "Which of the last two versions is the better one in the last month?",
            min(errors, key=lambda ref: errors[ref], default=None),
        ),
    ]  # fmt: skip


def check_insurance(settings: Settings) -> Gathered:
    """The insurance lab. The exercise: to price a policy of one's own."""
    from labs.insurance.lab import InsuranceLab

    home = _home(InsuranceLab, settings)
    # The gateway's page asks for its row together with others, which vary one column of it; the row comes first. The
    # lab asks too, with rows held out, until a new version serves.
    asked_by_lab = [home.lab.holdout(str(each.provenance["trained_on"])).rows()[0] for each in home.versions]
    priced = [each for each in home.beside if each.rows[0] not in asked_by_lab and _as_registered(home.lab, each)]
    exercise = Achievement(
        "a policy of your own was priced over HTTP",
        bool(priced),
        f"{priced[-1].model}: {4 * priced[-1].predictions[0]:.3f} claims a year" if priced else NOTHING_YET,
        "part 3 of the page of module 4 (docs/labs/insurance.md): llmops lab insurance serve, then What if or curl",
    )
    ratios = {  # of the quarters that the monitor compared: the version that answered still served a quarter later
        window: float(np.sum(home.lab.window(window).truth) / np.sum(batch.predictions))
        for (window, batch), (_, following) in pairwise(home.batches.items())
        if following.model == batch.model
    }
    first, last = home.first, home.versions[-1] if home.versions else None
    price = 4 * float(home.lab.model(last.ref).predict([_POLICY]).values[0]) if last is not None else None
    return [*_achievements(home), exercise], [
        Question(
            "rows",
            "How many rows were made of the three exports?",
            len(home.lab.data.table) if first is not None else None,
        ),
        Question("deviance", "The first champion's deviance on the rows held out?", home.first_metric, 0.0006),
        Question("alarm", "Which quarter's claims raised the first alarm?", next(iter(home.alarms), None)),
        Question(
            "worst",
            "Of the quarters that the monitor compared: in which were the claims highest over those expected?",
            max(ratios, key=lambda window: ratios[window], default=None),
        ),
        Question("replaced", "After which quarter was the model replaced?", home.replaced),
        Question(
            "price",
            "How many claims a year does the newest version expect of the page's policy at the age of 22?",
            price,
            0.0006,
        ),
    ]
