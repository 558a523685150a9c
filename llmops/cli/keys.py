"""`llmops keys`: create, list, revoke."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from llmops.cli.output import echo, emit, json_option, print_table, say, shown_time
from llmops.settings import Settings
from llmops.versions import whole_id

if TYPE_CHECKING:
    from llmops.keys import Key, KeyStore

_POSITIVE = click.IntRange(1)


@click.group()
def command() -> None:
    """Gateway keys: once one exists, every request needs one. Changes take effect within 2 s."""


@command.command()
@click.option("--name", default="", help="Name of the key's owner, for people.")
@click.option(
    "--app", "apps", multiple=True, help="App that the key may use (repeatable); default: all, and bare models."
)
@click.option("--admin", is_flag=True, help="Also allow access to /metrics.")
@click.option(
    "--requests-per-minute", type=_POSITIVE, metavar="N", help="Beyond it, the reply is 429. Default: no limit."
)
@click.option("--tokens-per-minute", type=_POSITIVE, metavar="N", help="Input and output tokens. Default: no limit.")
@click.option("--tokens-per-day", type=_POSITIVE, metavar="N", help="Input and output tokens. Default: no limit.")
@click.option("--expires", type=click.FloatRange(0, 36500, min_open=True), metavar="DAYS", help="Default: never.")
@json_option
def create(
    name: str,
    apps: Sequence[str],
    admin: bool,
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    tokens_per_day: int | None,
    expires: float | None,
    as_json: bool,
) -> None:
    """Create a key and print it. It is shown only once, and stored hashed.

    \b
    Example: llmops keys create --name website --app assistant --requests-per-minute 600
    """
    store = _open()
    key, text = store.create(
        name,
        apps=apps or None,
        admin=admin,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        tokens_per_day=tokens_per_day,
        expires_at=None if expires is None else datetime.now(UTC) + timedelta(days=expires),
    )
    say(f"key {key.id}: keep what is printed, it is not shown again; clients send `Authorization: Bearer <key>`")
    emit(as_json, {**key.to_json(), "key": text}, lambda: echo(text))


@command.command("list")
@json_option
def list_keys(as_json: bool) -> None:
    """List keys, including revoked ones, without their secrets.

    \b
    Example: llmops keys list
    """
    keys = _open().read()
    emit(as_json, {"keys": [key.to_json() for key in keys]}, lambda: _table(keys))


@command.command()
@click.argument("key_id", metavar="ID")
@json_option
def revoke(key_id: str, as_json: bool) -> None:
    """Revoke a key permanently: gateways refuse it within 2 s. ID: from `list`, or its beginning, or the key itself.

    \b
    Example: llmops keys revoke 3f9c0a5d71e2
    """
    from llmops.keys import parse_key

    store = _open()
    whole = parse_key(key_id)
    given = key_id if whole is None else whole[0]
    key = store.revoke(whole_id(given, [each.id for each in store.read()], "key", "llmops keys list"))
    if not store.has_live_key():
        say("no live key is left: gateways now let nobody in; `llmops keys create` makes one")
    emit(as_json, key.to_json(), lambda: echo(f"revoked {key.id}"))


def _open() -> KeyStore:
    from llmops.keys import KeyStore

    settings = Settings.from_environment()
    return KeyStore(settings.resolved_log_url, home=settings.home)


def _table(keys: Sequence[Key]) -> None:
    rows = []
    for key in keys:
        limits = [f"{name.replace('_', ' ')}: {value}" for name, value in key.limits().items() if value is not None]
        state = "live"
        if key.revoked_at is not None:
            state = f"revoked {shown_time(key.revoked_at)}"
        elif key.expires_at is not None:
            state = f"{'until' if key.live(datetime.now(UTC)) else 'expired'} {shown_time(key.expires_at)}"
        apps, admin = "all" if key.apps is None else ", ".join(key.apps), "yes" if key.admin else ""
        rows.append((key.id, key.name, apps, admin, ", ".join(limits), shown_time(key.created_at), state))
    print_table("Keys", ("id", "name", "apps", "admin", "limits", "created", "state"), rows)
