"""What is wrong with an eval set: repeats, contradictions, answers that leak, rows that nothing can be judged by."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from llmops.evaluation.eval_set import EvalRow, Rows
from llmops.evaluation.scorers.classification import answer_index, row_choices
from llmops.evaluation.scorers.normalisation import normalise
from llmops.evaluation.scorers.protocol import MissingExpectation, expected_answers
from llmops.hashing import JsonData, content_hash
from llmops.prompt_file import PromptTemplate
from llmops.text_io import listed

Severity = Literal["error", "warning", "note"]
AskedAgain = Literal["same", "near", "repeated"]

SMALLEST_SLICE = 5
LABEL_ROWS = 5  # an answer that so many rows share is a label: prompts name labels on purpose
_FEWEST_WORDS = 3  # shorter questions stand in any text by chance
PLACEHOLDER = re.compile(r"\{\{.*?\}\}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class EvalSetFinding(JsonData):
    """One thing found. rows: ids of the rows concerned, in order. severity: `error` makes scores wrong, `warning`
    makes them say less than they seem to, `note` is worth knowing."""

    kind: str
    rows: tuple[str, ...]
    detail: str
    severity: Severity


def check_rows(
    rows: Sequence[EvalRow] | Rows, *, near: float = 0.9, prompts: Mapping[str, PromptTemplate] | None = None
) -> list[EvalSetFinding]:
    """What is found; errors first, then warnings, then notes.

    rows: each check goes through them by itself, and keeps ids and hashes alone.
    near: similarity from which two questions are nearly the same, 0 to 1.
    prompts: templates by ref, whose examples may hold what the rows ask.
    """
    findings = [*_repeats(rows), *_near_repeats(rows, near), *_expectations(rows), *_leaks_in_inputs(rows)]
    findings += _small_slices(rows)
    for ref, template in (prompts or {}).items():
        findings += _leaks_in_prompt(rows, ref, template)
    order = ("error", "warning", "note")
    return sorted(findings, key=lambda finding: order.index(finding.severity))


def _repeats(rows: Iterable[EvalRow]) -> Iterator[EvalSetFinding]:
    """Rows that ask the same: the same inputs and contexts but for case and white space."""
    by_question: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in rows:
        by_question[question_hash(row)].append((row.id, content_hash(_judged_by(row))))
    for same in by_question.values():
        if len(same) > 1:
            ids = tuple(row_id for row_id, _ in same)
            if len({expected for _, expected in same}) > 1:
                yield EvalSetFinding("conflicting_duplicate", ids, "same inputs, different expectations", "error")
            else:
                yield EvalSetFinding(
                    "duplicate", ids, "same inputs and expectations: counted more than once", "warning"
                )


def _near_repeats(rows: Iterable[EvalRow], near: float) -> Iterator[EvalSetFinding]:
    """Rows that ask nearly the same about the same contexts."""
    seen: set[str] = set()
    kept: list[tuple[str, str, str, str]] = []
    for row in rows:
        if (question := question_hash(row)) not in seen:
            seen.add(question)
            kept.append((row.id, _asked(row), content_hash(_contexts(row)), content_hash(_judged_by(row))))
    pairs = near_duplicates([text for _, text, _, _ in kept], near)
    for group, least in groups_of_pairs(pair for pair in pairs if kept[pair[0]][2] == kept[pair[1]][2]):
        pattern = len({kept[position][3] for position in group}) > 1
        shared = "one pattern with different expectations" if pattern else "nearly the same, same expectations"
        detail = f"{shared}; similarity {least:.2f} or more"
        ids = tuple(kept[position][0] for position in group)
        yield EvalSetFinding("near_duplicate", ids, detail, "note" if pattern else "warning")


def asked_again(rows: Sequence[EvalRow], others: Sequence[EvalRow], near: float) -> dict[int, AskedAgain]:
    """Positions of the rows that ask what one of `others` asks (`same`), or what an earlier row asks (`repeated`), or
    that ask nearly what one of `others` asks, about whatever contexts (`near`)."""
    theirs, seen = {question_hash(row) for row in others}, set[str]()
    again: dict[int, AskedAgain] = {}
    for position, question in enumerate(map(question_hash, rows)):
        if question in theirs or question in seen:
            again[position] = "same" if question in theirs else "repeated"
        seen.add(question)
    for left, right, _ in near_duplicates([_asked(row) for row in (*rows, *others)], near):
        if left < len(rows) <= right and again.get(left) != "same":
            again[left] = "near"
    return again


def _expectations(rows: Iterable[EvalRow]) -> Iterator[EvalSetFinding]:
    """Rows that a scorer cannot judge, or judges wrongly."""
    none, nothing, no_choice = list[str](), list[str](), list[str]()
    for row in rows:
        if not any(value not in (None, "", [], {}) for value in row.expectations.values()):
            none.append(row.id)
            continue
        answers = [normalise(answer) for answer in _answers(row)]
        if "" in answers:
            nothing.append(row.id)
        choices = {normalise(choice) for choice in _choices(row)}
        if choices and not choices & set(answers):
            no_choice.append(row.id)
    if nothing:
        detail = "an expected answer is empty once punctuation is taken off: every output holds it"
        yield EvalSetFinding("empty_answer", tuple(nothing), detail, "error")
    if no_choice:
        yield EvalSetFinding("answer_not_a_choice", tuple(no_choice), "no expected answer is a choice", "error")
    if none:
        yield EvalSetFinding("no_expectations", tuple(none), "nothing to judge an output by", "warning")


def _leaks_in_inputs(rows: Iterable[EvalRow]) -> Iterator[EvalSetFinding]:
    """Rows whose inputs hold the expected answer. In a context that is what a context is for, and only noted; so is a
    label, which a text may well name."""
    in_inputs: dict[str, list[tuple[str, str]]] = defaultdict(list)
    in_contexts: list[str] = []
    shared: Counter[str] = Counter()
    for row in rows:
        if not (answers := _answers(row)):
            continue
        shared[answers[0]] += 1
        choices = _choices(row)
        for name, text in _questions(row).items():
            offers_every_choice = bool(choices) and all(_holds_any(text, [choice]) for choice in choices)
            if _holds_any(text, answers) and not offers_every_choice:
                in_inputs[name].append((row.id, answers[0]))
        if _holds_any("\n".join(_contexts(row)), answers):
            in_contexts.append(row.id)
    for name, leaks in in_inputs.items():
        labels = tuple(row_id for row_id, answer in leaks if shared[answer] >= LABEL_ROWS)
        others = tuple(row_id for row_id, answer in leaks if shared[answer] < LABEL_ROWS)
        if others:
            yield EvalSetFinding("answer_in_inputs", others, f"inputs.{name} holds the expected answer", "warning")
        if labels:
            yield EvalSetFinding("label_in_inputs", labels, f"inputs.{name} names the expected label", "note")
    if in_contexts:
        yield EvalSetFinding("answer_in_context", tuple(in_contexts), "the contexts hold the expected answer", "note")


def _leaks_in_prompt(rows: Iterable[EvalRow], ref: str, template: PromptTemplate) -> Iterator[EvalSetFinding]:
    """Rows that the prompt's own turns ask or answer."""
    turns = [f" {normalise(PLACEHOLDER.sub(' ', turn['content']))} " for turn in template.turns]

    def holds(words: str, fewest_words: int) -> bool:
        enough = len(words.split()) >= fewest_words
        return bool(words) and any(f" {words} " in turn if enough else f" {words} " == turn for turn in turns)

    asked: list[str] = []
    answered: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if any(holds(normalise(text), _FEWEST_WORDS) for text in _questions(row).values()):
            asked.append(row.id)
        for answer in dict.fromkeys(map(normalise, _answers(row))):
            if holds(answer, 1):
                answered[answer].append(row.id)
    if asked:
        detail = f"the question stands in {ref}, which was written knowing it"
        yield EvalSetFinding("question_in_prompt", tuple(asked), detail, "error")
    for answer, ids in answered.items():
        detail = f"the expected answer {answer!r} stands in {ref}"
        yield EvalSetFinding("answer_in_prompt", tuple(ids), detail, "note" if len(ids) >= LABEL_ROWS else "warning")


def _small_slices(rows: Iterable[EvalRow]) -> Iterator[EvalSetFinding]:
    """Tags whose rows are too few to say anything of."""
    few: dict[tuple[str, str], list[str] | None] = {}  # ids; None for a slice that is large enough
    for row in rows:
        for tag in row.tags.items():
            if (ids := few.setdefault(tag, [])) is not None:
                ids.append(row.id)
                if len(ids) == SMALLEST_SLICE:
                    few[tag] = None
    by_name: dict[str, list[tuple[str, list[str]]]] = defaultdict(list)
    for (name, value), ids in few.items():
        if ids is not None:
            by_name[name].append((value, ids))
    for name, slices in by_name.items():
        shown = listed([f"{value} ({len(ids)})" for value, ids in slices], 5)
        detail = f"slices of tags.{name} with fewer than {SMALLEST_SLICE} rows: {shown}"
        yield EvalSetFinding("small_slice", tuple(row_id for _, ids in slices for row_id in ids), detail, "note")


def _contexts(row: EvalRow) -> list[str]:
    """The row's contexts, and inputs that are contexts: by their name, or by standing among the contexts too."""
    return list(dict.fromkeys([*row.contexts, *(row.inputs[name] for name in row.inputs if _is_context(row, name))]))


def _questions(row: EvalRow) -> dict[str, str]:
    """Every other input by name; a conversation as one text."""
    texts = {name: value for name, value in row.variables.items() if not _is_context(row, name)}
    if row.messages:
        texts["messages"] = "\n".join(message["content"] for message in row.messages)
    return texts


def _asked(row: EvalRow) -> str:
    return "\n".join(_questions(row).values()) or "\n".join(_contexts(row))


def _is_context(row: EvalRow, name: str) -> bool:
    return name in ("context", "contexts") or (name != "messages" and row.inputs[name] in row.contexts)


def question_hash(row: EvalRow) -> str:
    """What two rows that ask the same share, whatever their case, white space, ids and expectations."""
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


def groups_of_pairs(pairs: Iterable[tuple[int, int, float]]) -> Iterator[tuple[list[int], float]]:
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


# Texts that are nearly the same: candidates by MinHash, each verified by its real similarity.
#
# Every text becomes the set of its four-character shingles; of each set, 160 hash functions keep the least value
# (Broder, 1997). Texts that agree in all four values of one of 40 bands are candidates (locality-sensitive hashing),
# and count when their similarity reaches the limit. Time and memory grow with the number of texts, not with its square.

_SHINGLE = 4
_BANDS, _BAND_WIDTH = 40, 4
# In a bucket of a band, each text is compared with its neighbours in alphabetical order: all others of a small bucket,
# a few in a large one. A hundred thousand texts of one pattern are then still found to be alike, through each other.
_SMALL_BUCKET, _NEIGHBOURS = 20, 4
_BANDS_TOGETHER = 8  # candidates are freed of repeats after so many bands
_CHUNK_CHARACTERS, _CHUNK_PAIRS = 200_000, 100_000
_SPACE = re.compile(r"\s+")


def folded(text: str) -> str:
    """Text as it is compared: without case and spare white space."""
    return _SPACE.sub(" ", text.replace("\0", " ")).strip().casefold()


def near_duplicates(texts: Sequence[str], least: float) -> Iterator[tuple[int, int, float]]:
    """Pairs of positions, the smaller first, whose similarity is `least` or more, in order.

    Similarity is the Indel ratio of the folded texts: 1 − insertions and deletions / both lengths, from 0 to 1. The
    search may miss a pair: of 45,751 questions that were edited to a similarity of 0.9 or more, among 100,000, it
    missed 62.
    """
    from rapidfuzz import fuzz, process

    compared = [folded(text) or " " for text in texts]
    # Two alphabetical orders, read forwards and read backwards: one of them brings texts that differ in one place side
    # by side.
    ranks = []
    for read in (compared, [text[::-1] for text in compared]):
        rank = np.empty(len(compared), dtype=np.int64)
        rank[sorted(range(len(compared)), key=read.__getitem__)] = np.arange(len(compared))
        ranks.append(rank)
    pairs = _candidates(_signatures(compared), ranks)
    for start in range(0, len(pairs), _CHUNK_PAIRS):
        left, right = pairs[start : start + _CHUNK_PAIRS].T
        scores = process.cpdist(
            [compared[i] for i in left],
            [compared[i] for i in right],
            scorer=fuzz.ratio,
            score_cutoff=100 * least,
            dtype=np.float64,
        )
        for i in np.flatnonzero(scores):
            yield int(left[i]), int(right[i]), float(scores[i]) / 100


def _signatures(texts: Sequence[str]) -> np.ndarray[Any, Any]:
    """The least value of each hash function over a text's shingles; one row a text."""
    chance = np.random.default_rng(0)
    factors = chance.integers(1, 2**63, _BANDS * _BAND_WIDTH, dtype=np.uint64) | np.uint64(1)
    signatures = np.empty((len(texts), len(factors)), dtype=np.uint32)
    start = 0
    while start < len(texts):  # in parts of bounded length
        end, size = start + 1, len(texts[start])
        while end < len(texts) and size + len(texts[end]) <= _CHUNK_CHARACTERS:
            size += len(texts[end])
            end += 1
        chunk = texts[start:end]
        lengths = np.fromiter(map(len, chunk), dtype=np.int64, count=len(chunk))
        begins = np.cumsum(lengths) - lengths
        shingles = _shingle_hashes(chunk)
        for column, factor in enumerate(factors):
            values = ((shingles * factor) >> np.uint64(32)).astype(np.uint32)
            signatures[start:end, column] = np.minimum.reduceat(values, begins)
        start = end
    return signatures


def _shingle_hashes(texts: Sequence[str]) -> np.ndarray[Any, Any]:
    """A hash of the four characters from each character on; a text's last ones are filled up with NUL."""
    filled = "".join(text + "\0" * (_SHINGLE - 1) for text in texts)
    # surrogatepass: JSON may hold half a surrogate pair.
    codes = np.frombuffer(filled.encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32).astype(np.uint64)
    count = len(codes) - _SHINGLE + 1
    hashes = np.zeros(count, dtype=np.uint64)
    for offset in range(_SHINGLE):
        hashes = (hashes ^ codes[offset : offset + count]) * np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(29)
    starts: np.ndarray[Any, Any] = hashes[codes[:count] != 0]
    return starts


def _candidates(signatures: np.ndarray[Any, Any], ranks: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """Distinct pairs of texts that share a band, as two columns of positions."""
    total = np.int64(len(signatures))
    pairs = np.empty(0, dtype=np.int64)
    of_bands: list[np.ndarray[Any, Any]] = []
    for band in range(_BANDS):
        keys = np.zeros(len(signatures), dtype=np.uint64)
        for column in range(band * _BAND_WIDTH, (band + 1) * _BAND_WIDTH):
            keys = (keys ^ signatures[:, column].astype(np.uint64)) * np.uint64(0xFF51AFD7ED558CCD)
            keys ^= keys >> np.uint64(33)
        order = np.lexsort((ranks[band % len(ranks)], keys))
        for left, right in _neighbours(keys[order]):
            first, second = order[left], order[right]
            of_bands.append(np.minimum(first, second) * total + np.maximum(first, second))
        if band % _BANDS_TOGETHER == _BANDS_TOGETHER - 1:
            pairs = np.unique(np.concatenate([pairs, *of_bands]))
            of_bands.clear()
    return np.column_stack((pairs // total, pairs % total)) if len(pairs) else pairs.reshape(0, 2)


def _neighbours(sorted_keys: np.ndarray[Any, Any]) -> Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Places of equal keys, near each other."""
    _, bucket, sizes = np.unique(sorted_keys, return_inverse=True, return_counts=True)
    in_small = sizes[bucket] <= _SMALL_BUCKET
    for apart in range(1, _SMALL_BUCKET):
        alike = sorted_keys[:-apart] == sorted_keys[apart:]
        if apart > _NEIGHBOURS:
            alike &= in_small[:-apart]
        left = np.flatnonzero(alike)
        if not len(left):
            return
        yield left, left + apart
