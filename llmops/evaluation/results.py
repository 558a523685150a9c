"""What an evaluation yields: outputs, scores and failures for every row, and their summary."""

from __future__ import annotations

import functools
import json
import math
import os
import tempfile
import weakref
from array import array
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from llmops.engines.answer import is_cut_off
from llmops.evaluation import statistics
from llmops.evaluation.eval_set import EvalRow, cluster_name


@dataclass(frozen=True, slots=True)
class Noise:
    """How often an engine answers the same question differently by itself: flips of n answers differed between two runs
    that took nothing from the generation cache.

    Slots that are decoded together, and prompt beginnings that are computed once for several requests, change the order
    of floating-point sums: of two tokens that are almost equally likely, even greedy decoding then takes either. It is
    measured once for each engine, its settings and weights, and stands beside every comparison.
    """

    n: int
    flips: int

    @property
    def share(self) -> float:
        """Of the answers, those that differed; 0 of none."""
        return self.flips / self.n if self.n else 0.0

    @property
    def ci95(self) -> tuple[float, float]:
        """Clopper–Pearson interval of the share; of no answers, every share."""
        return statistics.sign_test_interval(self.flips, self.n - self.flips) if self.n else (0.0, 1.0)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "flip_share": self.share, "ci95": list(self.ci95)}


ScoreValue = bool | float
_BLOCK = 1 << 20


class _OfPlainFields:
    """Base of dataclasses with slots whose fields are JSON's values. `asdict`, which copies each of these, too, takes a
    tenth of an evaluation's CPU time."""

    __slots__: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The fields by name; what they hold is not copied."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Output(_OfPlainFields):
    """What a cell answered to one row. error: why there is no answer; the text is then empty.

    finish_reason, tokens_in, tokens_out, latency_ms, first_token_ms: None where nobody said, counted or measured them.
    tool_calls: OpenAI's objects, with arguments as JSON text. refusal: what the model said in place of an answer.
    reasoning: what it thought before. off_format: which rule of its response format an upstream's answer breaks.

    choice_logprobs: for multiple choice, the log-likelihood of each of the row's choices, in their order; the text is
    then the likeliest choice.
    """

    text: str
    finish_reason: str | None = "stop"
    tokens_in: int | None = None
    tokens_out: int | None = None
    latency_ms: float | None = None
    first_token_ms: float | None = None
    error: str | None = None
    choice_logprobs: Sequence[float] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    refusal: str | None = None
    reasoning: str | None = None
    off_format: str | None = None


@dataclass(frozen=True, slots=True)
class Score(_OfPlainFields):
    """One scorer's judgement of one output: a value with a rationale, or an error. Exactly one of both is set.

    label: the class that a classifying scorer read in the output.
    """

    value: ScoreValue | None = None
    rationale: str = ""
    error: str | None = None
    label: str | None = None


@dataclass(frozen=True, slots=True)
class RowResult:
    """A row, what was answered, and its scores by scorer name."""

    row: EvalRow
    output: Output
    scores: Mapping[str, Score]

    def to_json(self) -> dict[str, Any]:
        return {
            **self.row.to_json(),
            "output": self.output.to_json(),
            "scores": {name: score.to_json() for name, score in self.scores.items()},
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RowResult:
        scores = {name: Score(**score) for name, score in values["scores"].items()}
        return cls(EvalRow.from_json(values), Output(**values["output"]), scores)


@dataclass(frozen=True, slots=True)
class AnswerCounts:
    """What became of a run's rows, whatever the scorers say: the one count that every table, page and verdict reads.

    failed: no answer came. cut_off: the answer ended at `max_tokens` (`is_cut_off`). empty: it came without a
    visible character, a tool call or a refusal. An answer may be both cut off and empty. off_format: an upstream's
    answer breaks the response format that it was asked in.
    """

    rows: int = 0
    failed: int = 0
    cut_off: int = 0
    empty: int = 0
    off_format: int = 0

    @classmethod
    def of(cls, outputs: Iterable[Output]) -> AnswerCounts:
        """What became of these rows."""
        return functools.reduce(cls.plus, outputs, cls())

    def plus(self, output: Output) -> AnswerCounts:
        """With one more row."""
        answered = output.error is None
        said = output.text.strip() or output.tool_calls or output.refusal
        return AnswerCounts(
            self.rows + 1,
            self.failed + (not answered),
            self.cut_off + (answered and is_cut_off(output.finish_reason)),
            self.empty + (answered and not said),
            self.off_format + (output.off_format is not None),
        )

    @property
    def flawed(self) -> bool:
        """Whether any row failed, or was answered in part, not at all or not as asked."""
        return bool(self.failed or self.cut_off or self.empty or self.off_format)

    def share(self, count: int) -> float:
        """Of all rows; 0 of none."""
        return count / self.rows if self.rows else 0.0

    def sentence(self) -> str:
        """`of 100 rows 3 failed, 86 answers cut off at max_tokens (86 %), 2 empty (2 %)`; or that all is well."""
        counts = (
            (self.failed, "failed"),
            (self.cut_off, "cut off at max_tokens"),
            (self.empty, "empty"),
            (self.off_format, "not in the format asked for"),
        )
        said = [f"{count} {words} ({100 * self.share(count):.3g} %)" for count, words in counts if count]
        rows = f"{self.rows} row{'' if self.rows == 1 else 's'}"
        return f"of {rows} {', '.join(said)}" if said else f"{rows}, none failed, cut off or empty"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "cut_off_share": self.share(self.cut_off), "empty_share": self.share(self.empty)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> AnswerCounts:
        """Reads what `to_json` gave."""
        older = {"off_format": 0, **values}
        return cls(*(int(older[name]) for name in ("rows", "failed", "cut_off", "empty", "off_format")))


@dataclass(frozen=True, slots=True)
class OfSuite:
    """How much of a suite was judged. rows: of the whole suite. drawn_from: of how many rows the judged ones were drawn
    by chance, for runs that were stopped early; None for others, which take the first rows."""

    judged: int
    rows: int
    drawn_from: int | None = None

    @property
    def left_out(self) -> int:
        """Rows that nothing was learnt of: neither were they judged, nor do those that were stand for them."""
        return max(0, self.rows - (self.judged if self.drawn_from is None else self.drawn_from))

    def sentence(self) -> str:
        """`only 25 of the suite's 200 rows were judged`; empty where all of them were."""
        if self.judged >= self.rows:
            return ""
        drawn = "" if self.drawn_from is None else f", drawn by chance from {self.drawn_from}"
        return f"only {self.judged} of the suite's {self.rows} rows were judged{drawn}"


@dataclass(frozen=True, slots=True)
class Metric:
    """Summary of one scorer over a run. mean, ci95: over the scored rows. n_failed: rows without a score. note: why
    there is no interval. limits: the scorer's least and greatest value, infinite where it has none."""

    mean: float | None
    n_scored: int
    n_failed: int
    ci95: tuple[float, float] | None
    note: str = ""
    limits: tuple[float, float] = statistics.UNLIMITED

    @property
    def rows(self) -> int:
        """With and without a score."""
        return self.n_scored + self.n_failed

    @classmethod
    def of(
        cls,
        values: Sequence[ScoreValue],
        n_failed: int,
        clusters: Sequence[Hashable] | None = None,
        limits: tuple[float, float] = statistics.UNLIMITED,
    ) -> Metric:
        """The mean of the scored rows' values, with its interval (`statistics.mean_interval`)."""
        if not len(values):
            return cls(None, 0, n_failed, None)
        ci95 = statistics.mean_interval(values, clusters, limits)
        note = statistics.no_interval(values, clusters, limits)
        return cls(sum(values) / len(values), len(values), n_failed, ci95, note, limits)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Metric:
        """Reads what `to_json` gave, also before there were notes and limits."""
        low, high = values.get("limits", (None, None))
        limits = (-math.inf if low is None else low, math.inf if high is None else high)
        ci95 = tuple(values["ci95"]) if values["ci95"] else None
        return cls(values["mean"], values["n_scored"], values["n_failed"], ci95, values.get("note", ""), limits)

    def to_json(self) -> dict[str, Any]:
        limits = [limit if math.isfinite(limit) else None for limit in self.limits]
        return {**asdict(self), "ci95": list(self.ci95) if self.ci95 else None, "limits": limits}


class ScoreTally:
    """A scorer's values gathered row by row, of a run or a slice: of each row a number is kept, not the row.

    limits: of the scorer's values, where they are known.
    cluster_by: what rows of one source have in common, as `cluster_name` reads it; intervals then allow for it.
    """

    def __init__(
        self, scorer: str, limits: tuple[float, float] = statistics.UNLIMITED, cluster_by: str | None = None
    ) -> None:
        self._scorer, self._limits, self._cluster_by = scorer, limits, cluster_by
        self._values, self._clusters, self._n_failed = array("d"), list[str](), 0

    def add(self, result: RowResult) -> None:
        """One more row."""
        score = result.scores.get(self._scorer)
        if score is None or score.value is None:
            self._n_failed += 1
            return
        self._values.append(float(score.value))
        if self._cluster_by is not None:
            self._clusters.append(cluster_name(result.row, self._cluster_by))

    def metric(self) -> Metric:
        """Of the rows added so far."""
        return Metric.of(self._values, self._n_failed, self._clusters or None, self._limits)


@dataclass(frozen=True, slots=True)
class RunFindings:
    """What a scorer says of a whole run. metrics: by name, shown as `<scorer>/<name>`. files: name to content, stored
    with the run (a confusion matrix as PNG, a report as JSON)."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


class StoredResults:
    """Results on disk, in order: as many as there are rows, none of them in memory. Read any number of times.

    The file has no name (it is gone with the object, also after `kill -9`); what is worth keeping is in the generation
    cache and in the recorded run.
    """

    def __init__(self, folder: Path | None) -> None:
        """folder: on whose disk the rows lie; None: on that of temporary files. Raises OSError."""
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - lives as long as the results
        self._count = 0
        weakref.finalize(self, self._file.close)

    def append(self, result: RowResult) -> None:
        """Writes the next row. Raises OSError."""
        self._file.write(json.dumps(result.to_json()).encode() + b"\n")
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[RowResult]:
        self._file.flush()
        descriptor, position, rest = self._file.fileno(), 0, b""
        while block := os.pread(descriptor, _BLOCK, position):
            position += len(block)
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                yield RowResult.from_json(json.loads(line))


def known_sum(total: int | None, more: int | None) -> int | None:
    """The sum of two counts; None where one is unknown."""
    return None if total is None or more is None else total + more


class Results(Sized, Iterable[RowResult], Protocol):
    """Row results in the order of the rows, that can be gone through more than once."""


@dataclass(frozen=True, slots=True)
class EvalReport:
    """One cell's results. generated, from_cache: how its outputs came about. seconds: wall time of generating.

    tokens_in, tokens_out: of all answers, also those from the cache. generated_tokens: of those made now. All are None
    where an answer's were not counted. findings: what scorers say of the whole run, by scorer name.
    """

    results: Results
    metrics: Mapping[str, Metric]
    generated: int
    from_cache: int
    seconds: float
    tokens_in: int | None = None
    tokens_out: int | None = None
    generated_tokens: int | None = 0
    findings: Mapping[str, RunFindings] = field(default_factory=dict)

    @property
    def tokens_per_second(self) -> float | None:
        """Generated tokens by wall time of this run; None when nothing was generated, or not counted."""
        if not self.generated or self.seconds <= 0 or self.generated_tokens is None:
            return None
        return self.generated_tokens / self.seconds


@dataclass(slots=True)
class Failure:
    """Why some rows have no score. first: the id of the first such row. scorers: those that gave none."""

    why: str
    rows: int
    first: str
    scorers: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def failures_of(results: Iterable[RowResult]) -> tuple[Failure, ...]:
    """Why rows have no score, most frequent first. Reasons that differ only by the row that they name are one."""
    by_reason: dict[str, Failure] = {}
    for result in results:
        named = f"row {result.row.id}: "
        failed = {
            name: score.error.replace(named, "") for name, score in result.scores.items() if score.error is not None
        }
        for why in dict.fromkeys(failed.values()):
            failure = by_reason.setdefault(why, Failure(why, 0, result.row.id))
            failure.rows += 1
            failure.scorers += [n for n, error in failed.items() if error == why and n not in failure.scorers]
    return tuple(sorted(by_reason.values(), key=lambda failure: -failure.rows))
