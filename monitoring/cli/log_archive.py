"""`llmops log archive` and `verify`: closed hours of the production log as Parquet."""

import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from llmops.cli.log import window_options
from llmops.cli.output import echo, emit, json_option, print_table, say
from llmops.production_log import ProductionLog, open_engine
from llmops.progress import progress_bar
from llmops.settings import Settings

_HOUR = timedelta(hours=1)


@click.command()
@click.option("--to", "url", required=True, metavar="FOLDER|s3://BUCKET/PREFIX", help="Where the archive is.")
@window_options
@click.option("--delete", is_flag=True, help="Delete from the log what is archived, once it is read back.")
@click.option(
    "--undescribed",
    is_flag=True,
    help="With --delete: also records that the monitor has not described yet; without a monitor none waits.",
)
@click.option("--unregister", is_flag=True, help="Only forget this archive, which was deleted for good.")
@json_option
def archive(
    url: str,
    app: str | None,
    since: datetime | None,
    until: datetime | None,
    delete: bool,
    undescribed: bool,
    unregister: bool,
    as_json: bool,
) -> None:
    """Write closed hours of the log to Parquet files, one partition for each app and hour; see docs/log-records.md.

    Without --until, hours that ended an hour ago. What is archived already is not written again. Hours older than
    LLMOPS_ARCHIVE_RETENTION_DAYS are left out, and deleted from the archive.

    \b
    Example: llmops log archive --to s3://llmops-log/production --until 7d --delete
    """
    from llmops.file_storage import normalised
    from llmops.production_log.archive import Archive
    from llmops.production_log.archive_layout import Partition
    from monitoring.stores import archive_cut, delete_archived, opened_archives

    settings, now = Settings.from_environment(), datetime.now(UTC)
    with closing(ProductionLog(settings.resolved_log_url)) as log:
        if unregister:
            known = log.drop_archive(normalised(url))
            emit(as_json, {"unregistered": known}, lambda: echo(f"{url}: {'unregistered' if known else 'not known'}"))
            return
        target, written = Archive(url), 0
        oldest = archive_cut(settings, now, settings.retention_days)
        # Partitions are whole hours.
        closed = _hour_of(min(until or now - _HOUR, now))
        since = max((_hour_of(each) for each in (since, oldest) if each is not None), default=None)
        totals = dict.fromkeys(("records", "feedback", "files", "bytes", "deleted"), 0)
        with opened_archives(log, say_waiting, new=target), progress_bar() as show:
            if oldest is not None:
                delete_archived(log, target, oldest)
            hours = {Partition(*place): seen for place, seen in log.hours(app=app, since=since, until=closed).items()}
            up_to = _described(log) if delete and not undescribed else {}
            for number, (partition, seen) in enumerate(hours.items()):
                show("archive", number, len(hours))
                manifest, new = target.archive(log, partition, seen)
                written += new
                sizes = (manifest.records, manifest.feedback, len(manifest.files), sum(f.bytes for f in manifest.files))
                deleted = target.delete_from(log, partition, manifest, **up_to) if delete else 0
                totals = {name: n + totals[name] for name, n in zip(totals, (*sizes, deleted), strict=True)}
    value = {"archive": target.url, "until": closed.isoformat(), "hours": len(hours), "written": written, **totals}

    def table() -> None:
        echo(f"{target.url}: {len(hours)} hours with {totals['records']} records in {totals['bytes']:,} bytes,")
        echo(f"{written} hours written, {totals['deleted']} records deleted from the log")

    emit(as_json, value, table)


def say_waiting() -> None:
    """For `opened_archives`."""
    say("another process writes to the log's archives; waiting for it")


def _hour_of(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _described(log: ProductionLog) -> dict[str, int | None]:
    """How far the monitor has come, as `Archive.delete_from` takes it."""
    from monitoring.stores import newest_position

    engine = open_engine(log.url)
    try:
        position = newest_position(engine)
    finally:
        engine.dispose()
    return {} if position is None else {"described_up_to": position.cursor, "feedback_up_to": position.feedback_cursor}


@click.command()
@click.option("--archive", "url", metavar="FOLDER|s3://BUCKET/PREFIX", help="Only this one; default: all of the log.")
@json_option
def verify(url: str | None, as_json: bool) -> None:
    """Read the log's archives back, and compare every file with its manifest. Exit code 1: something differs.

    \b
    Example: llmops log verify
    """
    from llmops.production_log.archive import Archive

    with closing(ProductionLog(Settings.from_environment().resolved_log_url)) as log:
        archives = [Archive(each) for each in ([url] if url else log.archives())]
    rows, problems = list[tuple[Any, ...]](), list[str]()
    with progress_bar() as show:
        for archive in archives:
            archive.check()
            hours = records = size = 0
            for hours, (stored, found) in enumerate(archive.verify(), 1):
                show(archive.url, hours, 0)
                problems += found
                if stored.manifest is not None:
                    records += stored.manifest.records
                    size += sum(each.bytes for each in stored.manifest.files)
            rows.append((archive.url, hours, records, size))
    columns = ("archive", "hours#", "records#", "bytes#")
    value = {
        "archives": [dict(zip((name.rstrip("#") for name in columns), row, strict=True)) for row in rows],
        "problems": problems,
    }
    emit(as_json, value, lambda: print_table(f"{len(problems)} problems", columns, rows))
    for problem in problems:
        say(problem)
    sys.exit(1 if problems else 0)
