"""`llmops rollback`."""

from __future__ import annotations

import click

from llmops.cli.output import echo, emit, json_option
from llmops.errors import UsageError
from llmops.settings import Settings


@click.command()
@click.argument("app")
@click.option("--force", is_flag=True, help="Return to a version that was itself rolled back; needs --why.")
@click.option("--why", help="The reason for a forced rollback; it is recorded.")
@json_option
def command(app: str, force: bool, why: str | None, as_json: bool) -> None:
    """Make the previous champion the champion again.

    A second call would restore the rolled-back version, so it is refused. If the rollback was a mistake, undo it with
    --force --why TEXT.

    \b
    Example: llmops rollback assistant
    Example: llmops rollback assistant --force --why "the alarm was the upstream's, not the release's"
    """
    from llmops.registry import Registry

    if force != bool(why):
        raise UsageError("--force and --why TEXT go together")
    registry = Registry(Settings.from_environment())
    tabular = app in registry.tabular_versions.names()
    new, old = (registry.tabular_versions if tabular else registry.release_versions).roll_back(app, why=why)
    value = {"app": app, "champion": new.ref, "previous": old.ref, "forced": force}
    emit(as_json, value, lambda: echo(f"{app}: champion is {new.ref} (was {old.ref})"))
