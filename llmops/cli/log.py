"""`llmops log`: tail, show, export, import; monitoring.cli has archive and verify, retain and forget."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from llmops.api.production import opened_log, read_log, record_json
from llmops.cli import CommandGroup
from llmops.cli.output import echo, emit, emit_result, json_option, say
from llmops.errors import BadFile, CannotRun, Corrupted, UsageError
from llmops.production_log import LogRecord, ProductionLog, in_batches, is_prediction, moment_of
from llmops.production_log.record import values_of
from llmops.settings import Settings
from llmops.text_io import json_object, numbered_lines, printable_json
from llmops.versions import MOST_NAMED, whole_id

_BATCH = 1000
_PARQUET = b"PAR1"  # how such a file begins
_MOST_ERRORS = 100  # that `log import --json` lists; stderr has all


@click.group("log", cls=CommandGroup)
def command() -> None:
    """The production log: every request that the gateway answered."""


def read_time(_ctx: click.Context, _param: click.Parameter, value: str | None) -> datetime | None:
    """Reads `--since` and `--until`: an ISO time, or how long ago: 30m, 24h, 7d."""
    try:
        return moment_of(value)
    except UsageError as error:
        raise click.BadParameter(str(error)) from error


def window_options(function: Callable[..., None]) -> Callable[..., None]:
    """`--app`, `--since` and `--until`, alike for all commands that read the log."""
    for option in (
        click.option("--until", callback=read_time, metavar="TIME", help="Before this time, or this long ago."),
        click.option(
            "--since",
            callback=read_time,
            metavar="TIME",
            help="From this UTC time (2026-01-31T12:00), or this long ago: 24h, 7d.",
        ),
        click.option("--app", help="Only this app's records."),
    ):
        function = option(function)
    return function


archive_option = click.option(
    "--archive", metavar="FOLDER|s3://BUCKET/PREFIX", help="Read this archive, as llmops log archive writes it."
)
shadow_option = click.option("--shadow", is_flag=True, help="Include shadow requests, which a challenger answered too.")


@command.command()
@window_options
@shadow_option
@archive_option
@click.option("-n", "--limit", default=20, type=click.IntRange(1))
@json_option
def tail(as_json: bool, **query: Any) -> None:
    """Show the newest records.

    \b
    Example: llmops log tail -n 5 --app assistant
    """
    emit_result(as_json, read_log(**query))


@command.command()
@click.argument("request_id")
@archive_option
@json_option
def show(request_id: str, archive: str | None, as_json: bool) -> None:
    """Show every record of one request id in full, with feedback. The beginning of the id, as `log tail` shows it, is
    enough.

    \b
    Example: llmops log show req_5f0c2a1b
    """
    log = opened_log(Settings.from_environment(), archive)
    found = whole_id(request_id, log.request_ids(request_id, limit=MOST_NAMED + 1), "request", "llmops log tail")
    records = log.read(request_id=found, feedback=True)
    value = {"records": [record_json(record) for record in records], "total": len(records)}
    emit(as_json, value, lambda: echo(printable_json(value["records"], indent=2)))


@command.command()
@window_options
@shadow_option
@archive_option
@click.option("--out", required=True, type=click.Path(path_type=Path), help="FILE.jsonl or FILE.parquet.")
@json_option
def export(archive: str | None, out: Path, as_json: bool, **query: Any) -> None:
    """Write records to a file, with bounded memory use.

    \b
    Example: llmops log export --since 7d --out week.parquet
    """
    writers = {".jsonl": _write_jsonl, ".parquet": _write_parquet}
    if out.suffix not in writers:
        raise UsageError("--out: must end in .jsonl or .parquet")
    try:
        records = opened_log(Settings.from_environment(), archive).iterate(**query, feedback=True)
        total = writers[out.suffix](records, out)
    except OSError as error:
        raise CannotRun(f"{out} cannot be written: {error.strerror}") from error
    emit(as_json, {"out": str(out), "total": total}, lambda: echo(f"wrote {total} records to {out}"))


@command.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def import_records(file: Path, as_json: bool) -> None:
    """Import records; those whose request id is already in the log are skipped.

    FILE is JSON Lines, one record per line, as described in docs/log-records.md. A line that is not a record, or whose
    time or numbers are out of range, is reported and left out; the others are imported, and the exit code is 3.

    \b
    Example: llmops log import traffic.jsonl
    """
    log, errors = ProductionLog(Settings.from_environment().resolved_log_url), list[BadFile]()
    imported = total = 0
    for batch in in_batches(_read_jsonl(file), _BATCH):
        records = [record for record in batch if isinstance(record, LogRecord)]
        imported, total = imported + log.import_records(records), total + len(records)
        for error in batch:
            if isinstance(error, BadFile):
                say(f"left out: {error}")
                errors.append(error)
    value: dict[str, Any] = {"imported": imported, "known": total - imported, "total": total + len(errors)}
    if errors:
        refused = [{"line": error.line, "field": error.field, "error": error.problem} for error in errors]
        value |= {"refused": len(errors), "errors": refused[:_MOST_ERRORS]}
    left_out = f", {len(errors)} left out" if errors else ""
    emit(as_json, value, lambda: echo(f"imported {imported} of {total + len(errors)} records{left_out}"))
    sys.exit(BadFile.exit_code if errors else 0)


def _read_jsonl(file: Path) -> Iterator[LogRecord | BadFile]:
    """Records of a JSON Lines file, and for each line that holds none what is wrong with it. Raises BadFile."""
    for number, line in numbered_lines(file):
        if number == 1 and line.startswith(_PARQUET):
            raise BadFile(file, "is Parquet; JSON Lines are read, as `llmops log export --out FILE.jsonl` writes them")
        try:
            record = LogRecord.from_json(json_object(line, file, number))
            if is_prediction(record):
                values_of(record)  # whoever reads predictions must not meet one that is none
            yield record
        except Corrupted as error:
            yield BadFile(file, str(error).partition("log: ")[2], line=number, field="output")
        except UsageError as error:
            field, _, problem = str(error).partition(": ")
            yield BadFile(file, problem, line=number, field=field)
        except BadFile as error:
            yield error


def _write_jsonl(records: Iterable[LogRecord], out: Path) -> int:
    total = 0
    with out.open("w", encoding="utf-8") as file:
        for total, record in enumerate(records, 1):  # noqa: B007 - the count outlives the loop
            file.write(json.dumps(record.to_json(), ensure_ascii=False) + "\n")
    return total


def _write_parquet(records: Iterable[LogRecord], out: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    text, whole, real = pa.string(), pa.int64(), pa.float64()
    schema = pa.schema(
        {
            "request_id": text, "at": pa.timestamp("us", tz="UTC"), "release": text, "prompt": text, "model": text,
            "status": whole, "outcome": text, "input": text, "output": text, "tokens_in": whole, "tokens_out": whole,
            "latency_ms": real, "first_token_ms": real, "details": text, "key": text, "feedback": text,
            "route": text, "caller": text, "user": text, "text_deleted_at": pa.timestamp("us", tz="UTC"),
        }
    )  # fmt: skip
    total = 0
    with pq.ParquetWriter(out, schema) as writer:
        for batch in in_batches(records, _BATCH):
            rows = []
            for record in batch:
                values = record_json(record)
                texts = {name: json.dumps(values[name], ensure_ascii=False) for name in ("details", "feedback")}
                rows.append({**values, **texts, "at": record.at, "text_deleted_at": record.text_deleted_at})
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            total += len(rows)
    return total
