"""What running a contender once yields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

AnswerKey = tuple[str, str]
"""Name of the prompt version, and id of the question."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A text, and the score that the contender itself gave it: 1 for right, 0 for wrong."""

    text: str
    score: float


Answers = Mapping[AnswerKey, Answer]


class ContenderFailed(Exception):
    """A contender did not finish, or did not answer every question: nothing can be said of its speed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """seconds: generating and scoring, as the contender reports it. wall: of its whole command, start-up and all."""

    seconds: float
    wall: float
    answers: Answers

    @property
    def mean_score(self) -> float:
        return sum(answer.score for answer in self.answers.values()) / len(self.answers)
