"""Contamination: rows that are nearly the same, which must not be parted, and texts that hold pieces of rows which they
are to be judged by.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from llmops.evaluation.eval_set import EvalRow, cluster_of
from llmops.evaluation.eval_set_check import (
    LABEL_ROWS,
    PLACEHOLDER,
    groups_of_pairs,
    near_duplicates,
    question_hash,
)
from llmops.evaluation.scorers.normalisation import normalise
from llmops.generation import Message

NEAR = 0.9
"""Similarity from which two rows are nearly the same, as `near_duplicates` has it."""

_LONGEST_PIECE = 8  # words; a longer text is known again by every run of so many
_SHORTEST_QUESTION = 3  # words


def row_groups(rows: Sequence[EvalRow], cluster_by: str | None = None, near: float = NEAR) -> list[list[int]]:
    """Positions of rows that belong together, each row in one group: those of one cluster, those with the same
    contexts, those that ask the same, and near-duplicates, all of them through each other too.

    cluster_by: as `cluster_of` reads it. near: similarity from which two rows are nearly the same, 0 to 1.
    """
    first_of: dict[str, int] = {}
    pairs = [(left, right) for left, right, _ in near_duplicates([_text(row) for row in rows], near)]
    for position, row in enumerate(rows):
        shared = [f"question {question_hash(row)}"]
        if row.contexts:
            shared.append(f"contexts {cluster_of(row, 'contexts')}")
        if cluster_by is not None and (cluster := cluster_of(row, cluster_by)) is not None:
            shared.append(f"cluster {cluster}")
        pairs += [(first, position) for each in shared if (first := first_of.setdefault(each, position)) != position]
    together = [group for group, _ in groups_of_pairs((left, right, 1.0) for left, right in pairs)]
    alone = set(range(len(rows))).difference(*together)
    return sorted([*together, *([position] for position in alone)])


def rows_left(rows: Iterable[EvalRow], but: Collection[str]) -> int:
    """How many rows there are without those whose `question_hash` is one of these."""
    return sum(question_hash(row) not in but for row in rows)


class Pieces:
    """What of some rows a prompt must not hold: runs of eight words of their texts (all of a shorter one, from three
    words on), and their expected answers. What many rows share says nothing of any: labels, and phrases of a pattern.
    """

    def __init__(self, rows: Iterable[EvalRow]) -> None:
        self._anywhere: dict[str, list[str]] = defaultdict(list)  # a piece, and the ids of its rows
        self._words: dict[str, list[str]] = defaultdict(list)  # answers of one word
        for row in rows:
            answers = {normalise(answer) for answer in _leaves(row.expectations)} - {""}
            for piece in {*_runs(_text(row), _SHORTEST_QUESTION), *chain(*(_runs(each, 2) for each in answers))}:
                self._anywhere[piece].append(row.id)
            for answer in answers:
                if len(answer.split()) == 1:
                    self._words[answer].append(row.id)
        for pieces in (self._anywhere, self._words):
            for shared in [piece for piece, ids in pieces.items() if len(ids) >= LABEL_ROWS]:
                del pieces[shared]

    def held_by(self, turns: Iterable[Message]) -> dict[str, list[str]]:
        """The pieces that a prompt's turns hold, each with the ids of its rows. An answer of one word counts where the
        prompt speaks or answers itself, not within a question."""
        held: dict[str, list[str]] = {}
        for turn in turns:
            words = normalise(PLACEHOLDER.sub(" ", turn["content"])).split()
            for length in range(2, _LONGEST_PIECE + 1):
                runs = (" ".join(words[at : at + length]) for at in range(len(words) - length + 1))
                held |= {run: self._anywhere[run] for run in runs if run in self._anywhere}
            if turn["role"] != "user":
                held |= {word: self._words[word] for word in words if word in self._words}
        return held


def _text(row: EvalRow) -> str:
    messages = (message["content"] for message in row.messages)
    return "\n".join(dict.fromkeys([*row.variables.values(), *messages, *row.contexts]))


def _runs(text: str, fewest_words: int) -> Iterator[str]:
    words = normalise(text).split()
    if fewest_words <= len(words) <= _LONGEST_PIECE:
        yield " ".join(words)
    for at in range(len(words) - _LONGEST_PIECE + 1):
        yield " ".join(words[at : at + _LONGEST_PIECE])


def _leaves(value: Any) -> Iterator[str]:
    """Every text in expectations, but for the choices that a row offers."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from chain.from_iterable(_leaves(item) for name, item in value.items() if name != "choices")
    elif isinstance(value, list):
        yield from chain.from_iterable(map(_leaves, value))
