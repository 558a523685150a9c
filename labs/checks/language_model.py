"""What a home shows of the module on LLMOps: comparisons, a measured judge, releases that came and went, an own app."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from labs.checks.check import NOTHING_YET, Achievement, Gathered, Question, has_store
from llmops.errors import CannotRun, LlmopsError
from llmops.pages.numbers import interval
from llmops.settings import Settings

if TYPE_CHECKING:
    from llmops.audit import AuditEntry
    from llmops.evaluation.metric_comparison import MetricComparison
    from llmops.recording.cell import EvalRun
    from llmops.registry import Registry
    from llmops.versions import Release

APP, SUITE = "desk", "messages"
_PAGE = "docs/labs/llmops.md"
_FEW_ROWS = 20
_MOST_RUNS = 100
_MONITOR = "monitor"
_SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True)
class _Replies:
    """What an app's releases answered. counts: of each release; not_json: of these, how many cannot be parsed."""

    counts: Counter[str] = field(default_factory=Counter)
    not_json: Counter[str] = field(default_factory=Counter)

    def share(self, release: str) -> float:
        """Of a release's answers, those that are no JSON; 0 without answers."""
        return self.not_json[release] / self.counts[release] if self.counts[release] else 0.0


@dataclass
class _Home:
    """few, more: the suite's first two prompt versions compared, on the fewest rows and on the most.

    tuned: the champion's fine-tuned weights compared with their parent's, on the champion's prompt. problem: why there
    is no comparison. judge: the newest calibration. moves: of aliases, oldest first. replies: by app. entries: of the
    audit log; None without any.
    """

    few: MetricComparison | None = None
    more: MetricComparison | None = None
    tuned: MetricComparison | None = None
    problem: str = NOTHING_YET
    judge: Mapping[str, Any] = field(default_factory=dict)
    champion: Release | None = None
    moves: Sequence[AuditEntry] = ()
    replies: Mapping[str, _Replies] = field(default_factory=dict)
    entries: int | None = None

    def moved(self, action: str, *, app: str = APP, actor: str | None = None) -> list[AuditEntry]:
        """The moves of this kind, whoever made them where no actor is named."""
        of_app = (each for each in self.moves if each.name == app and each.action == action)
        return [each for each in of_app if actor in (None, each.actor)]


def _home(settings: Settings) -> _Home:
    """Reads the home. One without a store is left as it is: a check makes none."""
    if not has_store(settings):
        return _Home()
    from llmops.recording import find_calibration
    from llmops.registry import Registry

    registry = Registry(settings)
    home = _Home(champion=registry.release_versions.champion(APP))
    entries = registry.audit.entries()
    home.entries = len(entries) or None
    home.moves = [each for each in entries if each.details.get("phase") == "intent"]
    home.judge = find_calibration(registry.store) or {}
    home.replies = _replies(settings, registry.release_versions.names())
    try:
        _compare(home, settings, registry)
    except LlmopsError as error:  # no suite in this folder, or one that cannot be read
        home.problem = str(error).splitlines()[0]
    return home


def _compare(home: _Home, settings: Settings, registry: Registry) -> None:
    """Compares the recorded rows anew. Raises UnknownVersion, BadFile, StoreUnavailable."""
    from llmops.eval_runs.evaluations import Evaluations
    from llmops.recording.runs import EvalRecorder

    evaluations = Evaluations(settings, registry)
    suite = evaluations.suite(SUITE)
    runs = EvalRecorder(registry.store).newest(SUITE, _MOST_RUNS)

    def compared(a: EvalRun, b: EvalRun) -> MetricComparison | None:
        try:
            return evaluations.compare_runs(suite, a.cell, a, b.cell, b).metrics.get(suite.gate.primary)
        except CannotRun:  # the one's rows are not the other's
            return None

    first, second = (_by_rows(runs, f"{suite.prompt}@{version}", suite.model) for version in (1, 2))
    if both := sorted(first.keys() & second.keys()):
        fewest, most = both[0], both[-1]
        home.few = compared(first[fewest], second[fewest]) if fewest <= _FEW_ROWS else None
        home.more = compared(first[most], second[most]) if most > fewest else None
    model = home.champion.model if home.champion is not None else None
    if home.champion is not None and model is not None and "finetune" in model.provenance:
        prompt, parent = home.champion.prompt.ref, str(model.provenance["parent"])
        before, after = _by_rows(runs, prompt, parent), _by_rows(runs, prompt, model.ref)
        if both := sorted(before.keys() & after.keys()):
            home.tuned = compared(before[both[-1]], after[both[-1]])


def _by_rows(runs: Sequence[EvalRun], prompt: str, model: str) -> dict[int, EvalRun]:
    """By number of rows, the newest run of this cell."""
    return {run.rows: run for run in reversed(runs) if (run.prompt, run.model) == (prompt, model)}


def _replies(settings: Settings, apps: Sequence[str]) -> dict[str, _Replies]:
    from llmops.production_log import ProductionLog
    from monitoring.descriptors.text_kinds import is_json

    replies = {app: _Replies(Counter(), Counter()) for app in apps}
    with closing(ProductionLog(settings.resolved_log_url)) as log:
        for record in log.iterate():
            of_app = replies.get(record.app or "")
            if of_app and record.release and record.outcome == "ok" and record.text_deleted_at is None:
                of_app.counts[record.release] += 1
                of_app.not_json[record.release] += not is_json(record.output)
    return replies


def _said(comparison: MetricComparison | None, otherwise: str) -> str:
    if comparison is None:
        return otherwise
    difference = f"{comparison.difference:+.3f} ({interval(comparison.ci95)})"
    return f"{difference} on {comparison.n} rows, p = {comparison.p_value:.2g}"


def _is_better(comparison: MetricComparison | None) -> bool:
    return comparison is not None and comparison.difference > 0 and comparison.p_value < _SIGNIFICANT


def _judge(home: _Home) -> tuple[Achievement, float | None]:
    """Whether a judge was measured; and which share of the labels it called right."""
    rows = [row for row in home.judge.get("rows", ()) if row["judged"] is not None]
    found, share = NOTHING_YET, None
    if rows:
        from llmops.eval_runs.scorer_factory import calibration_problem
        from llmops.evaluation.agreement import cohen_kappa

        labels, judged = ([row[key] for row in rows] for key in ("label", "judged"))
        kappa, share = cohen_kappa(labels, judged).kappa, sum(each is True for each in judged) / len(judged)
        told = "cannot be told" if kappa is None else f"{kappa:.2f}"
        trust = "not trusted" if calibration_problem(dict(home.judge), home.judge["kappa_asked"]) else "trusted"
        found = f"κ {told} over {len(rows)} labels: {trust}"
    return Achievement("a judge was measured before it was believed", bool(rows), found, f"step 4 of {_PAGE}"), share


def _canary(home: _Home) -> Achievement:
    """A challenger that answered real requests beside the champion, and was promoted without force."""
    challenged = {each.subject for each in home.moved("challenge")}
    promoted = [each.subject for each in home.moved("promote") if each.subject in challenged]
    replies = home.replies.get(APP, _Replies())
    return Achievement(
        "a canary answered real requests, and was promoted",
        any(replies.counts[ref] >= _FEW_ROWS for ref in promoted),
        ", ".join(f"{ref}: {replies.counts[ref]} answers" for ref in promoted) or NOTHING_YET,
        f"step 5 of {_PAGE}",
    )


def _taken_back(home: _Home) -> tuple[Achievement, str | None]:
    """Whether the monitor took back a release whose answers were worse than those of the one returned to; and which."""
    replies, bad = home.replies.get(APP, _Replies()), None
    for move in home.moved("rollback", actor=_MONITOR):
        old, new = move.details["from"], move.details["to"]
        if replies.share(old) > replies.share(new):
            bad = old
    shares = ", ".join(f"{ref}: {replies.share(ref):.0%} no JSON" for ref in sorted(replies.counts))
    return Achievement(
        "the monitor took back a bad release", bad is not None, shares or NOTHING_YET, f"step 6 of {_PAGE}"
    ), bad


def _own_app(home: _Home) -> Achievement:
    """An app of the learner's own, promoted by a gate, that answers."""
    own = [name for name in home.replies if name != APP and home.moved("promote", app=name)]
    asked = {name: sum(home.replies[name].counts.values()) for name in own}
    return Achievement(
        "an app of your own passed its gate and answers",
        any(asked.values()),
        ", ".join(f"{name}: {count} answers" for name, count in asked.items()) or NOTHING_YET,
        f"exercise 1 of {_PAGE}",
    )


def check_llmops(settings: Settings) -> Gathered:
    """The module on LLMOps."""
    home = _home(settings)
    judge, called_right = _judge(home)
    taken_back, bad = _taken_back(home)
    achievements = [
        Achievement(
            "a few rows could not tell two prompt versions apart",
            home.few is not None and home.few.p_value >= _SIGNIFICANT,
            _said(home.few, home.problem),
            f"step 2 of {_PAGE}",
        ),
        Achievement(
            "more rows could", _is_better(home.more), _said(home.more, home.problem), f"step 3 of {_PAGE}"
        ),
        judge,
        _canary(home),
        taken_back,
        Achievement(
            "a fine-tuned model answers better, and serves",
            _is_better(home.tuned),
            _said(home.tuned, home.problem if home.champion is None else f"champion {home.champion.ref}"),
            f"step 7 of {_PAGE}",
        ),
        _own_app(home),
    ]  # fmt: skip
    points = 100 * home.few.detectable if home.few is not None and home.few.detectable is not None else None
    return achievements, [
        Question("points", "Which difference, in points, could the first rows show?", points, 0.6),
        Question("wins", "On how many of all rows is version 2 the better one?", home.more.wins if home.more else None),
        Question(
            "yes", "Which share of the labelled answers did the judge call right, from 0 to 1?", called_right, 0.006
        ),
        Question(
            "customers",
            "How many answers of the bad release reached a customer?",
            home.replies[APP].counts[bad] if bad is not None else None,
        ),
        Question(
            "gain",
            "By how much does the score rise with fine-tuning?",
            home.tuned.difference if home.tuned else None,
            0.0006,
        ),
        Question("entries", "How many entries does the audit log have?", home.entries),
    ]
