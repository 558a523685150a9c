"""`llmops rollback`."""

from __future__ import annotations

import click

from llmops.cli.output import echo, emit, json_option
from llmops.settings import Settings


@click.command()
@click.argument("app")
@json_option
def command(app: str, as_json: bool) -> None:
    """Make the previous champion the champion again.

    \b
    Example: llmops rollback assistant
    """
    from llmops.registry import Registry

    registry = Registry(Settings.from_environment())
    tabular = app in registry.tabular_versions.names()
    new, old = (registry.tabular_versions if tabular else registry.release_versions).roll_back(app)
    value = {"app": app, "champion": new.ref, "previous": old.ref}
    emit(as_json, value, lambda: echo(f"{app}: champion is {new.ref} (was {old.ref})"))
