"""Which of two runs a judge finds better, row by row, and which judge that is; and which of two releases people do."""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import Self

from llmops.errors import CannotRun, UsageError
from llmops.eval_runs.evaluations import Evaluations
from llmops.eval_runs.scorer_factory import ScorerFactory, calibration_problem
from llmops.evaluation.agreement import PositionBias
from llmops.evaluation.comparison import paired
from llmops.evaluation.eval_set import cluster_name
from llmops.evaluation.gate_rules import MOST_FAILED
from llmops.evaluation.generating import Progress
from llmops.evaluation.generation_cache import GenerationCache
from llmops.evaluation.statistics import sign_test_interval, sign_test_p
from llmops.evaluation.suite import KAPPA_ASKED, Suite
from llmops.hashing import JsonData, content_hash
from llmops.judges import JudgeEndpoint
from llmops.judges.pairwise import AnswerPair, PairJudge, judge_pairs, position_bias_of
from llmops.production_log import ProductionLog
from llmops.recording import find_calibration, record_comparison
from llmops.settings import Settings
from llmops.versions import Release

_UPSTREAM = "openai:"


@dataclass(frozen=True, slots=True)
class RunsJudged(JsonData):
    """Two runs, a and b, row by row, as a judge sees them. The fields are those of the JSON.

    runs: their ids, by side.
    why: why the judge's word is not to be relied on; None when it agrees with people well enough.
    wins, losses, win_share, ci95: b's, as in `eval compare`; the last two are None without either.
    n_failed: rows without a verdict. p_value: of the exact two-sided sign test that a win is as likely as a loss, which
        the interval inverts.
    unanswered: by side, judged rows without an answer. unmatched: by side, rows that the other run does not have.
    doubts: why the outcome is not to be relied on; none where it is.
    inconsistent: the share of pairs whose verdict turned with the order.
    """

    a: str
    b: str
    suite: str
    runs: Mapping[str, str]
    judge: str
    trusted: bool
    why: str | None
    rows: int
    wins: int
    losses: int
    ties: int
    n_failed: int
    unanswered: Mapping[str, int]
    unmatched: Mapping[str, int]
    doubts: Sequence[str]
    win_share: float | None
    ci95: Sequence[float] | None
    p_value: float
    inconsistent: float
    position_bias: PositionBias


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
    upstream = judge is not None and judge.startswith(_UPSTREAM)
    if judge is not None and not upstream and suite is None:
        raise UsageError(f"--judge {judge}: only a suite has judges by name; give --suite, or openai:URL#MODEL")
    judges = suite.judges if suite and not upstream else {}
    endpoint = ScorerFactory(settings).endpoint(judges, None if upstream else judge)
    if endpoint is None:
        raise UsageError("which judge? Give --judge openai:URL#MODEL, or set LLMOPS_JUDGE")
    return endpoint


def judge_name(endpoint: JudgeEndpoint) -> str:
    """A judge as a person would ask for it."""
    return f"{_UPSTREAM}{endpoint.base_url}#{endpoint.model}"


def kappa_of(suite: Suite | None, endpoint: JudgeEndpoint) -> float:
    """What the suite asks of a judge that compares pairs."""
    return float(suite.judges.get(endpoint.name, {}).get("kappa", KAPPA_ASKED)) if suite else KAPPA_ASKED


def judge_runs(
    evaluations: Evaluations,
    a: str,
    b: str,
    progress: Progress,
    *,
    suite: str | None = None,
    judge: str | None = None,
    key_variable: str | None = None,
    instructions: str | None = None,
    input_variable: str | None = None,
    limit: int | None = None,
) -> RunsJudged:
    """Judges two recorded runs in both orders and puts the outcome on record, on the second run.

    a, b: runs, as `Evaluations.resolve` reads them.
    progress: called with rows done and their number.
    judge, key_variable: as `with_judge` and `judge_endpoint` take them.
    instructions: the criteria, in place of the default ones.
    limit: rows.

    Raises UsageError: no such judge. UnknownVersion: no such run. EngineUnavailable: the judge has no key, or cannot be
    reached. CannotRun: runs of two suites, or no verdict at all; nothing is recorded. StoreUnavailable: verdicts are
    kept, so that the next call asks for none of them again.
    """
    of_suite, run_a, run_b = evaluations.resolve_pair(a, b, suite)
    settings, store = evaluations.settings, evaluations.registry.store
    endpoint = judge_endpoint(with_judge(settings, judge, key_variable), of_suite, judge)
    asked = PairJudge(endpoint, instructions=instructions, input_variable=input_variable)
    joined = paired(evaluations.rows(run_a), evaluations.rows(run_b))
    pairs = [AnswerPair(left.row, left.output, right.output) for left, right in islice(joined, limit)]
    left_out = sum(1 for _ in joined)
    with closing(GenerationCache(settings.generation_cache_dir)) as cache:
        verdicts = judge_pairs(asked, pairs, cache, progress)
    winners, rows, bias = [verdict.winner for verdict in verdicts], len(verdicts), position_bias_of(verdicts)
    if bias is None:
        raise CannotRun(f"there is no verdict on any of {rows} rows; the first: {verdicts[0].error}")
    wins, losses, failed = winners.count("b"), winners.count("a"), winners.count(None)
    why = calibration_problem(find_calibration(store, content_hash(dict(asked.identity))), kappa_of(of_suite, endpoint))
    unmatched = {"a": run_a.rows - rows - left_out, "b": run_b.rows - rows - left_out}
    made = RunsJudged(
        a=a,
        b=b,
        suite=of_suite.name,
        runs={"a": run_a.run_id, "b": run_b.run_id},
        judge=judge_name(endpoint),
        trusted=why is None,
        why=why,
        rows=rows,
        wins=wins,
        losses=losses,
        ties=winners.count("tie"),
        n_failed=failed,
        unanswered={side: sum(getattr(pair, side).error is not None for pair in pairs) for side in "ab"},
        unmatched=unmatched,
        doubts=_doubts(of_suite, pairs, why, failed, left_out, zip((a, b), unmatched.values(), strict=True)),
        win_share=wins / (wins + losses) if wins + losses else None,
        ci95=sign_test_interval(wins, losses) if wins + losses else None,
        p_value=sign_test_p(wins, losses),
        inconsistent=bias.flipped,
        position_bias=bias,
    )
    record = {**made.to_json(), "identity": dict(asked.identity), "verdicts": [item.to_json() for item in verdicts]}
    record_comparison(store, run_b.run_id, f"pairwise-against-{re.sub('[^A-Za-z0-9_.]', '-', a)}", record)
    return made


def _doubts(
    suite: Suite,
    pairs: Sequence[AnswerPair],
    why: str | None,
    failed: int,
    left_out: int,
    unmatched: Iterable[tuple[str, int]],
) -> list[str]:
    """What `RunsJudged.doubts` are. unmatched: by the run's name."""
    found, rows = [why] if why else [], len(pairs)
    if failed > MOST_FAILED * rows:
        found.append(f"{failed} of {rows} rows have no verdict")
    for name, n in unmatched:
        total = rows + left_out + n
        if n > MOST_FAILED * total:
            found.append(f"{n} of {total} rows of {name} are not in the other run")
    if left_out:
        found.append(f"only the first {rows} of {rows + left_out} rows were judged")
    if suite.cluster_by is not None:
        clusters = len({cluster_name(pair.row, suite.cluster_by) for pair in pairs})
        if clusters < rows:
            found.append(f"{rows} rows come in {clusters} clusters, and the sign test takes each row for itself")
    return found


@dataclass(frozen=True, slots=True)
class Votes(JsonData):
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

    @classmethod
    def counted(cls, a: str, b: str, wins_a: int, wins_b: int, ties: int) -> Self:
        """The votes with what they say."""
        decided = wins_a + wins_b
        made = cls(a, b, decided + ties, wins_a, wins_b, ties)
        if not decided:
            return made
        interval, p_value = sign_test_interval(wins_b, wins_a), sign_test_p(wins_b, wins_a)
        return replace(made, share_b=wins_b / decided, ci95=interval, p_value=p_value)

    def sentence(self) -> str:
        """All of it, for people."""
        counts = f"votes: {self.wins_a} for {self.a}, {self.wins_b} for {self.b}, {self.ties} for neither"
        if self.share_b is None or self.ci95 is None:
            return counts
        low, high = self.ci95
        shares = f"{self.share_b:.0%} of those decided prefer {self.b} (95 % interval {low:.0%} to {high:.0%})"
        return f"{counts}; {shares}, p = {self.p_value:.3g}"


def votes_between(log: ProductionLog, a: Release, b: Release) -> Votes | None:
    """None where a and b are not two releases of one app, or where nobody voted. Raises StoreUnavailable."""
    if a.app != b.app or a.ref == b.ref:
        return None
    counts = log.votes(a.app)
    if (found := counts.get((a.ref, b.ref))) is not None:
        return Votes.counted(a.ref, b.ref, found.a, found.b, found.tie)
    if (found := counts.get((b.ref, a.ref))) is not None:
        return Votes.counted(a.ref, b.ref, found.b, found.a, found.tie)
    return None
