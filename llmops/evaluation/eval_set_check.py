"""What is wrong with an eval set: repeats, contradictions, answers that leak, rows that nothing can be judged by."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.near_duplicates import folded, near_duplicates
from llmops.evaluation.scorers.classification import answer_index, row_choices
from llmops.evaluation.scorers.normalisation import normalise
from llmops.evaluation.scorers.protocol import MissingExpectation, expected_answers
from llmops.hashing import content_hash
from llmops.prompt_file import PromptTemplate

Severity = Literal["error", "warning", "note"]

SMALLEST_SLICE = 5
_LABEL_ROWS = 5  # an answer that so many rows share is a label: prompts name labels on purpose
_FEWEST_WORDS = 3  # shorter questions stand in any text by chance
_PLACEHOLDER = re.compile(r"\{\{.*?\}\}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found. rows: ids of the rows concerned, in order. severity: `error` makes scores wrong, `warning`
    makes them say less than they seem to, `note` is worth knowing."""

    kind: str
    rows: tuple[str, ...]
    detail: str
    severity: Severity

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "rows": list(self.rows)}


class _Check(Protocol):
    def see(self, row: EvalRow) -> None:
        """Takes in one row."""
        ...

    def findings(self) -> Iterator[Finding]:
        """What all rows together show."""
        ...


def check_rows(
    rows: Iterable[EvalRow], *, near: float = 0.9, prompts: Mapping[str, PromptTemplate] | None = None
) -> list[Finding]:
    """Goes through the rows once; errors first, then warnings, then notes.

    near: similarity from which two questions are nearly the same, 0 to 1. prompts: templates by ref, whose examples
    may hold what the rows ask.
    """
    checks: list[_Check] = [_Repeats(), _NearRepeats(near), _Expectations(), _LeaksInInputs(), _Slices()]
    checks += [_LeaksInPrompt(ref, template) for ref, template in (prompts or {}).items()]
    for row in rows:
        for check in checks:
            check.see(row)
    order = ("error", "warning", "note")
    found = [finding for check in checks for finding in check.findings()]
    return sorted(found, key=lambda finding: order.index(finding.severity))


class _Repeats:
    """Rows that ask the same: the same inputs and contexts but for case and white space."""

    def __init__(self) -> None:
        self._rows: dict[str, list[tuple[str, str]]] = defaultdict(list)

    def see(self, row: EvalRow) -> None:
        self._rows[_question_hash(row)].append((row.id, content_hash(_judged_by(row))))

    def findings(self) -> Iterator[Finding]:
        for rows in self._rows.values():
            if len(rows) > 1:
                ids = tuple(row_id for row_id, _ in rows)
                if len({expected for _, expected in rows}) > 1:
                    yield Finding("conflicting_duplicate", ids, "same inputs, different expectations", "error")
                else:
                    yield Finding("duplicate", ids, "same inputs and expectations: counted more than once", "warning")


class _NearRepeats:
    """Rows that ask nearly the same about the same contexts."""

    def __init__(self, near: float) -> None:
        self._near = near
        self._seen: set[str] = set()
        self._rows: list[tuple[str, str, str, str]] = []

    def see(self, row: EvalRow) -> None:
        question = _question_hash(row)
        if question not in self._seen:
            self._seen.add(question)
            contexts, text = content_hash(_contexts(row)), "\n".join(_questions(row).values())
            self._rows.append((row.id, text or "\n".join(_contexts(row)), contexts, content_hash(_judged_by(row))))

    def findings(self) -> Iterator[Finding]:
        pairs = near_duplicates([text for _, text, _, _ in self._rows], self._near)
        same_contexts = (pair for pair in pairs if self._rows[pair[0]][2] == self._rows[pair[1]][2])
        for group, least in _groups(same_contexts):
            ids = tuple(self._rows[position][0] for position in group)
            pattern = len({self._rows[position][3] for position in group}) > 1
            shared = "one pattern with different expectations" if pattern else "nearly the same, same expectations"
            detail = f"{shared}; similarity {least:.2f} or more"
            yield Finding("near_duplicate", ids, detail, "note" if pattern else "warning")


class _Expectations:
    """Rows that a scorer cannot judge, or judges wrongly."""

    def __init__(self) -> None:
        self._none: list[str] = []
        self._nothing: list[str] = []
        self._no_choice: list[str] = []

    def see(self, row: EvalRow) -> None:
        if not any(value not in (None, "", [], {}) for value in row.expectations.values()):
            self._none.append(row.id)
            return
        answers = [normalise(answer) for answer in _answers(row)]
        if "" in answers:
            self._nothing.append(row.id)
        choices = {normalise(choice) for choice in _choices(row)}
        if choices and not choices & set(answers):
            self._no_choice.append(row.id)

    def findings(self) -> Iterator[Finding]:
        if self._nothing:
            detail = "an expected answer is empty once punctuation is taken off: every output holds it"
            yield Finding("empty_answer", tuple(self._nothing), detail, "error")
        if self._no_choice:
            yield Finding("answer_not_a_choice", tuple(self._no_choice), "no expected answer is a choice", "error")
        if self._none:
            yield Finding("no_expectations", tuple(self._none), "nothing to judge an output by", "warning")


class _LeaksInInputs:
    """Rows whose inputs hold the expected answer. In a context that is what a context is for, and only noted; so is a
    label, which a text may well name."""

    def __init__(self) -> None:
        self._in_inputs: dict[str, list[tuple[str, str]]] = defaultdict(list)
        self._in_contexts: list[str] = []
        self._shared: Counter[str] = Counter()

    def see(self, row: EvalRow) -> None:
        answers = _answers(row)
        if not answers:
            return
        self._shared[answers[0]] += 1
        for name, text in _questions(row).items():
            choices = _choices(row)
            offers_every_choice = bool(choices) and all(_holds_any(text, [choice]) for choice in choices)
            if _holds_any(text, answers) and not offers_every_choice:
                self._in_inputs[name].append((row.id, answers[0]))
        if _holds_any("\n".join(_contexts(row)), answers):
            self._in_contexts.append(row.id)

    def findings(self) -> Iterator[Finding]:
        for name, rows in self._in_inputs.items():
            labels = tuple(row for row, answer in rows if self._shared[answer] >= _LABEL_ROWS)
            others = tuple(row for row, answer in rows if self._shared[answer] < _LABEL_ROWS)
            if others:
                yield Finding("answer_in_inputs", others, f"inputs.{name} holds the expected answer", "warning")
            if labels:
                yield Finding("label_in_inputs", labels, f"inputs.{name} names the expected label", "note")
        if self._in_contexts:
            detail = "the contexts hold the expected answer"
            yield Finding("answer_in_context", tuple(self._in_contexts), detail, "note")


class _LeaksInPrompt:
    """Rows that the prompt's own turns ask or answer."""

    def __init__(self, ref: str, template: PromptTemplate) -> None:
        self._ref = ref
        turns = [_PLACEHOLDER.sub(" ", turn["content"]) for turn in template.turns]
        self._turns = [f" {normalise(turn)} " for turn in turns]
        self._asked: list[str] = []
        self._answered: dict[str, list[str]] = defaultdict(list)

    def see(self, row: EvalRow) -> None:
        if any(self._holds(text, _FEWEST_WORDS) for text in _questions(row).values()):
            self._asked.append(row.id)
        for answer in dict.fromkeys(map(normalise, _answers(row))):
            if self._holds(answer, 1):
                self._answered[answer].append(row.id)

    def findings(self) -> Iterator[Finding]:
        if self._asked:
            detail = f"the question stands in {self._ref}, which was written knowing it"
            yield Finding("question_in_prompt", tuple(self._asked), detail, "error")
        for answer, rows in self._answered.items():
            detail = f"the expected answer {answer!r} stands in {self._ref}"
            yield Finding("answer_in_prompt", tuple(rows), detail, "note" if len(rows) >= _LABEL_ROWS else "warning")

    def _holds(self, text: str, fewest_words: int) -> bool:
        words = normalise(text)
        enough = len(words.split()) >= fewest_words
        return bool(words) and any(f" {words} " in turn if enough else f" {words} " == turn for turn in self._turns)


class _Slices:
    """Tags whose rows are too few to say anything of."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._rows: dict[tuple[str, str], list[str]] = defaultdict(list)

    def see(self, row: EvalRow) -> None:
        for tag in row.tags.items():
            self._counts[tag] += 1
            if self._counts[tag] < SMALLEST_SLICE:
                self._rows[tag].append(row.id)
            else:
                self._rows.pop(tag, None)

    def findings(self) -> Iterator[Finding]:
        by_name: dict[str, list[tuple[str, list[str]]]] = defaultdict(list)
        for (name, value), rows in self._rows.items():
            by_name[name].append((value, rows))
        for name, slices in by_name.items():
            shown = ", ".join(f"{value} ({len(rows)})" for value, rows in slices[:5])
            more = f" and {len(slices) - 5} more" if len(slices) > 5 else ""
            detail = f"slices of tags.{name} with fewer than {SMALLEST_SLICE} rows: {shown}{more}"
            yield Finding("small_slice", tuple(row for _, rows in slices for row in rows), detail, "note")


def _contexts(row: EvalRow) -> list[str]:
    """The row's contexts, and inputs that are contexts: by their name, or by standing among the contexts too."""
    return list(dict.fromkeys([*row.contexts, *(row.inputs[name] for name in row.inputs if _is_context(row, name))]))


def _questions(row: EvalRow) -> dict[str, str]:
    """Every other input by name; a conversation as one text."""
    texts = {name: value for name, value in row.variables.items() if not _is_context(row, name)}
    if row.messages:
        texts["messages"] = "\n".join(message["content"] for message in row.messages)
    return texts


def _is_context(row: EvalRow, name: str) -> bool:
    return name in ("context", "contexts") or (name != "messages" and row.inputs[name] in row.contexts)


def _question_hash(row: EvalRow) -> str:
    questions = {name: folded(text) for name, text in _questions(row).items()}
    return content_hash([questions, sorted(map(folded, _contexts(row)))])


def _answers(row: EvalRow) -> list[str]:
    """Every acceptable answer; of a multiple-choice row that only counts its choices, the right one."""
    try:
        return expected_answers(row)
    except MissingExpectation:
        pass
    try:
        return [row_choices(row)[answer_index(row)]]
    except MissingExpectation:
        return []


def _choices(row: EvalRow) -> list[str]:
    choices = row.expectations.get("choices")
    return [str(choice) for choice in choices] if isinstance(choices, list) else []


def _judged_by(row: EvalRow) -> Any:
    """What rows with the same expectations share: the set of answers, or else the expectations as they are."""
    return sorted({normalise(answer) for answer in _answers(row)}) or dict(row.expectations)


def _holds_any(text: str, answers: Sequence[str]) -> bool:
    held = f" {normalise(text)} "
    return any(f" {words} " in held for answer in answers if (words := normalise(answer)))


def _groups(pairs: Iterable[tuple[int, int, float]]) -> Iterator[tuple[list[int], float]]:
    """Positions that hang together through pairs, with the least similarity of these pairs; in order."""
    group_of: dict[int, list[int]] = {}
    least_of: dict[int, float] = {}
    for left, right, similarity in pairs:
        one, other = group_of.setdefault(left, [left]), group_of.setdefault(right, [right])
        if one is not other:
            larger, smaller = sorted((one, other), key=len, reverse=True)
            larger += smaller
            group_of.update(dict.fromkeys(smaller, larger))
        least_of[left] = min(similarity, least_of.get(left, 1.0))
    groups = {id(group): sorted(group) for group in group_of.values()}
    for positions in sorted(groups.values()):
        yield positions, min(least_of.get(position, 1.0) for position in positions)
