"""One run over one pair of windows: summaries → tests, detectors, limits, volume, canary → alarms with their rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from monitoring.decide.alarms import Alarm, drift_alarms, find_evidence
from monitoring.decide.drift import FEEDBACK, NOT_TESTED, compare, examine_slice, feedback_in, feedback_json
from monitoring.decide.families import (
    Pool,
    PooledLook,
    canary_alarms,
    compare_variants,
    find_variants,
    look_at,
    pooled_alarms,
)
from monitoring.decide.limits import check_limits, limit_alarms, volume_alarms, volume_of
from monitoring.decide.pinned_summaries import (
    PinnedSummaries,
    comparable,
    compare_among_like_questions,
    count_families,
    slices_to_test,
    strata_of,
)
from monitoring.decide.result import MonitorResult, cure_of
from monitoring.decide.watch import FlagFinding, sequential_alarms
from monitoring.decide.window_choice import LogWindow, ReferenceProgress, WindowPair
from monitoring.descriptors import Descriptor
from monitoring.store.summaries import Summary
from monitoring.store.windows import WindowReader

if TYPE_CHECKING:
    from monitoring.config import MonitorConfig


@dataclass(frozen=True, slots=True)
class RunQuestion:
    """What one run is asked.

    reference: what the window is compared with.
    first_of: the release whose first window this would be: of the drift only harmful flags count then; see
        `references`.
    pool: windows that this one is to be looked at with.
    gathering: the reference that is being gathered, of whose rows this window may be.
    """

    app: str
    pair: WindowPair
    reference: PinnedSummaries
    first_of: str | None = None
    pool: Pool | None = None
    gathering: ReferenceProgress | None = None


def examine(
    reader: WindowReader,
    config: MonitorConfig,
    question: RunQuestion,
    *,
    failures: Mapping[str, int],
    watched: Sequence[FlagFinding] = (),
) -> MonitorResult:
    """The verdict; pins and writes nothing. watched: what the detectors found in the window.

    Raises StoreUnavailable.
    """
    window = question.pair.current
    whole = reader.whole(question.app, window.since, window.until)
    return _Examination(reader, config, question, whole).result(failures, watched)


@dataclass(frozen=True, slots=True)
class _Examination:
    """whole: all rows of the current window."""

    reader: WindowReader
    config: MonitorConfig
    question: RunQuestion
    whole: Summary

    @property
    def reference(self) -> Summary:
        return self.question.reference.whole

    @property
    def descriptors(self) -> dict[str, Descriptor]:
        return {**self.config.descriptors.descriptors, **FEEDBACK}

    def result(self, failures: Mapping[str, int], watched: Sequence[FlagFinding]) -> MonitorResult:
        reader, rules, config, question = self.reader, self.config.rules, self.config, self.question
        app, pair, window = question.app, question.pair, question.pair.current
        slices = {name: reader.by_value(app, window.since, window.until, name) for name in config.slices}
        note = self._too_few()
        slices_tested = []
        if not note and pair.reference is not None:
            slices_tested = slices_to_test(app, self.whole, slices, question.reference, rules.minimum_rows)
        variants = find_variants(reader, app, window.since, window.until, rules.minimum_rows)
        families = max(count_families(slices_tested) + len(variants), 1)
        alpha = rules.alpha(families)
        fitting, not_compared = comparable(self.descriptors, self.reference)
        tested = self._with_feedback(fitting, self.reference)
        if question.first_of is not None:
            tested = {name: descriptor for name, descriptor in tested.items() if descriptor.harmful}
        drifts = [
            examine_slice(place.label, place.reference, place.current, tested, rules, alpha) for place in slices_tested
        ]
        pooled = self._pooled(fitting, tested) if slices_tested else None
        comparisons = [
            compare_variants(each, self._with_feedback(self.descriptors, each.before), rules, alpha)
            for each in variants
        ]
        limits = check_limits(config.limits, self.whole, rules.limit_alpha(len(config.limits)))
        volume = volume_of(reader, app, window.since, window.until, self.whole.rows, rules)
        raised = [
            *limit_alarms(app, limits, self.descriptors),
            *sequential_alarms(watched),
            *(alarm for comparison in comparisons for alarm in canary_alarms(comparison)),
            *(alone := drift_alarms(drifts)),
            *pooled_alarms(app, pooled, {alarm.what for alarm in alone}),
            *volume_alarms(app, volume),
        ]
        questions = self._changed_questions(fitting, alpha) if slices_tested else None
        alarms = self._with_rows(self._explained(raised, alpha, bool(questions)))
        pinned = pair.pinned
        same_release = (
            pinned is not None and pinned.release is not None and set(slices.get("release", {})) == {pinned.release}
        )
        # Feedback that the window has and the reference has not: it may have come after the pin.
        late = [name for name in feedback_in(self.whole) if name not in feedback_in(self.reference)]
        return MonitorResult(
            app=app,
            state="alarm" if alarms else "too-few-rows" if note else "ok",
            note=note or self._first_note(),
            window=dataclasses.replace(window, rows=self.whole.rows),
            reference=dataclasses.replace(pair.reference, rows=self.reference.rows)
            if pair.reference is not None
            else LogWindow(window.since, window.since),
            pinned=pinned,
            slices=drifts,
            alarms=alarms,
            expected_false_alarms_per_month=rules.expected_false_alarms()["total"],
            computed=0,
            cure=cure_of(alarms, same_release=same_release, questions=questions),
            canary=comparisons,
            sequential=watched,
            limits=limits,
            volume=() if volume is None else (volume,),
            not_compared=(*not_compared, *late) if pair.reference is not None else (),
            failures=failures,
            feedback=feedback_json(self.whole),
            pooled=pooled,
        )

    def _too_few(self) -> str:
        """Why nothing can be tested; empty where it can."""
        sizes = {"current": self.whole.rows}
        if self.question.pair.reference is not None:
            sizes = {"reference": self.reference.rows, **sizes}
        least = self.config.rules.minimum_rows
        short = [f"the {name} window has {rows}" for name, rows in sizes.items() if rows < least]
        return f"nothing was tested: {' and '.join(short)} of the {least} rows needed" if short else ""

    def _first_note(self) -> str:
        release = self.question.first_of
        if release is None:
            return ""
        if self.question.pair.reference is None:
            return f"the first window of {release}: there is nothing yet to compare it with"
        return f"the first window of {release}: only harmful flags are compared with the old reference"

    def _with_feedback(self, descriptors: Mapping[str, Descriptor], before: Summary) -> dict[str, Descriptor]:
        """The descriptors, feedback only where both sides have it."""
        said = feedback_in(before, self.whole)
        return {name: each for name, each in descriptors.items() if name not in FEEDBACK or name in said}

    def _pooled(self, fitting: Mapping[str, Descriptor], tested: Mapping[str, Descriptor]) -> PooledLook | None:
        """With feedback even if this window has none yet: that on the others may have come meanwhile."""
        question = self.question
        if question.pool is None or question.first_of is not None:
            return None
        said = {name: each for name, each in feedback_in(self.reference).items() if name in fitting}
        since, asked = question.pair.current.since, {**tested, **said}
        return look_at(self.reader, question.app, question.pool, since, self.reference, asked, self.config.rules)

    def _changed_questions(self, fitting: Mapping[str, Descriptor], alpha: float) -> list[str] | None:
        """What changed of the questions of the whole app, for the verdict alone: in a first window they raise no
        alarm. None where the reference has no questions: those of an eval run are not production's."""
        asked = {name: each for name, each in fitting.items() if each.side == "input" and not each.harmful}
        questions = examine_slice({}, self.reference, self.whole, asked, self.config.rules, alpha)
        if all(each.result.test == NOT_TESTED.test for each in questions.descriptors.values()):
            return None
        return list(questions.drifted) if self.question.first_of is not None else []

    def _explained(self, alarms: Sequence[Alarm], alpha: float, changed: bool) -> Sequence[Alarm]:
        """The alarms about answers, with whether changed questions explain them; as they are when none changed."""
        about = [alarm for alarm in alarms if alarm.kind not in ("volume", "canary")]
        answers = {alarm.what: self.descriptors[alarm.what] for alarm in about if alarm.side != "input"}
        strata, window, rules = self.question.reference.strata, self.question.pair.current, self.config.rules
        if not strata or not answers or not (changed or any(alarm.side == "input" for alarm in about)):
            return alarms
        current = strata_of(
            self.reader,
            self.config.descriptors,
            self.reference,
            self.question.app,
            window.since,
            window.until,
            rows=self.whole.rows,
            columns=answers,
        )
        explained = []
        for alarm in alarms:
            if alarm in about and alarm.what in answers:
                descriptor = answers[alarm.what]
                before = compare(descriptor, self.reference, self.whole)
                among = compare_among_like_questions(descriptor, strata, current, rules)
                explains = among.explains(before, rules.floor(descriptor), alpha)
                told = {None: "", True: "; explained by the questions", False: "; among like questions, too"}[explains]
                explained.append(dataclasses.replace(alarm, why=alarm.why + told, explained=explains))
            else:
                explained.append(alarm)
        return explained

    def _with_rows(self, alarms: Sequence[Alarm]) -> list[Alarm]:
        """With the requests that show each, the severest first."""
        asked = [alarm.evidence for alarm in alarms if alarm.evidence is not None]
        window, most = self.question.pair.current, self.config.rules.rows_named
        rows_of = iter(find_evidence(self.reader, self.question.app, window.since, window.until, asked, most))
        named = [
            dataclasses.replace(alarm, rows=next(rows_of)) if alarm.evidence is not None else alarm for alarm in alarms
        ]
        return sorted(named, key=lambda alarm: alarm.severity != "high")
