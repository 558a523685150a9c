"""Eval sets: rows of inputs and expectations, read from their file on every pass and identified by their content."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, time, timedelta
from decimal import Decimal
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

from llmops.errors import BadFile, UsageError
from llmops.evaluation.record_files import RecordLocation, read_records
from llmops.generation import Message
from llmops.hashing import canonical_json
from llmops.text_io import json_object

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_NAMES = ((bytes, "bytes"), (timedelta, "a duration"))


def plain(value: Any, field: str) -> Any:
    """The value as JSON has it. Dates, times and UUIDs become text; a decimal becomes the number that the same digits
    are in JSON.

    field: of the row, for errors.

    Raises:
        UsageError: JSON has no such value (bytes, a duration, NaN); starts with the field's name.
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise UsageError(f"{field}: has the name {name!r}, which is no text")
        return {name: plain(item, f"{field}.{name}") for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{field}[{position}]") for position, item in enumerate(value)]
    if isinstance(value, (float, Decimal)):
        if not math.isfinite(value):
            raise UsageError(f"{field}: is {value}, which JSON does not have")
        whole = isinstance(value, Decimal) and value.as_tuple().exponent == 0
        return int(value) if whole else float(value)
    if isinstance(value, (date, time, UUID)):
        return as_text(value)
    kind = next((name for type_, name in _NAMES if isinstance(value, type_)), f"a {type(value).__name__}")
    raise UsageError(f"{field}: is {kind}, which JSON cannot hold")


def as_text(value: Any) -> Any:
    """Numbers, truth values and dates as text; anything else as it is, for the row's own checks to judge."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, (int, float, Decimal)):
        return str(value) if math.isfinite(value) else value
    return str(value) if isinstance(value, UUID) else value


def as_messages(value: Any) -> Any:
    """Messages without the fields that chat data sets add (`name`, `tool_calls` …)."""
    if not isinstance(value, list):
        return value
    wanted = ("role", "content")
    return [{name: item[name] for name in wanted if name in item} if isinstance(item, dict) else item for item in value]


def without_nulls(values: Any, field: str) -> Any:
    """An object without its fields that are null: a typed table has every column in every row.

    Raises:
        UsageError: the name of a field holds what no store keeps; starts with `field`.
    """
    if not isinstance(values, Mapping):
        return values
    present = {name: value for name, value in values.items() if value is not None}
    for name in present:
        if _UNSTORABLE.search(str(name)):
            raise UsageError(f"{field}: the name {name!r} holds a character that no store keeps")
    return present


ROWS_FILE = "rows.jsonl"
FIELDS = {"id", "inputs", "expectations", "contexts", "tags"}
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class EvalRow:
    """One question to the system, and what a good answer is measured by.

    inputs: the prompt's variables, all text; or, for a conversation, `messages` (a list of `{"role", "content"}` that
    ends with the user's) in place of the input variable. expectations: what scorers compare with (`expected_response`,
    `answers`, `expected_json`, `choices` …). contexts: texts given or retrieved. tags: slices.
    """

    id: str
    inputs: Mapping[str, Any]
    expectations: Mapping[str, Any] = field(default_factory=dict)
    contexts: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation of a multi-turn row; empty for any other."""
        return tuple(
            Message(role=message["role"], content=message["content"]) for message in self.inputs.get("messages", ())
        )

    @property
    def variables(self) -> dict[str, str]:
        """The prompt's variables: the inputs but for `messages`."""
        return {name: value for name, value in self.inputs.items() if name != "messages"}

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "inputs": dict(self.inputs),
            "expectations": dict(self.expectations),
            "contexts": list(self.contexts),
            "tags": dict(self.tags),
        }


PlacedRows = Callable[[], Iterator[tuple[RecordLocation, EvalRow]]]


class Rows:
    """Rows that can be gone through any number of times and are not held: each pass reads them anew."""

    def __init__(self, read: Callable[[], Iterator[EvalRow]]) -> None:
        self._read = read

    def __iter__(self) -> Iterator[EvalRow]:
        return self._read()

    def first(self, limit: int | None) -> Rows:
        """The first `limit` of them; all when None."""
        return self if limit is None else Rows(lambda: islice(self._read(), limit))


@dataclass(frozen=True, slots=True)
class RowsContent:
    """What one pass tells of rows. content_hash: sha256 in hex over the canonical JSON of each row and a line feed."""

    n_rows: int
    content_hash: str


def measure(rows: Iterable[EvalRow]) -> RowsContent:
    """Number and content hash of rows, in one pass."""
    digest, n_rows = hashlib.sha256(), 0
    for n_rows, row in enumerate(rows, 1):  # noqa: B007 - the count outlives the loop
        # surrogatepass: JSON may hold half a surrogate pair, which plain UTF-8 refuses.
        digest.update(f"{canonical_json(row.to_json())}\n".encode(errors="surrogatepass"))
    return RowsContent(n_rows, digest.hexdigest())


@dataclass(frozen=True, eq=False)
class EvalSet:
    """Rows under a name. Two eval sets with the same content hash hold the same rows in the same order.

    rows: goes through the rows anew each time, so that any number of them can be evaluated. known: their number and
    hash, where a pass over them has told already.
    """

    name: str
    rows: Rows
    known: RowsContent | None = None

    @cached_property
    def content(self) -> RowsContent:
        """Number and content hash; one pass over the rows, when first asked for."""
        return self.known or measure(self.rows)

    @property
    def content_hash(self) -> str:
        return self.content.content_hash

    def __len__(self) -> int:
        return self.content.n_rows

    def first(self, limit: int | None) -> EvalSet:
        """The eval set of the first `limit` rows; itself when None. Reads nothing yet."""
        return self if limit is None else EvalSet(self.name, self.rows.first(limit))


def checked_eval_set(name: str, path: Path, read: PlacedRows) -> EvalSet:
    """An eval set after one pass over all its rows: every row is sound, ids are unique, number and hash are known.

    path: the file or folder whose later change is an error: a run must score the rows that were checked. read: begins a
    new pass; gives rows with their places.

    Raises:
        BadFile: naming file, line and field of the first wrong row.
    """
    stamp = _stamp(path)

    def read_again() -> Iterator[EvalRow]:
        if _stamp(path) != stamp:
            raise BadFile(path, "was changed since it was checked; start again")
        return (row for _, row in read())

    content = measure(without_repeats(read()))
    if not content.n_rows:
        raise BadFile(path, "holds no rows")
    return EvalSet(name, Rows(read_again), content)


def load_eval_set(folder: Path) -> EvalSet:
    """The eval set of `folder/rows.jsonl`; every row is checked before any is returned.

    Raises:
        BadFile: naming file, line and field of the first wrong row.
    """
    path = folder / ROWS_FILE
    return checked_eval_set(folder.name, path, lambda: read_rows(path))


def read_rows(path: Path) -> Iterator[tuple[RecordLocation, EvalRow]]:
    """The rows of a file in our own shape with their places, each checked as it is read. Raises BadFile."""
    for place, record in read_records(path):
        yield place, row_from_values(record, *place)


def without_repeats(placed: Iterable[tuple[RecordLocation, EvalRow]]) -> Iterator[EvalRow]:
    """The rows; raises BadFile at an id that was there before.

    Ids are remembered by 64-bit hashes: a million of them take less than 100 MB, and the chance that two different
    ones are taken for the same is 3 in 10⁸.
    """
    seen: set[int] = set()
    for place, row in placed:
        known = hash(row.id)
        if known in seen:
            raise BadFile(place.path, f"{row.id!r} stands on two rows", line=place.line, field="id")
        seen.add(known)
        yield row


def parse_row(line: str, path: Path | str, number: int) -> EvalRow:
    """One JSON line as a row. Raises BadFile."""
    return row_from_values(json_object(line, path, number), path, number)


def row_from_values(values: Mapping[str, Any], path: Path | str, number: int) -> EvalRow:
    """A row from an object of our shape.

    Inputs, tags and the id are texts: numbers, truth values and dates become text. A null directly under `inputs`,
    `expectations` or `tags` says that the row has no such field; deeper it is a value, as everything else in
    `expectations` is.

    number: the line or position that an error names.

    Raises:
        BadFile: naming file, number and field.
    """
    if unknown := sorted(values.keys() - FIELDS):
        raise BadFile(path, f"unknown field; known: {', '.join(sorted(FIELDS))}", line=number, field=unknown[0])
    try:
        given = _given(values)
    except UsageError as error:
        field, _, problem = str(error).partition(": ")
        raise BadFile(path, problem, line=number, field=field) from error
    for name, check, problem in _CHECKS:
        if not check(given[name]):
            raise BadFile(path, problem, line=number, field=name)
    for name, value in given["inputs"].items():
        if name == "messages":
            _check_messages(value, path, number)
        elif not _filled(value):
            raise BadFile(path, "must be text, and not empty", line=number, field=f"inputs.{name}")
    expectations = given["expectations"] or {}
    if not isinstance(expectations.get("answers", []), list):
        raise BadFile(path, "must be a list of every acceptable answer", line=number, field="expectations.answers")
    return EvalRow(given["id"], given["inputs"], expectations, tuple(given["contexts"] or ()), given["tags"] or {})


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Every field of a row as JSON has it, without nulls. Raises UsageError starting with the field's name."""
    present = {name: without_nulls(values.get(name), name) for name in FIELDS}
    for name in ("inputs", "tags"):
        if isinstance(present[name], dict):
            present[name] = {key: as_text(value) for key, value in present[name].items()}
    if isinstance(inputs := present["inputs"], dict) and "messages" in inputs:
        inputs["messages"] = as_messages(inputs["messages"])
    return {name: plain(as_text(value) if name == "id" else value, name) for name, value in present.items()}


def check_cluster_by(text: str) -> str:
    """`text` itself, when `cluster_of` can read it. Raises UsageError."""
    kind, _, name = text.partition(".")
    if text != "contexts" and not (kind in ("tags", "inputs") and name):
        raise UsageError(f"{text!r}: must be `contexts`, `tags.NAME` or `inputs.NAME`")
    return text


def cluster_of(row: EvalRow, cluster_by: str) -> str | None:
    """What rows of one source have in common, for statistics of rows that are not independent; None when a row has no
    such thing, and stands for itself.

    cluster_by: `tags.NAME` gives the tag; `inputs.NAME` and `contexts` a short hash of the text, equal for equal texts.

    Raises:
        UsageError: `cluster_by` is none of these.
    """
    kind, _, name = check_cluster_by(cluster_by).partition(".")
    if kind == "tags":
        return row.tags.get(name)
    found = list(row.contexts) if kind == "contexts" else row.inputs.get(name)
    if not found:
        return None
    return hashlib.sha256(canonical_json(found).encode(errors="surrogatepass")).hexdigest()[:16]


def cluster_name(row: EvalRow, cluster_by: str) -> str:
    """As `cluster_of`, where a row without a cluster is one of its own."""
    return cluster_of(row, cluster_by) or f"row {row.id}"


def _stamp(path: Path) -> list[tuple[str, int, int]]:
    """Name, time of the last change, and size of each file; none where there is no such file (a source on the hub)."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    try:
        found = [(str(file), file.stat()) for file in files]
    except OSError:
        return []
    return [(name, status.st_mtime_ns, status.st_size) for name, status in found]


def _check_messages(value: Any, path: Path | str, number: int) -> None:
    name = "inputs.messages"
    if not isinstance(value, list) or not value:
        raise BadFile(path, "must be a list of messages, and not empty", line=number, field=name)
    for position, message in enumerate(value):
        place = f"{name}[{position}]"
        if not isinstance(message, dict) or message.keys() != {"role", "content"}:
            raise BadFile(path, "must be an object of `role` and `content`", line=number, field=place)
        if message["role"] not in _ROLES:
            raise BadFile(path, f"must be one of {', '.join(_ROLES)}", line=number, field=f"{place}.role")
        if not _filled(message["content"]):
            raise BadFile(path, "must be text, and not empty", line=number, field=f"{place}.content")
    if value[-1]["role"] != "user":
        raise BadFile(path, "the last message must be the user's", line=number, field=name)


def _filled(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _texts(values: Any) -> bool:
    return all(isinstance(value, str) for value in values)


_CHECKS: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("id", lambda value: isinstance(value, str) and value != "", "must be text"),
    (
        "inputs",
        lambda value: isinstance(value, dict) and bool(value),
        "must be an object with a field that is not null",
    ),
    ("expectations", lambda value: value is None or isinstance(value, dict), "must be an object"),
    ("contexts", lambda value: value is None or (isinstance(value, list) and _texts(value)), "must be a list of texts"),
    (
        "tags",
        lambda value: value is None or (isinstance(value, dict) and _texts(value.values())),
        "must be an object of texts",
    ),
)
