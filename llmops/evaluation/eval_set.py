"""Eval sets: rows of inputs and expectations, read from their file on every pass and identified by their content."""

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Self
from uuid import UUID

from llmops.errors import BadFile, UsageError
from llmops.evaluation.record_files import RecordLocation, read_records
from llmops.generation import Message
from llmops.hashing import canonical_json

ROWS_FILE = "rows.jsonl"
FIELDS = {"id", "inputs", "expectations", "contexts", "tags"}
_ROLES = ("system", "user", "assistant")
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class EvalRow:
    """One question to the system, and what a good answer is measured by.

    inputs: the prompt's variables, all text; or, for a conversation, `messages` (a list of `{"role", "content"}` that
        ends with the user's) in place of the input variable.
    expectations: what scorers compare with (`expected_response`, `answers`, `expected_json`, `choices` …).
    contexts: texts given or retrieved.
    tags: slices.
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

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Reads what `to_json` gave, which was checked before."""
        return cls(values["id"], values["inputs"], values["expectations"], tuple(values["contexts"]), values["tags"])


PlacedRows = Callable[[], Iterator[tuple[RecordLocation, EvalRow]]]


@dataclass(frozen=True, eq=False, slots=True)
class Rows:
    """Rows that can be gone through any number of times and are not held: each pass reads them anew."""

    read: Callable[[], Iterator[EvalRow]]

    def __iter__(self) -> Iterator[EvalRow]:
        return self.read()


def measure(rows: Iterable[EvalRow]) -> tuple[int, str]:
    """Number of rows and their content hash, in one pass: sha256 in hex over the canonical JSON of each row and a line
    feed."""
    digest, n_rows = hashlib.sha256(), 0
    for n_rows, row in enumerate(rows, 1):  # noqa: B007 - the count outlives the loop
        # surrogatepass: JSON may hold half a surrogate pair, which plain UTF-8 refuses.
        digest.update(f"{canonical_json(row.to_json())}\n".encode(errors="surrogatepass"))
    return n_rows, digest.hexdigest()


@dataclass(frozen=True, eq=False, slots=True)
class EvalSet:
    """Rows under a name. Two eval sets with the same content hash hold the same rows in the same order.

    rows: goes through the rows anew each time, so that any number of them can be evaluated. n_rows, content_hash: as
    `measure` found them.
    """

    name: str
    rows: Rows
    n_rows: int
    content_hash: str


def checked_eval_set(name: str, path: Path, read: PlacedRows) -> EvalSet:
    """An eval set after one pass over all its rows: every row is sound, ids are unique, number and hash are known.

    path: the file or folder whose later change is an error: a run must score the rows that were checked.
    read: begins a new pass; gives rows with their places.

    Raises BadFile: naming file, line and field of the first wrong row.
    """
    stamp = _stamp(path)

    def read_again() -> Iterator[EvalRow]:
        if _stamp(path) != stamp:
            raise BadFile(path, "was changed since it was checked; start again")
        return (row for _, row in read())

    n_rows, content_hash = measure(without_repeats(read()))
    if not n_rows:
        raise BadFile(path, "holds no rows")
    return EvalSet(name, Rows(read_again), n_rows, content_hash)


def _stamp(path: Path) -> list[tuple[str, int, int]]:
    """Name, time of the last change, and size of each file; none where there is no such file (a source on the hub)."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    try:
        stats = [(str(file), file.stat()) for file in files]
    except OSError:
        return []
    return [(name, status.st_mtime_ns, status.st_size) for name, status in stats]


def load_eval_set(folder: Path) -> EvalSet:
    """The eval set of `folder/rows.jsonl`; every row is checked before any is returned. Raises BadFile: naming file,
    line and field of the first wrong row."""
    path = folder / ROWS_FILE
    return checked_eval_set(folder.name, path, lambda: read_rows(path))


def read_rows(path: Path) -> Iterator[tuple[RecordLocation, EvalRow]]:
    """The rows of a file in our own shape with their places, each checked as it is read. Raises BadFile."""
    for location, record in read_records(path):
        yield location, row_from_values(record, *location)


def without_repeats(placed: Iterable[tuple[RecordLocation, EvalRow]]) -> Iterator[EvalRow]:
    """The rows; raises BadFile at an id that was there before.

    Ids are remembered by 64-bit hashes: a million of them take less than 100 MB, and the chance that two different
    ones are taken for the same is 3 in 10⁸.
    """
    seen: set[int] = set()
    for location, row in placed:
        known = hash(row.id)
        if known in seen:
            raise BadFile(location.path, f"{row.id!r} stands on two rows", line=location.line, field="id")
        seen.add(known)
        yield row


def row_from_values(values: Mapping[str, Any], path: Path | str, number: int) -> EvalRow:
    """A row from an object of our shape.

    Inputs, tags and the id are texts: numbers, truth values and dates become text. A null directly under `inputs`,
    `expectations` or `tags` says that the row has no such field (a typed table has every column in every row); deeper
    it is a value, as everything else in `expectations` is.

    number: the line or position that an error names.

    Raises BadFile: naming file, number and field.
    """
    try:
        if unknown := sorted(values.keys() - FIELDS):
            raise UsageError(f"{unknown[0]}: unknown field; known: {', '.join(sorted(FIELDS))}")
        given = {}
        for name in sorted(FIELDS):
            value = as_text(values.get(name)) if name == "id" else values.get(name)
            if isinstance(value, Mapping):
                present = {key: item for key, item in value.items() if item is not None}
                for key in present:
                    if _UNSTORABLE.search(str(key)):
                        raise UsageError(f"{name}: the name {key!r} holds a character that no store keeps")
                value = present if name == "expectations" else {key: as_text(item) for key, item in present.items()}
                if name == "inputs" and "messages" in value:
                    value["messages"] = _messages(value["messages"])
            given[name] = plain(value, name)
        _check_shape(given)
    except UsageError as error:
        raise BadFile.of(error, path, line=number) from error
    expectations, contexts, tags = given["expectations"] or {}, tuple(given["contexts"] or ()), given["tags"] or {}
    return EvalRow(given["id"], given["inputs"], expectations, contexts, tags)


def _check_shape(given: Mapping[str, Any]) -> None:
    """Raises UsageError starting with the field's name."""
    inputs, expectations, contexts, tags = (given[name] for name in ("inputs", "expectations", "contexts", "tags"))
    if not isinstance(given["id"], str) or not given["id"]:
        raise UsageError("id: must be text")
    if not isinstance(inputs, dict) or not inputs:
        raise UsageError("inputs: must be an object with a field that is not null")
    if not isinstance(expectations, (dict, type(None))):
        raise UsageError("expectations: must be an object")
    if contexts is not None and not (isinstance(contexts, list) and all(isinstance(text, str) for text in contexts)):
        raise UsageError("contexts: must be a list of texts")
    if tags is not None and not (isinstance(tags, dict) and all(isinstance(text, str) for text in tags.values())):
        raise UsageError("tags: must be an object of texts")
    for name, value in inputs.items():
        if name != "messages" and (not isinstance(value, str) or not value.strip()):
            raise UsageError(f"inputs.{name}: must be text, and not empty")
    if not isinstance((expectations or {}).get("answers", []), list):
        raise UsageError("expectations.answers: must be a list of every acceptable answer")


def _messages(value: Any) -> list[dict[str, str]]:
    """Messages without the fields that chat data sets add (`name`, `tool_calls` …). Raises UsageError."""
    if not isinstance(value, list) or not value:
        raise UsageError("inputs.messages: must be a list of messages, and not empty")
    messages = []
    for position, message in enumerate(value):
        field = f"inputs.messages[{position}]"
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise UsageError(f"{field}: must be an object of `role` and `content`")
        role, content = message["role"], message["content"]
        if role not in _ROLES:
            raise UsageError(f"{field}.role: must be one of {', '.join(_ROLES)}")
        if not isinstance(content, str) or not content.strip():
            raise UsageError(f"{field}.content: must be text, and not empty")
        messages.append({"role": role, "content": content})
    if messages[-1]["role"] != "user":
        raise UsageError("inputs.messages: the last message must be the user's")
    return messages


def plain(value: Any, name: str) -> Any:
    """The value as JSON has it, whatever the file had. Dates, times and UUIDs become text; a decimal becomes the number
    that the same digits are in JSON.

    name: of the field of the row, for errors.

    Raises UsageError: JSON has no such value (bytes, a duration, NaN); starts with the field's name.
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise UsageError(f"{name}: has the name {key!r}, which is no text")
        return {key: plain(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{name}[{position}]") for position, item in enumerate(value)]
    if isinstance(value, (float, Decimal)):
        if not math.isfinite(value):
            raise UsageError(f"{name}: is {value}, which JSON does not have")
        whole = isinstance(value, Decimal) and value.as_tuple().exponent == 0
        return int(value) if whole else float(value)
    if isinstance(value, (date, time, UUID)):
        return as_text(value)
    kinds = ((bytes, "bytes"), (timedelta, "a duration"))
    kind = next((words for type_, words in kinds if isinstance(value, type_)), f"a {type(value).__name__}")
    raise UsageError(f"{name}: is {kind}, which JSON cannot hold")


def as_text(value: Any) -> Any:
    """Numbers, truth values and dates as text; anything else as it is, for the row's own checks to judge."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, (int, float, Decimal)):
        return str(value) if math.isfinite(value) else value
    return str(value) if isinstance(value, UUID) else value


def cluster_of(row: EvalRow, cluster_by: str) -> str | None:
    """What rows of one source have in common, for statistics of rows that are not independent; None when a row has no
    such thing, and stands for itself.

    cluster_by: `tags.NAME` gives the tag; `inputs.NAME` and `contexts` a short hash of the text, equal for equal texts.

    Raises UsageError: `cluster_by` is none of these.
    """
    kind, _, name = cluster_by.partition(".")
    if cluster_by != "contexts" and not (kind in ("tags", "inputs") and name):
        raise UsageError(f"{cluster_by!r}: must be `contexts`, `tags.NAME` or `inputs.NAME`")
    if kind == "tags":
        return row.tags.get(name)
    shared = list(row.contexts) if kind == "contexts" else row.inputs.get(name)
    if not shared:
        return None
    return hashlib.sha256(canonical_json(shared).encode(errors="surrogatepass")).hexdigest()[:16]


def cluster_name(row: EvalRow, cluster_by: str) -> str:
    """As `cluster_of`, where a row without a cluster is one of its own."""
    return cluster_of(row, cluster_by) or f"row {row.id}"
