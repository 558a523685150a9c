"""What a fact sheet is made of: plain values. None, or an empty collection, is what is not on record.

Times are ISO 8601 in UTC. Texts may hold anything at all: whoever shows them escapes them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Self

from pydantic_core import to_jsonable_python

from llmops.evaluation.results import AnswerCounts, Metric
from llmops.tabular import Column

UNKNOWN = "not on record"


def iso(at: float | None) -> str | None:
    """Seconds since the epoch as ISO 8601 in UTC; None for none."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds") if at else None


def to_the_second(text: str | None) -> str | None:
    """An ISO 8601 time without its microseconds; None for none. Another text stays as it is."""
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC).isoformat(timespec="seconds")
    except ValueError:
        return text


def when(at: str | None, otherwise: str = UNKNOWN) -> str:
    """A time as readers write it: `2026-05-01 10:00:00 UTC`. otherwise: what stands for one that is not known."""
    return (at or "").replace("T", " ").replace("+00:00", " UTC") or otherwise


Interval = tuple[float, float]
Kind = Literal["release", "tabular"]


@dataclass(frozen=True, slots=True)
class Registered:
    """One registered thing that the version is, or is made of. what: `release`, `prompt`, `model`, `tabular model`."""

    what: str
    ref: str
    at: str | None = None
    by: str | None = None


@dataclass(frozen=True, slots=True)
class RecordedPrompt:
    """sha256: of everything in the template that can change an answer. turns: (role, text with placeholders)."""

    ref: str
    sha256: str
    input_variable: str
    turns: tuple[tuple[str, str], ...]
    description: str = ""


@dataclass(frozen=True, slots=True)
class Model:
    """The language model of a release. provenance: of derived weights, the parent and how they were made."""

    ref: str
    source: str
    format: str
    sha256: str
    licence: str | None
    size_bytes: int | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tabular:
    """A fitted estimator. sha256: of it as it is stored, by MLflow at `source`. run_id: of its training. cycle: the
    pipeline's that registered it. provenance: what it was registered with."""

    ref: str
    task: str | None
    algorithm: str | None
    sha256: str
    source: str
    run_id: str
    inputs: tuple[Column, ...]
    output: Column | None
    cycle: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Data:
    """What it was trained or evaluated on. use: `evaluation`, or the context that MLflow was told. sha256: of the
    content. digest: MLflow's short one. source_sha256: of the file at `source`, which the rows were taken from."""

    use: str
    name: str
    sha256: str | None
    licence: str | None = None
    rows: int | None = None
    source: str | None = None
    digest: str | None = None
    source_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class RecordedMetric:
    """One metric. mean: over the rows with a score. n_failed: rows without one."""

    name: str
    mean: float | None
    ci95: Interval | None = None
    n_scored: int | None = None
    n_failed: int = 0

    @classmethod
    def of(cls, name: str, metric: Metric) -> Self:
        return cls(name, metric.mean, metric.ci95, metric.n_scored, metric.n_failed)


@dataclass(frozen=True, slots=True)
class Slice:
    """A metric within the rows that share a tag. name: `tag=value`."""

    name: str
    metric: RecordedMetric


@dataclass(frozen=True, slots=True)
class JudgeAgreement:
    """A judge's agreement with people: Cohen's κ with its interval, over n labelled rows."""

    kappa: float | None
    ci95: Interval | None
    n: int


@dataclass(frozen=True, slots=True)
class RecordedEvaluation:
    """One recorded run.

    deciding: metrics that a gate on record reads, the primary first.
    settings: engine, seed, slots … as MLflow shows them.
    judges: by scorer; None where its agreement with people was never measured.
    whole: all rows of the eval sets were run; None where that cannot be told.
    answers: what became of its rows; None where nobody counted.
    """

    suite: str
    run_id: str
    at: str | None
    by: str | None
    rows: int | None
    metrics: tuple[RecordedMetric, ...]
    slices: tuple[Slice, ...] = ()
    deciding: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    data: tuple[str, ...] = ()
    judges: Mapping[str, JudgeAgreement | None] = field(default_factory=dict)
    noise: Mapping[str, int] | None = None
    whole: bool | None = True
    stopped_early: bool = False
    clustered_by: str | None = None
    answers: AnswerCounts | None = None


@dataclass(frozen=True, slots=True)
class MetricDifference:
    """One metric against the champion of that time: b, this version, minus a. slice: `tag=value`; None for all rows."""

    metric: str
    a: float
    b: float
    difference: float
    ci95: Interval | None
    p_value: float
    rows: int
    slice: str | None = None
    higher_is_better: bool | None = True


@dataclass(frozen=True, slots=True)
class RecordedGate:
    """One verdict.

    against: who was champion; None for nobody. compared_with: what the differences are to, where that is another.
    current: it is the one that a promotion reads, of its suite.
    checks: names of what was asked. untrusted: judges that were not allowed to gate.
    loosened: rules that ask less than earlier gates did, and who loosened each.
    power: what so many rows can see, by metric.
    attested: it is the very verdict whose hash the audit log has; None where that has none.
    """

    suite: str
    verdict: str
    against: str | None
    reasons: tuple[str, ...]
    at: str | None = None
    run_id: str | None = None
    rules: Mapping[str, Any] = field(default_factory=dict)
    differences: tuple[MetricDifference, ...] = ()
    untrusted: tuple[str, ...] = ()
    power: Mapping[str, str] = field(default_factory=dict)
    current: bool = True
    attested: bool | None = None
    compared_with: str | None = None
    checks: tuple[str, ...] = ()
    loosened: tuple[str, ...] = ()

    @property
    def other(self) -> str | None:
        """Whom this version was compared with; None for nobody."""
        return self.compared_with or self.against


@dataclass(frozen=True, slots=True)
class RecordedMove:
    """Something that was done, by whom: an alias moved, a gate decided, traffic changed. forced: a promotion without a
    passing gate. What is `found` stood there without a record of how it came about: `new` was champion."""

    at: str | None
    what: str
    old: str | None
    new: str | None
    why: str
    by: str | None = None
    forced: bool = False


@dataclass(frozen=True, slots=True)
class Period:
    """A time as champion. since, until: None where that is not on record. lasts: it is the champion now. began, ended:
    by which kind of move. forced: without a passing gate. after, then: the champion before it, and the next."""

    since: str | None
    until: str | None = None
    lasts: bool = False
    began: str = ""
    ended: str = ""
    why: str = ""
    forced: bool = False
    after: str | None = None
    then: str | None = None


@dataclass(frozen=True, slots=True)
class History:
    """What was done to this version and, around it, to its app.

    source: `audit log` or `registry`. complete: nothing that was done can be missing.
    note: how far it can be trusted, in a sentence. problems: what the audit log found otherwise, in sentences.
    whole: the log was found as it was written, and everything to stand where it says; None where there is none.
    """

    moves: tuple[RecordedMove, ...]
    periods: tuple[Period, ...]
    source: str
    complete: bool
    note: str = ""
    whole: bool | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RecordedAlarm:
    """One alarm of a monitored window. of_version: it names this very version; else it is of all traffic of a window in
    which this version answered. window: its name, of a window that is no stretch of time."""

    since: str
    until: str
    what: str
    why: str
    severity: str | None
    of_version: bool
    run_id: str
    window: str | None = None


@dataclass(frozen=True, slots=True)
class Action:
    """What was done about an alarm, by itself."""

    at: str | None
    what: str
    why: str
    outcome: str
    dry_run: bool
    run_id: str


@dataclass(frozen=True, slots=True)
class RecordedWindow:
    """One monitored window: a stretch of time, or a batch of that `name`. alarms: how many. error, estimated_error: of
    a tabular model in the unit of its metric, once labels are there and before; None where nobody recorded one."""

    since: str | None
    until: str | None
    rows: int | None
    state: str
    alarms: int
    error: float | None = None
    estimated_error: float | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Monitoring:
    """Monitored windows in which this version answered.

    since, until: of windows that are stretches of time. first, last: names of the others.
    too_few: windows with too few rows to test.
    expected_false_alarms: the most that was stated for `expected_over`, such as `a month` or `12 windows`.
    latest: the newest windows, the newest first. unread: alarmed ones before, whose alarms are counted and not told.
    error_metric: what errors are, such as `rmse`.
    """

    windows: int
    rows: int
    since: str | None
    until: str | None
    alarmed: int
    too_few: int
    expected_false_alarms: float | None
    alarms: tuple[RecordedAlarm, ...] = ()
    actions: tuple[Action, ...] = ()
    latest: tuple[RecordedWindow, ...] = ()
    unread: int = 0
    expected_over: str = "a month"
    first: str | None = None
    last: str | None = None
    error_metric: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Factsheet:
    """What the registry knows of one version.

    kind: which of `prompt` and `model`, or `tabular`, is there. store: where it was read, without passwords.
    further_runs: evaluations on record that are not told. other_parameters: of the same prompt and model, with other
    parameters, which say nothing of this version.
    limits: what one should know before relying on it. unknown: what is not on record.
    """

    ref: str
    kind: Kind
    made_at: str = ""
    llmops: str = ""
    store: str = ""
    aliases: tuple[str, ...]
    description: str = ""
    registered: tuple[Registered, ...]
    parameters: Mapping[str, Any]
    data: tuple[Data, ...]
    evaluations: tuple[RecordedEvaluation, ...]
    gates: tuple[RecordedGate, ...]
    history: History
    monitoring: Monitoring | None
    prompt: RecordedPrompt | None = None
    model: Model | None = None
    tabular: Tabular | None = None
    guards: tuple[str, ...] = ()
    further_runs: int = 0
    other_parameters: int = 0
    limits: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: every field by its name; null for what JSON has no number for."""
        plain: dict[str, Any] = to_jsonable_python(self, inf_nan_mode="null")
        return plain
