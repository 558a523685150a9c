"""`llmops traffic`: show, set, clear."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from llmops.cli.output import echo, emit, json_option, say
from llmops.errors import UsageError
from llmops.settings import Settings
from llmops.traffic_policy import STICKY, Sticky, TrafficPolicy, parse_share
from llmops.versions import CHALLENGER, CHAMPION, Release


@click.group()
def command() -> None:
    """Traffic between champion and challenger: canary and shadow. Changes take effect within two seconds."""


@command.command()
@click.argument("app")
@json_option
def show(app: str, as_json: bool) -> None:
    """Show an app's traffic policy, champion and challenger.

    \b
    Example: llmops traffic show assistant
    """
    from llmops.registry import Registry

    registry = Registry(Settings.from_environment())
    _show(app, registry.release_versions.policy(app), list(registry.releases(app)), as_json)


@command.command("set")
@click.argument("app")
@click.option("--canary", metavar="SHARE", help="Share that the challenger answers instead of the champion: 10%, 0.1.")
@click.option("--shadow", metavar="SHARE", help="Share of the rest that the challenger answers too (logged only).")
@click.option("--sticky", type=click.Choice(STICKY), help="Keep a user or a key on one side, or decide per request.")
@json_option
def set_policy(app: str, canary: str | None, shadow: str | None, sticky: Sticky | None, as_json: bool) -> None:
    """Set an app's traffic policy. Omitted options stay unchanged (at first: 0%, 0%, user).

    It applies to plain traffic (`model: assistant`); a request for `assistant@challenger` or `assistant@3` gets exactly
    that. Without a challenger both shares have no effect, so promoting the challenger ends its canary.

    \b
    Example: llmops traffic set assistant --canary 10% --shadow 100% --sticky user
    """
    from llmops.registry import Registry

    if canary is None and shadow is None and sticky is None:
        raise UsageError("give --canary, --shadow or --sticky")
    shares = {
        name: parse_share(f"--{name}", text)
        for name, text in (("canary", canary), ("shadow", shadow))
        if text is not None
    }
    registry = Registry(Settings.from_environment())
    old = registry.release_versions.policy(app) or TrafficPolicy()
    policy = TrafficPolicy.from_mapping({**old.to_mapping(), **shares, "sticky": sticky or old.sticky})
    registry.release_versions.set_policy(app, policy)
    _show(app, policy, list(registry.releases(app)), as_json)


@command.command()
@click.argument("app")
@json_option
def clear(app: str, as_json: bool) -> None:
    """Remove an app's traffic policy: the champion then answers all plain traffic.

    \b
    Example: llmops traffic clear assistant
    """
    from llmops.registry import Registry

    registry = Registry(Settings.from_environment())
    say(f"{app}: {'policy cleared' if registry.release_versions.set_policy(app, None) else 'there was no policy'}")
    _show(app, None, list(registry.releases(app)), as_json)


def _show(app: str, policy: TrafficPolicy | None, releases: list[Release], as_json: bool) -> None:
    champion, challenger = (
        next((release.ref for release in releases if alias in release.aliases), None)
        for alias in (CHAMPION, CHALLENGER)
    )
    rests = policy is not None and not policy.rests and (champion is None or challenger is None)
    value = {
        "app": app,
        "policy": None if policy is None else policy.to_mapping(),
        "champion": champion,
        "challenger": challenger,
        "rests": rests,
        "warning": None if policy is None or rests else lopsided(app, policy),
    }

    def text() -> None:
        echo(f"{app}: {policy or 'no traffic policy'}")
        echo(f"champion {champion or 'none'}, challenger {challenger or 'none'}")
        if rests:
            missing = "champion" if champion is None else "challenger"
            how = f"llmops promote {app}@V" if champion is None else f"llmops release challenge {app}@V"
            echo(f"the policy rests: there is no {missing}; `{how}` makes one")
        if value["warning"]:
            echo(f"warning: {value['warning']}")

    emit(as_json, value, text)


def lopsided(app: str, policy: TrafficPolicy) -> str | None:
    """What `TrafficPolicy.lopsided` says with the keys there are. Raises StoreUnavailable."""
    from llmops.keys import KeyStore

    store = KeyStore(Settings.from_environment().resolved_log_url)
    try:
        now = datetime.now(UTC)
        return policy.lopsided(app, [key.id for key in store.read() if key.live(now) and key.opens(app)])
    finally:
        store.close()
