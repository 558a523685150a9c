"""One run over one pair of windows: summaries → tests, detectors, limits, volume, canary → alarms with their rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from monitoring.decide.alarms import Alarm, Raised, drift_alarms, telling_rows
from monitoring.decide.drift import FEEDBACK, examine_slice, feedback_json
from monitoring.decide.limits import check_limits, limit_alarms
from monitoring.decide.pinned_summaries import (
    APP,
    PinnedSummaries,
    TestedSlice,
    comparable,
    count_families,
    slices_to_test,
    strata_of,
)
from monitoring.decide.pooled import Pool, PooledLook, look_at, pooled_alarms
from monitoring.decide.result import MonitorResult, cure_of, explained_by_questions
from monitoring.decide.strata import Strata
from monitoring.decide.two_sample import NOT_TESTED
from monitoring.decide.variants import canary_alarms, compare_variants, find_variants
from monitoring.decide.volume import volume_alarms, volume_of
from monitoring.decide.watch import FlagFinding, sequential_alarms
from monitoring.decide.window_choice import Window, WindowPair
from monitoring.descriptors import Descriptor
from monitoring.store.summaries import Summary
from monitoring.store.windows import WindowReader

if TYPE_CHECKING:
    from monitoring.config import MonitorConfig


@dataclass(frozen=True, slots=True)
class Question:
    """What one run is asked. reference: what the window is compared with. first_of: the release whose first window
    this would be: of the drift only harmful flags count then; see `references`. pool: windows that this one is to be
    looked at with."""

    app: str
    pair: WindowPair
    reference: PinnedSummaries
    first_of: str | None = None
    pool: Pool | None = None


def examine(
    reader: WindowReader,
    config: MonitorConfig,
    question: Question,
    *,
    failures: Mapping[str, int],
    watched: Sequence[FlagFinding] = (),
) -> MonitorResult:
    """The verdict; pins and writes nothing. watched: what the detectors found in the window.

    Raises StoreUnavailable.
    """
    return _Examination(reader, config, question).result(failures, watched)


class _Examination:
    def __init__(self, reader: WindowReader, config: MonitorConfig, question: Question) -> None:
        self._reader, self._config, self._rules = reader, config, config.rules
        self._app, self._pair, self._reference = question.app, question.pair, question.reference
        self._first_of, self._pool = question.first_of, question.pool
        self._window = question.pair.current
        self._whole = self._summary(None).get(None, Summary())
        self._slices = {dimension: self._summary(dimension) for dimension in config.slices}
        self._all = {**config.descriptors.descriptors, **FEEDBACK}

    def result(self, failures: Mapping[str, int], watched: Sequence[FlagFinding]) -> MonitorResult:
        rules, note = self._rules, self._too_few()
        fitting, not_compared = comparable(self._all, self._reference.whole)
        tested = self._tested(fitting)
        places = [] if note or self._pair.reference is None else self._places()
        variants = find_variants(self._reader, self._app, self._window.since, self._window.until, rules.minimum_rows)
        families = max(count_families(places) + len(variants), 1)
        alpha = rules.alpha(families)
        drifts = [examine_slice(place.label, place.reference, place.current, tested, rules, alpha) for place in places]
        pooled = self._pooled(fitting, tested) if places else None
        comparisons = [compare_variants(each, self._present(self._all, each.before), rules, alpha) for each in variants]
        limits = check_limits(self._config.limits, self._whole, rules.limit_alpha(len(self._config.limits)))
        volume = volume_of(self._reader, self._app, self._window.since, self._window.until, self._whole.rows, rules)
        raised = [
            *limit_alarms(self._app, limits, self._all),
            *sequential_alarms(watched),
            *(each for comparison in comparisons for each in canary_alarms(comparison)),
            *(alone := drift_alarms(places, drifts)),
            *pooled_alarms(self._app, pooled, {each.alarm.what for each in alone}),
            *volume_alarms(self._app, volume),
        ]
        questions = self._changed_questions(fitting, alpha) if places else None
        alarms = self._with_rows(self._explained(raised, alpha, bool(questions)))
        return MonitorResult(
            app=self._app,
            state="alarm" if alarms else "too-few-rows" if note else "ok",
            note=note or self._first_note(),
            window=dataclasses.replace(self._window, rows=self._whole.rows),
            reference=self._reference_window(),
            pinned=self._pair.pinned,
            slices=drifts,
            alarms=alarms,
            expected_false_alarms_per_month=rules.expected_false_alarms_per_month(families),
            computed=0,
            cure=cure_of(alarms, same_release=self._same_release(), questions=questions),
            canary=comparisons,
            sequential=watched,
            limits=limits,
            volume=() if volume is None else (volume,),
            not_compared=(*not_compared, *self._unsaid()) if self._pair.reference is not None else (),
            failures=failures,
            feedback=feedback_json(self._whole),
            pooled=pooled,
        )

    def _summary(self, dimension: str | None) -> dict[str | None, Summary]:
        return self._reader.summary(self._app, self._window.since, self._window.until, dimension)

    def _too_few(self) -> str:
        sizes = {"current": self._whole.rows}
        if self._pair.reference is not None:
            sizes = {"reference": self._reference.whole.rows, **sizes}
        short = [f"the {name} window has {rows}" for name, rows in sizes.items() if rows < self._rules.minimum_rows]
        if not short:
            return ""
        return f"nothing was tested: {' and '.join(short)} of the {self._rules.minimum_rows} rows needed"

    def _first_note(self) -> str:
        if self._first_of is None:
            return ""
        if self._pair.reference is None:
            return f"the first window of {self._first_of}: there is nothing yet to compare it with"
        return f"the first window of {self._first_of}: only harmful flags are compared with the old reference"

    def _reference_window(self) -> Window:
        if self._pair.reference is None:
            return Window(self._window.since, self._window.since)
        return dataclasses.replace(self._pair.reference, rows=self._reference.whole.rows)

    def _tested(self, fitting: Mapping[str, Descriptor]) -> dict[str, Descriptor]:
        chosen = self._present(fitting, self._reference.whole)
        if self._first_of is None:
            return chosen
        return {name: descriptor for name, descriptor in chosen.items() if descriptor.harmful}

    def _present(self, descriptors: Mapping[str, Descriptor], reference: Summary) -> dict[str, Descriptor]:
        """Without feedback where there is none."""
        return {
            name: descriptor
            for name, descriptor in descriptors.items()
            if name not in FEEDBACK or (_has(reference, name) and _has(self._whole, name))
        }

    def _pooled(self, fitting: Mapping[str, Descriptor], tested: Mapping[str, Descriptor]) -> PooledLook | None:
        """With feedback even if this window has none yet: that on the others may have come meanwhile."""
        if self._pool is None or self._first_of is not None:
            return None
        reference = self._reference.whole
        said = {name: fitting[name] for name in FEEDBACK if name in fitting and _has(reference, name)}
        asked = {**tested, **said}
        return look_at(self._reader, self._app, self._pool, self._window.since, reference, asked, self._rules)

    def _unsaid(self) -> tuple[str, ...]:
        """Feedback that the window has and the reference has not: it may have come after the pin."""
        return tuple(name for name in FEEDBACK if _has(self._whole, name) and not _has(self._reference.whole, name))

    def _places(self) -> list[TestedSlice]:
        return slices_to_test(self._app, self._whole, self._slices, self._reference, self._rules.minimum_rows)

    def _changed_questions(self, fitting: Mapping[str, Descriptor], alpha: float) -> list[str] | None:
        """What changed of the questions of the whole app, for the verdict alone: in a first window they raise no
        alarm. None where the reference has no questions: those of an eval run are not production's."""
        asked = {name: each for name, each in fitting.items() if each.side == "input" and not each.harmful}
        if not asked:
            return None
        found = examine_slice({}, self._reference.whole, self._whole, asked, self._rules, alpha).descriptors
        if not any(each.result.test != NOT_TESTED.test for each in found.values()):
            return None
        return [name for name, each in found.items() if each.drifted] if self._first_of is not None else []

    def _explained(self, raised: Sequence[Raised], alpha: float, changed: bool) -> list[Raised]:
        """The alarms about answers, with whether changed questions explain them; as they are when none changed."""
        about = [each.alarm for each in raised if each.alarm.kind not in ("volume", "canary")]
        answers = {alarm.what: self._all[alarm.what] for alarm in about if alarm.side != "input"}
        strata = self._reference.strata
        changed = changed or any(alarm.side == "input" for alarm in about)
        if not strata or not answers or not changed:
            return list(raised)
        window = self._window
        current = strata_of(
            self._reader,
            self._config.descriptors,
            Strata.of_reference(self._reference.whole),
            self._app,
            window.since,
            window.until,
            rows=self._whole.rows,
            columns=answers,
        )
        whole = TestedSlice(APP, self._app, self._reference.whole, self._whole)
        found = explained_by_questions(answers, whole, strata, current, self._rules, alpha)
        return [_with_explanation(each, found) for each in raised]

    def _same_release(self) -> bool:
        pinned, now = self._pair.pinned, self._slices.get("release", {})
        return pinned is not None and pinned.release is not None and set(now) == {pinned.release}

    def _with_rows(self, raised: Sequence[Raised]) -> list[Alarm]:
        asked = [each.telling for each in raised if each.telling is not None]
        window = self._window
        found = iter(telling_rows(self._reader, self._app, window.since, window.until, asked, self._rules.rows_named))
        named = [
            dataclasses.replace(each.alarm, rows=next(found)) if each.telling is not None else each.alarm
            for each in raised
        ]
        return sorted(named, key=lambda alarm: alarm.severity != "high")


def _with_explanation(raised: Raised, found: Mapping[str, bool | None]) -> Raised:
    alarm = raised.alarm
    if alarm.kind in ("volume", "canary") or alarm.what not in found:
        return raised
    explained = found[alarm.what]
    why = alarm.why + {None: "", True: "; explained by the questions", False: "; among like questions, too"}[explained]
    return dataclasses.replace(raised, alarm=dataclasses.replace(alarm, why=why, explained=explained))


def _has(summary: Summary, name: str) -> bool:
    return name in summary.numbers or name in summary.labels
