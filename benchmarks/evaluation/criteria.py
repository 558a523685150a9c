"""What must hold of the scores: the same as a plain loop's, and as the peer's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.evaluation.outcome import AnswerKey, Outcome
from benchmarks.evaluation.peers import ChoiceOutcome
from benchmarks.evaluation.plain_loop import Reference

NEAR_TIE = 0.5
"""Nats: what batching may turn round. An answer that leaves the plain loop's must do so at a token less far ahead."""


@dataclass(frozen=True, slots=True)
class Criterion:
    """What must hold, and whether it does."""

    text: str
    met: bool


def same_as_loop(
    batched: Sequence[Outcome], one_by_one: Outcome, loop: Mapping[AnswerKey, Reference]
) -> list[Criterion]:
    """Equal scores, row by row: exactly with one slot, and up to near-ties where requests are decoded together."""
    changed = [
        (key, outcome.answers[key].score != reference.answer.score, reference.parting(outcome.answers[key].text))
        for outcome in batched
        for key, reference in loop.items()
        if outcome.answers[key].text != reference.answer.text
    ]
    scores = sum(score_changed for _, score_changed, _ in changed)
    widest = max((gap for _, _, gap in changed), default=0.0)
    alike = sum(one_by_one.answers[key] == reference.answer for key, reference in loop.items())
    texts = len(batched) * len(loop)
    return [
        Criterion(f"one slot: text and score as the plain loop's on {alike} of {len(loop)} rows", alike == len(loop)),
        Criterion(
            f"slots filled: another text on {len(changed)} of {texts} rows, another score on {scores}; the widest "
            f"near-tie that batching turned is {widest:.3f} nats, at most {NEAR_TIE} is allowed",
            widest <= NEAR_TIE
            and all(
                outcome.answers[key].score == reference.answer.score
                for outcome in batched
                for key, reference in loop.items()
                if outcome.answers[key].text == reference.answer.text
            ),
        ),
    ]


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
