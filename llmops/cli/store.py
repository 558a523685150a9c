"""`llmops store upgrade`: the MLflow store's tables, brought up to date for the installed MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmops.cli.output import echo, emit, json_option, print_table, say
from llmops.errors import UsageError
from llmops.settings import Settings

if TYPE_CHECKING:
    from llmops.registry.store_upgrade import StoreUpgrade


@click.group("store")
def command() -> None:
    """The MLflow store: bring its tables up to date for the installed MLflow."""


@command.command()
@click.option(
    "--backup",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to back up into; default: a new one beside the SQLite file, or in the home.",
)
@click.option("--no-backup", is_flag=True, help="Make no backup, because you have one.")
@json_option
def upgrade(backup: Path | None, no_backup: bool, as_json: bool) -> None:
    """Upgrade the store to the tables of the installed MLflow: with a backup, and only if no row gets lost.

    Stop gateways, monitors and MLflow's server first; the command refuses while other processes have the SQLite file
    open, or other sessions use the PostgreSQL database, which is backed up with pg_dump. It says how to go back. A
    store behind MLflow's server is upgraded where the server runs.

    \b
    Example: llmops store upgrade
    """
    from llmops.registry.store_upgrade import upgrade_store

    if backup is not None and no_backup:
        raise UsageError("--backup and --no-backup exclude each other")
    found = upgrade_store(Settings.from_environment(), say, backup, make_backup=not no_backup)
    emit(as_json, found.to_json(), lambda: _show(found))


def _show(found: StoreUpgrade) -> None:
    if found.before == found.after:
        echo(f"{found.store}: up to date for MLflow {found.mlflow} (revision {found.after})")
        return
    from llmops.registry.store_upgrade import MOVED

    rows = [
        (name, before, after, "MLflow made columns of some" if name in MOVED and after < before else "")
        for name, (before, after) in found.rows.items()
        if before or after
    ]
    print_table("Rows", ("table", "before#", "after#", ""), rows)
    echo(f"{found.store}: upgraded for MLflow {found.mlflow}, from revision {found.before} to {found.after}")
    if found.backup is not None:
        echo(f"backup: {found.backup}")
        echo(str(found.way_back))
