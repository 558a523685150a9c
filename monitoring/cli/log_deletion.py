"""`llmops log retain` and `forget`: what is deleted from the production log, by age and on request."""

import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from llmops.cli.output import echo, emit, json_option, print_table, say
from llmops.errors import UsageError
from llmops.production_log import ProductionLog, open_engine
from llmops.settings import Settings
from llmops.versions import MOST_NAMED, whole_id
from monitoring.cli.log_archive import say_waiting

dry_run_option = click.option("--dry-run", is_flag=True, help="Only show what would be deleted.")


@click.command()
@click.option("--days", type=click.IntRange(0), help="Minimum age in days; default: LLMOPS_RETENTION_DAYS.")
@click.option(
    "--undescribed",
    is_flag=True,
    help="Also records that the monitor has not described yet; without a monitor none waits.",
)
@dry_run_option
@json_option
def retain(days: int | None, undescribed: bool, dry_run: bool, as_json: bool) -> None:
    """Delete the texts of old records. Release, status, tokens, times and computed descriptors stay.

    Archived hours that ended before then go whole; LLMOPS_ARCHIVE_RETENTION_DAYS keeps them longer.

    \b
    Example: llmops log retain --days 30
    """
    from monitoring.stores import archive_cut, described_up_to, retain_archived

    settings = Settings.from_environment()
    kept = settings.retention_days if days is None else days
    if kept is None:
        raise UsageError("--days: say how many, or set LLMOPS_RETENTION_DAYS")
    now = datetime.now(UTC)
    before = now - timedelta(days=kept)
    log, engine = ProductionLog(settings.resolved_log_url), open_engine(settings.resolved_log_url)
    try:
        cursor = None if undescribed else described_up_to(engine)
        deleted = log.delete_texts(before, described_up_to=cursor, dry_run=dry_run)
        due = log.delete_texts(before, dry_run=True)
        archived = retain_archived(log, archive_cut(settings, now, kept) or before, say_waiting, dry_run=dry_run)
    finally:
        engine.dispose()
        log.close()
    waiting = due - deleted if dry_run else due
    value = {"before": before.isoformat(), "dry_run": dry_run, "deleted": deleted, "waiting": waiting, **archived}
    done = "would be deleted" if dry_run else "were deleted"
    hours = f"; {archived['archived_hours']} archived hours, whole" if archived["archived_hours"] else ""
    emit(as_json, value, lambda: echo(f"the texts of {deleted} records from before {before:%F %R} UTC {done}{hours}"))
    if waiting:
        say(f"{waiting} more wait until the monitor has described them (llmops monitor run), or for --undescribed")


@click.command()
@click.option("--user", help="Everything this user sent, and all feedback by or about this user.")
@click.option("--request-id", help="Every record of this request; the beginning of its id is enough.")
@dry_run_option
@json_option
def forget(user: str | None, request_id: str | None, dry_run: bool, as_json: bool) -> None:
    """Delete everything about one user or request: records, feedback, stored replies, descriptors, summaries, MLflow
    traces, and the rows of archives. Then search every table and file again, and print a receipt.

    Exit code 1: something is left.

    \b
    Example: llmops log forget --user anna@example.com
    """
    if bool(user) == bool(request_id):
        raise UsageError("give either --user or --request-id")
    from monitoring.forgetting import NOT_REACHED, forget

    settings = Settings.from_environment()
    if request_id:
        log = ProductionLog(settings.resolved_log_url)
        try:
            request_ids = log.request_ids(request_id, limit=MOST_NAMED + 1)
        finally:
            log.close()
        # What is not in the log may be elsewhere, and stays as it was given.
        request_id = whole_id(request_id, request_ids, "request") if request_ids else request_id
    receipt = forget(settings, user=user or None, request_id=request_id or None, dry_run=dry_run, waiting=say_waiting)

    def table() -> None:
        shown: dict[str, dict[str, int]] = receipt.to_json()["tables"]
        rows: list[tuple[Any, ...]] = [(name, each["deleted"], each["left"]) for name, each in shown.items()]
        columns = ("table", "would be deleted#" if dry_run else "deleted#", "left#")
        print_table(f"{'found' if dry_run else 'forgotten'} at {receipt.at:%F %T} UTC", columns, rows)
        if receipt.erased is not None:
            say(
                f"searched {receipt.erased.searched:,} bytes of the log's files for {receipt.erased.markers} keys: "
                f"{receipt.erased.found} found"
            )
        say(f"not reached: {'; '.join(NOT_REACHED)}")

    emit(as_json, receipt.to_json(), table)
    if not receipt.complete:
        sys.exit(1)
