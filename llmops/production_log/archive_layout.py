"""How an archive is laid out: a folder for each app and hour, the columns of its Parquet files, and its manifest."""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self
from urllib.parse import quote, unquote

import pyarrow as pa

from llmops.errors import Corrupted
from llmops.production_log.log import HOUR_SECONDS
from llmops.production_log.record import Feedback, LogRecord, identity_in
from llmops.production_log.tables import json_text, storable

FORMAT = 1
_NO_APP = "__HIVE_DEFAULT_PARTITION__"
_GROUP_CHARACTERS = 8 << 20  # of JSON text in one row group: what a reader or writer holds in memory

_text, _whole, _real, _time = pa.string(), pa.int64(), pa.float64(), pa.timestamp("us", tz="UTC")
_FEEDBACK = pa.struct(
    {"key": _text, "at": _time, "caller": _text, "user": _text, "score": _real, "label": _text, "compared_key": _text}
)
SCHEMA = pa.schema(
    {
        "key": _text, "request_id": _text, "at": _time, "release": _text, "prompt": _text, "model": _text,
        "route": _text, "caller": _text, "user": _text, "status": pa.int32(), "outcome": _text,
        "tokens_in": _whole, "tokens_out": _whole, "latency_ms": _real, "first_token_ms": _real, "shadow_of": _text,
        "feedback": pa.list_(_FEEDBACK), "record": _text,
    }
)  # fmt: skip
"""Columns to filter and count by, and the whole record, with its feedback, as JSON text."""
PARTITIONING = pa.schema({"app": _text, "date": pa.date32(), "hour": pa.int32()})
_SAME = set(SCHEMA.names) - {"user", "shadow_of", "feedback", "record"}


@dataclass(frozen=True, slots=True, order=True)
class Partition:
    """One hour of one app. hour: hours since the epoch; app: empty for bare models."""

    hour: int
    app: str

    @property
    def folder(self) -> str:
        """Below the archive's root, named as Hive, DuckDB and Spark name partitions."""
        return f"{app_folder(self.app)}/date={self.since.date().isoformat()}/hour={self.since.hour:02}"

    @property
    def since(self) -> datetime:
        return datetime.fromtimestamp(self.hour * HOUR_SECONDS, UTC)

    @property
    def until(self) -> datetime:
        """When it ends; that moment is the next hour's."""
        return datetime.fromtimestamp((self.hour + 1) * HOUR_SECONDS, UTC)

    @classmethod
    def of_folder(cls, folder: str) -> Self | None:
        """None for a folder that is no partition's."""
        try:
            app, date, hour = (part.partition("=")[2] for part in folder.split("/"))
            since = datetime.fromisoformat(f"{date}T{hour}:00:00+00:00")
        except ValueError:
            return None
        partition = cls(int(since.timestamp() // HOUR_SECONDS), "" if app == _NO_APP else unquote(app))
        return partition if partition.folder == folder else None


def app_folder(app: str) -> str:
    """The folder of an app's partitions."""
    return f"app={quote(app, safe='') or _NO_APP}"


@dataclass(frozen=True, slots=True)
class ArchivedFile:
    """records: how many; sha256: of the file. The name holds the beginning of its content's hash, see `lines_of`."""

    name: str
    records: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a partition holds. feedback: opinions on its records. since, until: of its first and last record, ISO 8601;
    None without records. seen: what `ProductionLog.hours` told of the hour when it was last looked at; None: it is to
    be looked at again."""

    app: str
    hour: str
    records: int
    feedback: int
    since: str | None
    until: str | None
    files: tuple[ArchivedFile, ...]
    seen: tuple[int, ...] | None
    format: int = FORMAT

    def to_json(self) -> bytes:
        return json.dumps(dataclasses.asdict(self), indent=1).encode()

    @classmethod
    def from_json(cls, content: bytes, path: str) -> Self:
        """Raises Corrupted."""
        try:
            values = json.loads(content)
            files = tuple(ArchivedFile(**each) for each in values.pop("files"))
            seen = values.pop("seen")
            made = cls(**values, files=files, seen=None if seen is None else tuple(seen))
        except (ValueError, TypeError, KeyError) as error:
            raise Corrupted(f"{path}: is no manifest of an archive: {error}") from error
        if made.format != FORMAT:
            raise Corrupted(f"{path}: is of format {made.format}; this version reads {FORMAT}")
        return made


def tables_of(records: Iterable[LogRecord]) -> Iterator[pa.Table]:
    """The records as row groups of bounded size."""
    rows, characters = list[dict[str, Any]](), 0
    for record in records:
        said, shadow_of = record.feedback, record.details.get("shadow_of")
        row = {name: getattr(record, name) for name in _SAME}
        # An older gateway names the user in the details alone.
        row["user"] = record.user or identity_in(record.details).get("user")
        row["shadow_of"] = storable(shadow_of) if isinstance(shadow_of, str) else None
        row["feedback"] = [{name: getattr(each, name) for name in _FEEDBACK.names} for each in said]
        whole = [{**dataclasses.asdict(each), "at": each.at.isoformat()} for each in said]
        row["record"] = json_text({**record.to_json(), "feedback": whole})
        rows.append(row)
        characters += len(row["record"])
        if characters >= _GROUP_CHARACTERS:
            yield pa.Table.from_pylist(rows, schema=SCHEMA)
            rows, characters = [], 0
    if rows:
        yield pa.Table.from_pylist(rows, schema=SCHEMA)


def record_of_text(text: str) -> LogRecord:
    """The record that the column `record` holds."""
    values = json.loads(text)
    for name in ("at", "text_deleted_at"):
        values[name] = values[name] and datetime.fromisoformat(values[name])
    for each in values["feedback"]:
        each["at"] = datetime.fromisoformat(each["at"])
        each["truth"] = None if each["truth"] is None else tuple(each["truth"])
    values["feedback"] = tuple(Feedback(**each) for each in values["feedback"])
    return LogRecord(**values)


def lines_of(table: pa.Table) -> bytes:
    """What is hashed of records: their JSON texts, a line each."""
    return "".join(f"{text}\n" for text in table["record"].to_pylist()).encode()
