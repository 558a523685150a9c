"""What must hold of the scores: the same as a plain loop's, and as the peer's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.evaluation.outcome import Answer, AnswerKey, Outcome
from benchmarks.evaluation.peers import ChoiceOutcome
from benchmarks.evaluation.plain_loop import Reference

NEAR_TIE = 0.5
"""Nats: an answer that leaves the plain loop's must do so at a token that was ahead of the other by no more than this.

Where the order of additions differs, the 4-bit kernels move a log-probability by 0.1 to 0.2; a fault moves it by more.
"""

RESCORED_BY_BATCHING = 0.05
"""Share of rows to which decoding together may give another score than each request alone, on the same engine."""


@dataclass(frozen=True, slots=True)
class Criterion:
    """What must hold, and whether it does."""

    text: str
    met: bool


@dataclass(frozen=True, slots=True)
class OurRuns:
    """What llmops answered with llama.cpp. loop_server: one request at a time, on the plain loop's own server.
    repeatable: twice with `--repeatable`. fast: in process by default, each round."""

    loop_server: Outcome
    repeatable: tuple[Outcome, Outcome]
    fast: Sequence[Outcome]


def same_as_loop(ours: OurRuns, loop: Mapping[AnswerKey, Reference]) -> list[Criterion]:
    """Equal scores, row by row: to the letter where the arithmetic is the same, else up to near-ties."""
    exact = sum(ours.loop_server.answers[key] == reference.answer for key, reference in loop.items())
    return [
        Criterion(f"the plain loop's server: its text and score on {exact} of {len(loop)} rows", exact == len(loop)),
        _repeats("--repeatable", ours.repeatable),
        _near_ties("--repeatable", ours.repeatable, loop),
        _near_ties("in process", ours.fast, loop),
    ]


def same_as_alone(
    alone: tuple[Outcome, Outcome], batched: Sequence[Outcome], loop: Mapping[AnswerKey, Reference]
) -> list[Criterion]:
    """An engine whose kernels are not the loop's is held against itself: openvino.

    alone: twice with `--repeatable`. batched: in process by default, each round. How near a tie was can be told by the
    loop's candidates where at least one of two answers follows the loop up to where they part; elsewhere nobody
    knows, so the number of other scores is limited besides.
    """
    pairs = [
        (outcome.answers[key], alone[0].answers[key], reference)
        for outcome in batched
        for key, reference in loop.items()
    ]
    parted = [pair for pair in pairs if pair[0].text != pair[1].text]
    rescored = sum(mine.score != single.score for mine, single, _ in parted)
    misscored = sum(mine.score != single.score for mine, single, _ in pairs) - rescored
    gaps = [_parting(reference, mine, single) for mine, single, reference in parted]
    judged = [gap for gap in gaps if gap is not None]
    widest, allowed = max(judged, default=0.0), RESCORED_BY_BATCHING * len(pairs)
    return [
        _repeats("openvino, --repeatable", alone),
        Criterion(
            f"openvino, in process: another text than alone on {len(parted)} of {len(pairs)} rows, by that another "
            f"score on {rescored}, at most {allowed:.0f} allowed; widest near-tie {widest:.3f} nats where the loop can "
            f"tell ({len(judged)} rows), at most {NEAR_TIE} allowed; same text but another score on {misscored}",
            rescored <= allowed and widest <= NEAR_TIE and misscored == 0,
        ),
    ]


def _parting(reference: Reference, one: Answer, other: Answer) -> float | None:
    """How near the tie was, in nats, at which two answers part; None when both had left the loop's answer before."""
    together = _shared(one.text, other.text)
    followed = {text: _shared(text, reference.answer.text) for text in (one.text, other.text)}
    if together > max(followed.values()):
        return None
    return max(reference.parting(text) for text, length in followed.items() if length <= together)


def _shared(one: str, other: str) -> int:
    """Letters from the beginning that two texts have in common."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _repeats(name: str, runs: tuple[Outcome, Outcome]) -> Criterion:
    first, second = runs
    same, rows = sum(first.answers[key] == answer for key, answer in second.answers.items()), len(first.answers)
    return Criterion(f"{name}, twice: same text and score on {same} of {rows} rows", same == rows)


def _near_ties(name: str, outcomes: Sequence[Outcome], loop: Mapping[AnswerKey, Reference]) -> Criterion:
    pairs = [(outcome.answers[key], reference) for outcome in outcomes for key, reference in loop.items()]
    parted = [(mine, reference) for mine, reference in pairs if mine.text != reference.answer.text]
    rescored = sum(mine.score != reference.answer.score for mine, reference in parted)
    misscored = sum(mine.score != reference.answer.score for mine, reference in pairs) - rescored
    widest = max((reference.parting(mine.text) for mine, reference in parted), default=0.0)
    return Criterion(
        f"{name}: another text than the loop's on {len(parted)} of {len(pairs)} rows, by that another score on "
        f"{rescored}; widest near-tie {widest:.3f} nats, at most {NEAR_TIE} allowed; same text but another score on "
        f"{misscored}",
        widest <= NEAR_TIE and misscored == 0,
    )


def same_choices(ours: ChoiceOutcome, theirs: ChoiceOutcome) -> list[Criterion]:
    """Multiple-choice accuracy, row by row."""
    print(
        f"\n{len(ours.acc)} questions with 4 choices: ours {ours.seconds:.1f} s (wall {ours.wall:.1f} s), "
        f"lm-eval hf {theirs.seconds:.1f} s (wall {theirs.wall:.1f} s)"
    )
    criteria = []
    for name, mine, other in (("acc", ours.acc, theirs.acc), ("acc_norm", ours.acc_norm, theirs.acc_norm)):
        alike = sum(mine[row_id] == right for row_id, right in other.items())
        shares = f"{sum(mine.values()) / len(mine):.3f} and {sum(other.values()) / len(other):.3f}"
        text = f"multiple choice, {name}: {shares} (lm-eval), alike on {alike} of {len(other)} rows"
        criteria.append(Criterion(text, mine == other))
    return criteria
