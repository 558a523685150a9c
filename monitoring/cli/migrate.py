"""`llmops migrate`: copies all tables of llmops to other databases, and compares both sides."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from llmops.cli.output import echo, emit, json_option, print_table, say
from llmops.errors import UsageError
from llmops.progress import progress_bar
from llmops.settings import Settings
from llmops.state_files import shown, sqlite_path

if TYPE_CHECKING:
    import sqlalchemy as sa

    from llmops.audit import Verification
    from llmops.migration import CopiedTable, Progress


@click.command()
@click.option("--to", "log_to", required=True, metavar="URL", help="Empty database, for everything but pipelines.")
@click.option("--from", "log_from", metavar="URL", help="Default: LLMOPS_LOG_URL, or log.db in the home.")
@click.option("--pipelines-to", metavar="URL", help="Default: as --to on PostgreSQL, or pipelines.db beside that file.")
@click.option("--pipelines-from", metavar="URL", help="Default: LLMOPS_PIPELINES_URL, or pipelines.db in the home.")
@json_option
def command(
    log_to: str, log_from: str | None, pipelines_to: str | None, pipelines_from: str | None, as_json: bool
) -> None:
    """Copy production log, feedback, keys, audit log, monitor and pipelines to empty databases, SQLite or PostgreSQL.

    Stop gateways, monitors and pipelines first. Each database is copied in one transaction, read back, and compared by
    counts and hashes. The source is not changed. MLflow's store is not copied.

    Exit code 1: a table differs; nothing is then kept in the target.

    \b
    Example: llmops migrate --to postgresql://llmops@db.example/llmops
    """
    from llmops.keys import KeyStore
    from llmops.pipelines.database import database_url, ensure_tables, has_tables
    from llmops.production_log.database import database_url as log_database_url

    settings = Settings.from_environment()
    log_from, pipelines_from = log_from or settings.resolved_log_url, pipelines_from or settings.resolved_pipelines_url
    file = sqlite_path(log_to)
    pipelines_to = pipelines_to or (log_to if file is None else f"sqlite:///{file.with_name('pipelines.db')}")
    if log_database_url(log_from) == log_database_url(log_to):
        raise UsageError(f"--to {shown(log_to)}: source and target are the same database")
    moves_pipelines = log_database_url(pipelines_from) != log_database_url(pipelines_to)
    have_run = moves_pipelines and has_tables(database_url(pipelines_from))
    for url in (pipelines_from, pipelines_to) if have_run else ():
        ensure_tables(database_url(url))  # before anything is opened: it waits for open transactions
    with ExitStack() as stack:
        progress = stack.enter_context(progress_bar())
        log, tables, chain = _copy_log(stack, log_from, log_to, progress)
        targets = [log]
        if have_run:
            pipelines, more = _copy_pipelines(stack, pipelines_from, pipelines_to, progress)
            targets.append(pipelines)
            tables += more
        is_equal = all(table.is_equal for table in tables)
        if is_equal:
            for connection in targets:
                connection.commit()
    if is_equal:
        store = KeyStore(log_to, home=settings.home)
        store.read()  # whether the database has keys is remembered in the home
        store.close()
    value = {"equal": is_equal, "tables": [table.to_json() for table in tables], "audit": chain.to_json()}
    emit(as_json, value, lambda: _print(tables, chain))
    if not is_equal:
        say("the tables above differ: nothing was kept in the target")
        sys.exit(1)
    say(f"to use it: LLMOPS_LOG_URL={shown(log_to)}")
    if have_run:
        say(f"           LLMOPS_PIPELINES_URL={shown(pipelines_to)}")
    elif moves_pipelines:
        say(f"no pipeline ever ran in {shown(pipelines_from)}")


def _copy_log(
    stack: ExitStack, source_url: str, target_url: str, progress: Progress
) -> tuple[sa.Connection, list[CopiedTable], Verification]:
    """The target's transaction, which is still open; what was copied in it, and the audit log as it stands there."""
    import sqlalchemy as sa

    from llmops import keys
    from llmops.audit import log as audit
    from llmops.audit.entries import check_chain
    from llmops.migration import copy_tables, lock_tables, opened_alone, refuse_others
    from llmops.production_log import make_tables
    from llmops.production_log import tables as log
    from monitoring.act import action_tables
    from monitoring.decide import references, watch
    from monitoring.store import database as store

    source = stack.enter_context(opened_alone(source_url))
    target = stack.enter_context(opened_alone(target_url, make=True))
    others = (keys.metadata, store.metadata, references.metadata, watch.metadata, action_tables.metadata)
    for connection in (source, target):
        log.migrate_schema(connection)
        audit.make_table(connection)
        for metadata in others:
            make_tables(connection, metadata)
    tables = [table for part in (log.metadata, audit.metadata, *others) for table in part.sorted_tables]
    lock_tables(source, tables)
    copied = copy_tables(source, target, {table: table for table in tables}, progress)
    refuse_others(source)
    entries = target.execute(sa.select(audit.audit_log).order_by(audit.audit_log.c.seq)).mappings()
    return target, copied, check_chain(dict(entry) for entry in entries)


def _copy_pipelines(
    stack: ExitStack, source_url: str, target_url: str, progress: Progress
) -> tuple[sa.Connection, list[CopiedTable]]:
    """As `_copy_log`, of tables that DBOS has made on both sides."""
    from llmops.migration import copy_tables, lock_tables, opened_alone, refuse_others
    from llmops.pipelines.database import tables_of

    source = stack.enter_context(opened_alone(source_url))
    target = stack.enter_context(opened_alone(target_url, make=True))
    of_source, of_target = tables_of(source), tables_of(target)
    lock_tables(source, list(of_source.values()))
    # On PostgreSQL alone there is a table for other languages than Python.
    on_both = {table: of_target[name] for name, table in of_source.items() if name in of_target}
    copied = copy_tables(source, target, on_both, progress)
    refuse_others(source)
    return target, copied


def _print(tables: list[CopiedTable], chain: Verification) -> None:
    rows = [
        (
            table.name,
            table.source.rows,
            table.target.rows,
            f"{table.source.sha256[:16]}…",
            "equal" if table.is_equal else f"DIFFERS: {table.target.sha256[:16]}…",
            table.replaced or "",
        )
        for table in tables
        if table.source.rows or table.target.rows
    ]
    print_table("Tables", ("table", "source#", "target#", "sha256", "target's", "replaced#"), rows)
    echo(f"{len(tables) - len(rows)} more tables are empty on both sides")
    if sum(table.replaced for table in tables):
        echo("replaced: values that the target's database cannot hold, such as zero bytes in texts (docs/stores.md)")
    broken = chain.broken
    echo("audit log: " + (f"BROKEN at entry {broken.seq}: it {broken.why}" if broken else f"whole, head {chain.head}"))
