"""`llmops release`, `llmops rollback` and `llmops traffic`: releases, the champion, and traffic to a challenger."""

from collections.abc import Sequence
from datetime import UTC, datetime

import click

from llmops.api.versions import create_release, release_json, release_table
from llmops.api.versions import promote as promote_version
from llmops.api.versions import rollback as roll_back
from llmops.cli.output import echo, emit, emit_result, json_option, json_values, say, show
from llmops.cli.registry import open_registry
from llmops.errors import UsageError
from llmops.models.weights import refuse_lost_weights
from llmops.settings import Settings
from llmops.traffic_policy import STICKY, Sticky, TrafficPolicy, parse_share
from llmops.versions import CHALLENGER, CHAMPION, Release


@click.group()
def release() -> None:
    """Releases: one prompt version + one model version + parameters, the unit that the gateway serves."""


@release.command()
@click.argument("app")
@click.option("--prompt", required=True, help="Prompt version, such as qa@2.")
@click.option("--model", required=True, help="Model version, such as smollm2-135m-instruct@1.")
@click.option("--param", "params", multiple=True, metavar="K=V", help="Generation parameter; overrides the prompt's.")
@click.option(
    "--guard", "guards", multiple=True, metavar="GUARD",
    help="Guard that the gateway applies: redact-pii (in the log), redact-pii-engine (in the engine's input too), "
    "block=REGEX, max-output=TOKENS.",
)  # fmt: skip
@json_option
def create(app: str, prompt: str, model: str, params: Sequence[str], guards: Sequence[str], as_json: bool) -> None:
    """Create a release; the same content gives the same release.

    \b
    Example: llmops release create assistant --prompt qa@2 --model smollm2-135m-instruct@1 --param max_tokens=48
    Example: llmops release create assistant --prompt qa@2 --model smollm2-135m-instruct@1 --guard redact-pii
    """
    parameters = json_values("--param", params)
    emit_result(as_json, create_release(app, prompt=prompt, model=model, parameters=parameters, guards=guards))


@release.command("list")
@click.argument("app")
@json_option
def list_releases(app: str, as_json: bool) -> None:
    """List an app's releases, and which one is served.

    \b
    Example: llmops release list assistant
    """
    from llmops.registry import rolled_back

    registry = open_registry()
    releases, left = registry.release_versions.versions(app), rolled_back(registry.release_versions.history(app))
    shown = [{**release_json(each), "rolled_back": each.ref in left} for each in releases]
    if not releases:
        apps = registry.release_versions.names()
        say(f"no app {app}; {'there are ' + ', '.join(apps) if apps else 'no app has a release yet'}")
    emit(as_json, {"releases": shown}, lambda: show([release_table(releases, left)]))


@release.command("show")
@click.argument("release_ref", metavar="RELEASE")
@json_option
def show_release(release_ref: str, as_json: bool) -> None:
    """Show one release, its gates, and the app's promotions.

    \b
    Example: llmops release show assistant@1
    """
    registry = open_registry()
    found = registry.release_versions.get(release_ref)
    gates, history = registry.release_versions.gates(found), registry.release_versions.history(found.app)

    def table() -> None:
        show([release_table([found])])
        for suite, gate in gates.items():
            echo(f"gate {suite}: {gate['verdict']} against {gate['against'] or 'no champion'} ({gate['at']})")
            for reason in gate["reasons"]:
                echo(f"  {reason}")
        for move in history:
            old, new = move["from"] or "nothing", move["to"] or "nothing"
            echo(f"{move['at']} {move['what']}: {old} → {new} ({move['why']})")

    emit(as_json, {**release_json(found), "gates": gates, "history": history}, table)


@release.command()
@click.argument("release_ref", metavar="RELEASE")
@json_option
def challenge(release_ref: str, as_json: bool) -> None:
    """Make a release the challenger, to which a traffic policy sends its share (see `llmops traffic`).

    It stays the challenger until it is promoted or `llmops release withdraw` removes it.

    \b
    Example: llmops release challenge assistant@2
    """
    settings = Settings.from_environment()
    registry = open_registry()
    found = registry.release_versions.get(release_ref)
    refuse_lost_weights(found.model, settings)
    old = registry.release_versions.challenge(found)
    was = old.ref if old is not None and old.version != found.version else None
    value = {"app": found.app, "challenger": found.ref, "was": was}
    emit(as_json, value, lambda: echo(f"{found.app}: challenger is {found.ref} (was {was or 'none'})"))
    policy = registry.release_versions.policy(found.app)
    if policy is not None and (warning := lopsided(found.app, policy)) is not None:
        say(f"warning: {warning}")


@release.command()
@click.argument("app")
@json_option
def withdraw(app: str, as_json: bool) -> None:
    """Withdraw an app's challenger: the champion then answers all plain traffic.

    \b
    Example: llmops release withdraw assistant
    """
    old = open_registry().release_versions.withdraw(app)
    was = old.ref if old is not None else None
    value = {"app": app, "challenger": None, "was": was}
    emit(as_json, value, lambda: echo(f"{app}: no challenger (was {was or 'none'})"))


@click.command()
@click.argument("release_ref", metavar="RELEASE")
@click.option("--force", is_flag=True, help="Promote without a passing gate, or a rolled-back version; needs --why.")
@click.option("--why", help="The reason for a forced promotion; it is recorded.")
@json_option
def promote(release_ref: str, force: bool, why: str | None, as_json: bool) -> None:
    """Make a release, or a tabular model's version, the champion; the old champion becomes `previous`.

    Refused without a recorded passing gate against the current champion, and for a rolled-back version. The monitor
    then uses a new reference, as configured.

    \b
    Example: llmops promote assistant@2
    Example: llmops promote assistant@1 --force --why "hot fix, evaluated by hand"
    """
    emit_result(as_json, promote_version(release_ref, force=force, why=why))


@click.command()
@click.argument("app")
@click.option("--force", is_flag=True, help="Return to a version that was itself rolled back; needs --why.")
@click.option("--why", help="The reason for a forced rollback; it is recorded.")
@json_option
def rollback(app: str, force: bool, why: str | None, as_json: bool) -> None:
    """Make the previous champion the champion again.

    A second call would restore the rolled-back version, so it is refused. If the rollback was a mistake, undo it with
    --force --why TEXT.

    \b
    Example: llmops rollback assistant
    Example: llmops rollback assistant --force --why "the alarm was the upstream's, not the release's"
    """
    emit_result(as_json, roll_back(app, force=force, why=why))


@click.group()
def traffic() -> None:
    """Traffic between champion and challenger: canary and shadow. Changes take effect within two seconds."""


@traffic.command("show")
@click.argument("app")
@json_option
def show_traffic(app: str, as_json: bool) -> None:
    """Show an app's traffic policy, champion and challenger.

    \b
    Example: llmops traffic show assistant
    """
    registry = open_registry()
    _show_traffic(app, registry.release_versions.policy(app), registry.release_versions.versions(app), as_json)


@traffic.command("set")
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
    if canary is None and shadow is None and sticky is None:
        raise UsageError("give --canary, --shadow or --sticky")
    shares = {
        name: parse_share(f"--{name}", text)
        for name, text in (("canary", canary), ("shadow", shadow))
        if text is not None
    }
    registry = open_registry()
    old = registry.release_versions.policy(app) or TrafficPolicy()
    policy = TrafficPolicy.from_mapping({**old.to_mapping(), **shares, "sticky": sticky or old.sticky})
    registry.release_versions.set_policy(app, policy)
    _show_traffic(app, policy, registry.release_versions.versions(app), as_json)


@traffic.command()
@click.argument("app")
@json_option
def clear(app: str, as_json: bool) -> None:
    """Remove an app's traffic policy: the champion then answers all plain traffic.

    \b
    Example: llmops traffic clear assistant
    """
    registry = open_registry()
    say(f"{app}: {'policy cleared' if registry.release_versions.set_policy(app, None) else 'there was no policy'}")
    _show_traffic(app, None, registry.release_versions.versions(app), as_json)


def _show_traffic(app: str, policy: TrafficPolicy | None, releases: list[Release], as_json: bool) -> None:
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
        return policy.lopsided(app, [key.id for key in store.read() if key.live(now) and key.may_use(app)])
    finally:
        store.close()
