"""Which of two runs a judge finds better, row by row, and which judge that is; and which of two releases people do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

from llmops.errors import CannotRun, UsageError
from llmops.eval_runs.evaluations import Evaluations
from llmops.eval_runs.scorer_factory import ScorerFactory, distrust
from llmops.evaluation.comparison import paired
from llmops.evaluation.eval_set import EvalRow, cluster_name
from llmops.evaluation.gate_rules import MOST_FAILED
from llmops.evaluation.generation_cache import GenerationCache
from llmops.evaluation.statistics import sign_test_interval, sign_test_p
from llmops.evaluation.suite import KAPPA_ASKED, Suite
from llmops.hashing import content_hash
from llmops.judges import JudgeEndpoint
from llmops.judges.pairwise import AskedFirst, Pair, PairJudge, PairSummary, PairVerdict, judge_pairs
from llmops.production_log import ProductionLog
from llmops.recording import find_calibration, record_comparison
from llmops.settings import Settings
from llmops.versions import Release

Progress = Callable[[int, int], None]

_UPSTREAM = "openai:"


@dataclass(frozen=True, slots=True)
class PairwiseAsked:
    """What is to be judged.

    a, b: runs, as `Evaluations.resolve` reads them.
    judge, key_variable: as `with_judge` and `judge_endpoint` take them.
    instructions: the criteria, in place of the default ones.
    limit: rows.
    """

    a: str
    b: str
    suite: str | None = None
    judge: str | None = None
    key_variable: str | None = None
    instructions: str | None = None
    input_variable: str | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class RunsJudged:
    """Two runs, row by row, as a judge sees them.

    a, b: as they were asked for.
    untrusted: why the judge's word is not to be relied on; None when it agrees with people well enough.
    unanswered, unmatched: of a and of b, judged rows without an answer, and rows that the other run does not have.
    left_out: rows of both that were not judged, by the limit.
    clusters: independent groups of rows; None when every row stands for itself.
    """

    a: str
    b: str
    suite: str
    run_ids: tuple[str, str]
    judge: str
    untrusted: str | None
    verdicts: Sequence[PairVerdict]
    summary: PairSummary
    unanswered: tuple[int, int] = (0, 0)
    unmatched: tuple[int, int] = (0, 0)
    left_out: int = 0
    clusters: int | None = None

    @property
    def doubts(self) -> list[str]:
        """Why the outcome is not to be relied on; none where it is."""
        found = [self.untrusted] if self.untrusted else []
        rows = len(self.verdicts)
        if self.summary.failed > MOST_FAILED * rows:
            found.append(f"{self.summary.failed} of {rows} rows have no verdict")
        for name, unmatched in zip((self.a, self.b), self.unmatched, strict=True):
            if unmatched > MOST_FAILED * (rows + self.left_out + unmatched):
                found.append(
                    f"{unmatched} of {rows + self.left_out + unmatched} rows of {name} are not in the other run"
                )
        if self.left_out:
            found.append(f"only the first {rows} of {rows + self.left_out} rows were judged")
        if self.clusters is not None and self.clusters < rows:
            found.append(f"{rows} rows come in {self.clusters} clusters, and the sign test takes each row for itself")
        return found

    @property
    def contradicting(self) -> int:
        """Rows whose verdict turned with the order."""
        return sum(verdict.winner is not None and not verdict.consistent for verdict in self.verdicts)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values. wins, win_share and its interval are b's, as in `eval compare`."""
        found, share, ends = self.summary, self.summary.win_share, self.summary.interval
        judged = len(self.verdicts) - found.failed
        return {
            "a": self.a,
            "b": self.b,
            "suite": self.suite,
            "runs": {"a": self.run_ids[0], "b": self.run_ids[1]},
            "judge": self.judge,
            "trusted": self.untrusted is None,
            "why": self.untrusted,
            "rows": len(self.verdicts),
            "wins": found.losses,
            "losses": found.wins,
            "ties": found.ties,
            "n_failed": found.failed,
            "unanswered": dict(zip("ab", self.unanswered, strict=True)),
            "unmatched": dict(zip("ab", self.unmatched, strict=True)),
            "doubts": self.doubts,
            "win_share": None if share is None else 1 - share,
            "ci95": [1 - ends[1], 1 - ends[0]] if ends else None,
            "p_value": found.p_value,
            "inconsistent": self.contradicting / judged if judged else None,
            "position_bias": found.position_bias.to_json() if found.position_bias else None,
        }


def with_judge(settings: Settings, judge: str | None, key_variable: str | None = None) -> Settings:
    """Settings in which a judge of the form `openai:URL#MODEL` takes the place of LLMOPS_JUDGE. Raises UsageError."""
    if judge is not None and judge.startswith(_UPSTREAM):
        return replace(settings, judge=judge, judge_key_variable=key_variable)
    if key_variable is not None:
        raise UsageError("--key-variable goes with --judge openai:URL#MODEL; a suite's judge names its own")
    return settings


def judge_endpoint(settings: Settings, suite: Suite | None, judge: str | None) -> JudgeEndpoint:
    """Where the judge answers that `judge` means: one of the suite's by name, or what `with_judge` put into the
    settings; by default the suite's only one, else the setting's. Raises UsageError."""
    scorer_factory = ScorerFactory(settings)
    if judge is not None and judge.startswith(_UPSTREAM):
        found = scorer_factory.endpoint({})
    elif judge is not None and suite is None:
        raise UsageError(f"--judge {judge}: only a suite has judges by name; give --suite, or openai:URL#MODEL")
    else:
        found = scorer_factory.endpoint(suite.judges if suite else {}, judge)
    if found is None:
        raise UsageError("which judge? Give --judge openai:URL#MODEL, or set LLMOPS_JUDGE")
    return found


def judge_name(endpoint: JudgeEndpoint) -> str:
    """A judge as a person would ask for it."""
    return f"{_UPSTREAM}{endpoint.base_url}#{endpoint.model}"


def kappa_of(suite: Suite | None, endpoint: JudgeEndpoint) -> float:
    """What the suite asks of a judge that compares pairs."""
    return float(suite.judges.get(endpoint.name, {}).get("kappa", KAPPA_ASKED)) if suite else KAPPA_ASKED


def pair_judge(endpoint: JudgeEndpoint, instructions: str | None, input_variable: str | None) -> PairJudge:
    """A judge of pairs by these criteria, or by the default ones. Raises UsageError."""
    if instructions is None:
        return PairJudge(endpoint, input_variable=input_variable)
    return PairJudge(endpoint, instructions=instructions, input_variable=input_variable)


def judge_runs(evaluations: Evaluations, settings: Settings, asked: PairwiseAsked, progress: Progress) -> RunsJudged:
    """Judges two recorded runs in both orders and puts the outcome on record, on the second run.

    settings: as the evaluations have them. progress: called with rows done and their number.

    Raises:
        UsageError: no such judge. UnknownVersion: no such run. EngineUnavailable: the judge has no key, or cannot be
            reached.
        CannotRun: runs of two suites, or no verdict at all; nothing is recorded.
        StoreUnavailable: verdicts are kept, so that the next call asks for none of them again.
    """
    suite, run_a, run_b = evaluations.resolve_pair(asked.a, asked.b, asked.suite)
    endpoint = judge_endpoint(with_judge(settings, asked.judge, asked.key_variable), suite, asked.judge)
    judge = pair_judge(endpoint, asked.instructions, asked.input_variable)
    joined = paired(evaluations.rows(run_a), evaluations.rows(run_b))
    pairs = [Pair(left.row, left.output, right.output) for left, right in islice(joined, asked.limit)]
    matched = len(pairs) + sum(1 for _ in joined)
    with closing(GenerationCache(settings.generation_cache_dir)) as cache:
        verdicts, summary = judge_pairs(judge, pairs, cache=AskedFirst(cache, endpoint), progress=progress)
    if summary.failed == len(verdicts):
        raise CannotRun(f"there is no verdict on any of {len(verdicts)} rows; the first: {verdicts[0].error}")
    store = evaluations.registry.store
    why = distrust(find_calibration(store, content_hash(dict(judge.identity))), kappa_of(suite, endpoint))
    made = RunsJudged(
        a=asked.a,
        b=asked.b,
        suite=suite.name,
        run_ids=(run_a.run_id, run_b.run_id),
        judge=judge_name(endpoint),
        untrusted=why,
        verdicts=verdicts,
        summary=summary,
        unanswered=(sum(pair.a.error is not None for pair in pairs), sum(pair.b.error is not None for pair in pairs)),
        unmatched=(run_a.rows - matched, run_b.rows - matched),
        left_out=matched - len(pairs),
        clusters=clusters_of(suite, [pair.row for pair in pairs]),
    )
    record = {**made.to_json(), "identity": dict(judge.identity), "verdicts": [item.to_json() for item in verdicts]}
    record_comparison(store, run_b.run_id, f"pairwise-against-{re.sub('[^A-Za-z0-9_.]', '-', asked.a)}", record)
    return made


def clusters_of(suite: Suite, rows: Iterable[EvalRow]) -> int | None:
    """How many independent groups the rows come in; None where every row stands for itself."""
    if suite.cluster_by is None:
        return None
    return len({cluster_name(row, suite.cluster_by) for row in rows})


@dataclass(frozen=True, slots=True)
class Votes:
    """Votes between releases a and b. n: all of them. share_b: of those that found one better, how many found b; with
    its 95 % interval. p_value: two-sided, of the exact binomial test that either is as likely, which the interval
    inverts. The last three are None where nobody found one better."""

    a: str
    b: str
    n: int
    wins_a: int
    wins_b: int
    ties: int
    share_b: float | None = None
    ci95: tuple[float, float] | None = None
    p_value: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "ci95": list(self.ci95) if self.ci95 else None}

    def sentence(self) -> str:
        """All of it, for people."""
        counts = f"votes: {self.wins_a} for {self.a}, {self.wins_b} for {self.b}, {self.ties} for neither"
        if self.share_b is None or self.ci95 is None:
            return counts
        low, high = self.ci95
        shares = f"{self.share_b:.0%} of those decided prefer {self.b} (95 % interval {low:.0%} to {high:.0%})"
        return f"{counts}; {shares}, p = {self.p_value:.3g}"


def votes_between(log: ProductionLog, a: Release | None, b: Release | None) -> Votes | None:
    """None where a and b are not two releases of one app, or where nobody voted. Raises StoreUnavailable."""
    if a is None or b is None or a.app != b.app or a.ref == b.ref:
        return None
    counts = log.votes(a.app)
    if (found := counts.get((a.ref, b.ref))) is not None:
        return judged(a.ref, b.ref, found.a, found.b, found.tie)
    if (found := counts.get((b.ref, a.ref))) is not None:
        return judged(a.ref, b.ref, found.b, found.a, found.tie)
    return None


def judged(a: str, b: str, wins_a: int, wins_b: int, ties: int) -> Votes:
    """The votes with what they say."""
    decided = wins_a + wins_b
    if not decided:
        return Votes(a, b, ties, 0, 0, ties)
    share = wins_b / decided
    interval = sign_test_interval(wins_b, wins_a)
    return Votes(a, b, decided + ties, wins_a, wins_b, ties, share, interval, sign_test_p(wins_b, wins_a))


def votes_of(evaluations: Evaluations, a: str, b: str) -> Votes | None:
    """As `votes_between`, of what `a` and `b` name; None where they are no releases. Raises StoreUnavailable."""
    releases = evaluations.release(a), evaluations.release(b)
    if None in releases:
        return None
    with closing(ProductionLog(evaluations.settings.resolved_log_url)) as log:
        return votes_between(log, *releases)
