"""Production requests as rows of an eval set, in two steps with a person in between.

1. `write_review` puts requests into a review file: JSON Lines in the shape of eval rows, each with a `review` object
   that holds what production answered. 2. The person fills in `expectations` and sets `review.accept` to true or false.
3. `add_reviewed` appends what was accepted to the eval set: all of it or nothing.
"""

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops.errors import BadFile, CannotRun, UsageError
from llmops.evaluation.eval_set import ROWS_FILE, EvalRow, load_eval_set, row_from_values
from llmops.evaluation.eval_set_check import folded
from llmops.evaluation.eval_set_source import SOURCE_FILE
from llmops.hashing import JsonData, content_hash
from llmops.production_log import LogRecord
from llmops.text_io import json_object, numbered_lines

NEGATIVE, POSITIVE = "negative", "positive"
FEEDBACK = (NEGATIVE, POSITIVE, "any")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*\Z")
_NEGATIVE = {"negative", "bad", "down", "dislike", "thumbs_down", "wrong", "worse"}
_POSITIVE = {"positive", "good", "up", "like", "thumbs_up", "right", "correct", "better"}


@dataclass(frozen=True, slots=True)
class RecordChoice:
    """Which records become rows to review, and how.

    outcome: `ok`, `error` or `cancelled`; any when None. feedback: one of FEEDBACK; records without any feedback too
    when None. limit: most rows to review. input_variable: the prompt variable that a single user message fills; when
    None, the one input that the eval set's rows have, else `question`.
    """

    outcome: str | None = "ok"
    feedback: str | None = None
    limit: int | None = None
    input_variable: str | None = None


@dataclass(slots=True)
class ReviewCounts(JsonData):
    """What became of the records read. known: ask what the eval set, or an earlier record, asks. unusable: hold no
    text that a row could ask."""

    written: int = 0
    known: int = 0
    not_chosen: int = 0
    unusable: int = 0


def write_review(records: Iterable[LogRecord], eval_set: Path, out: Path, choice: RecordChoice) -> ReviewCounts:
    """Writes the review file, a line for each record chosen; stops reading at the limit.

    eval_set: the folder of the set that the rows are for; need not exist yet.

    Raises:
        UsageError: `out` exists: it may hold a person's work. BadFile: the eval set is wrong. CannotRun: not writable.
    """
    _check_target(eval_set)
    counts = ReviewCounts()
    # Whole before the file is made: it must not be half.
    lines = list(review_lines(records, present_rows(eval_set), choice, counts))
    try:
        with out.open("x", encoding="utf-8") as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    except FileExistsError as error:
        raise UsageError(f"{out} exists, and may hold a review; name another file") from error
    except OSError as error:
        raise CannotRun(f"{out} cannot be written: {error.strerror}") from error
    return counts


def add_reviewed(review: Path, eval_set: Path) -> tuple[int, int, int]:
    """Appends the accepted rows of a review file to `eval_set/rows.jsonl`, and makes the set when it is new.

    Returns:
        How many rows were accepted, refused, and left undecided (`accept` still null).

    Raises BadFile: naming line and field of the first wrong row of the file; nothing was added then. CannotRun: the set
    cannot be written, or changed in the meantime.
    """
    _check_target(eval_set)
    known = {row.id for row in present_rows(eval_set)}
    accepted: list[EvalRow] = []
    decisions = Counter[bool | None]()
    for number, row, accept in read_review(review):
        decisions[accept] += 1
        if not accept:
            continue
        if row.id in known:
            raise BadFile(review, f"{row.id!r} is in the eval set or on an earlier line", line=number, field="id")
        known.add(row.id)
        accepted.append(row)
    append_rows(eval_set, accepted)
    return decisions[True], decisions[False], decisions[None]


def read_review(path: Path) -> Iterator[tuple[int, EvalRow, bool | None]]:
    """Each row of a review file with the number of its line, and whether it was accepted: None while that is undecided.
    Raises BadFile: a line is no row or no decision, or an accepted row does not say what a good answer is."""
    for number, line in numbered_lines(path):
        values = json_object(line, path, number)
        decision = values.pop("review", None)
        accept = decision.get("accept") if isinstance(decision, dict) else None
        if not isinstance(decision, dict) or not (accept is None or isinstance(accept, bool)):
            raise BadFile(path, "must be true, false or null", line=number, field="review.accept")
        row = row_from_values(values, path, number)
        if accept and not any(value not in (None, "", [], {}) for value in row.expectations.values()):
            problem = "must say what a good answer is, in a row that was accepted"
            raise BadFile(path, problem, line=number, field="expectations")
        yield number, row, accept


def feedback_of(record: LogRecord) -> Mapping[str, Any] | None:
    """What users said of the answer, the last verdict when there are several; None when nothing.

    Feedback that the gateway took comes before what an imported record brought in `details.feedback`. Records must have
    been read with their feedback.
    """
    if record.feedback:
        # The last verdict, a score or a label or both, with the last comment: they may have come one after the other.
        said: dict[str, Any] = {}
        for each in record.feedback:
            if each.score is not None or each.label is not None:
                said = {name: value for name, value in said.items() if name not in ("score", "label")}
            new = {"score": each.score, "label": each.label, "comment": each.comment, "user": each.user}
            said.update({name: value for name, value in new.items() if value is not None})
        return said
    imported = record.details.get("feedback")
    if isinstance(imported, list):
        imported = imported[-1] if imported else None
    return imported if isinstance(imported, Mapping) else None


def review_lines(
    records: Iterable[LogRecord], known: Iterable[EvalRow], choice: RecordChoice, counts: ReviewCounts
) -> Iterator[dict[str, Any]]:
    """The lines of a review file. known: rows whose questions are not asked again. counts: is filled in."""
    rows = list(known)
    seen = {inputs_hash(row.inputs) for row in rows}
    names = {name for row in rows for name in row.inputs}
    input_variable = choice.input_variable or (names.pop() if len(names) == 1 else "question")
    for record in records:
        feedback = feedback_of(record)
        said = choice.feedback is None or (feedback is not None and choice.feedback in ("any", feedback_sign(feedback)))
        if not said or choice.outcome not in (None, record.outcome):
            counts.not_chosen += 1
        elif (inputs := inputs_of(record, input_variable)) is None:
            counts.unusable += 1
        elif (question := inputs_hash(inputs)) in seen:
            counts.known += 1
        else:
            seen.add(question)
            counts.written += 1
            release = {"release": record.release} if record.release else {}
            yield {
                "id": f"log-{record.key}",
                "inputs": dict(inputs),
                "expectations": {},
                "tags": {"source": "log", **release},
                "review": {
                    "accept": None,
                    "output": record.output,
                    "feedback": None if feedback is None else dict(feedback),
                    "request_id": record.request_id,
                },
            }
            if counts.written == choice.limit:
                return


def inputs_of(record: LogRecord, input_variable: str) -> dict[str, Any] | None:
    """What a row would ask: the prompt variables sent along, and the conversation or the one user message; None when
    these are no inputs."""
    given = record.details.get("prompt_variables")
    inputs: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {}
    messages = record.details.get("messages")
    if isinstance(messages, list) and len(messages) > 1:
        inputs["messages"] = messages
    else:
        inputs[input_variable] = record.input
    try:
        return dict(row_from_values({"id": record.key, "inputs": inputs}, "log", 1).inputs)
    except BadFile:
        return None


def feedback_sign(feedback: Mapping[str, Any]) -> str | None:
    """`negative` or `positive`, by the label when it is a known word, else by the score: more than 0 is positive."""
    label = str(feedback.get("label") or "").strip().casefold().replace(" ", "_").replace("-", "_")
    if label in _NEGATIVE | _POSITIVE:
        return NEGATIVE if label in _NEGATIVE else POSITIVE
    score = feedback.get("score")
    if not isinstance(score, (int, float)):
        return None
    return POSITIVE if score > 0 else NEGATIVE


def _check_target(eval_set: Path) -> None:
    if not _NAME.match(eval_set.name):
        raise UsageError(f"{eval_set.name!r}: an eval set's name is letters, digits, dots, dashes and underscores")
    if (eval_set / SOURCE_FILE).exists():
        raise UsageError(f"{eval_set.name}: its rows come from {SOURCE_FILE}; add to an eval set of its own")


def present_rows(eval_set: Path) -> Iterable[EvalRow]:
    """The rows of an eval set's own file; none where it is not there yet. Raises BadFile."""
    return load_eval_set(eval_set).rows if (eval_set / ROWS_FILE).exists() else ()


def append_rows(eval_set: Path, rows: Sequence[EvalRow]) -> None:
    """Adds rows to an eval set: all or none, since a copy gets the new lines, and then takes the old file's place.
    Raises CannotRun: the set cannot be written, or changed in the meantime."""
    if not rows:
        return
    path = eval_set / ROWS_FILE
    lines = [json.dumps({name: v for name, v in row.to_json().items() if v}, ensure_ascii=False) for row in rows]
    incoming = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.stat() if path.exists() else None
        if before is not None:
            shutil.copy(path, incoming)
        with incoming.open("ab+") as file:
            if before is not None and before.st_size > 0:
                file.seek(-1, os.SEEK_END)
                file.write(b"" if file.read(1) == b"\n" else b"\n")
            file.write("".join(f"{line}\n" for line in lines).encode())
            file.flush()
            os.fsync(file.fileno())
        if before is not None and path.stat().st_mtime_ns != before.st_mtime_ns:
            raise CannotRun(f"{path} was changed in the meantime; nothing was added, start again")
        incoming.replace(path)
    except (OSError, UnicodeEncodeError) as error:
        raise CannotRun(f"{path} cannot be written: {error}") from error
    finally:
        incoming.unlink(missing_ok=True)


def inputs_hash(inputs: Mapping[str, Any]) -> str:
    """Equal for inputs that differ in case and white space alone."""
    return content_hash({name: value if name == "messages" else folded(str(value)) for name, value in inputs.items()})
