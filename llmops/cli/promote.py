"""`llmops promote`."""

from __future__ import annotations

import click

from llmops.cli.output import emit, json_option
from llmops.errors import UsageError
from llmops.settings import Settings


@click.command()
@click.argument("release")
@click.option("--force", is_flag=True, help="Promote without a passing gate; needs --why.")
@click.option("--why", help="The reason for a forced promotion; it is recorded.")
@json_option
def command(release: str, force: bool, why: str | None, as_json: bool) -> None:
    """Make a release the champion; the old champion becomes `previous`.

    Refused without a passing gate against the present champion on record.

    \b
    Example: llmops promote assistant@2
    Example: llmops promote assistant@1 --force --why "hot fix, evaluated by hand"
    """
    from llmops.registry import Registry

    if force != bool(why):
        raise UsageError("--force and --why TEXT go together")
    registry = Registry(Settings.from_environment())
    found = registry.release_versions.get(release)
    old = registry.release_versions.promote(found, why=why)
    previous = old.ref if old and old.version != found.version else None
    value = {"app": found.app, "champion": found.ref, "previous": previous, "forced": force}
    emit(as_json, value, lambda: click.echo(f"{found.app}: champion is {found.ref} (was {old.ref if old else 'none'})"))
