"""`llmops release`: create, list, show, challenge, withdraw."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Sequence
from typing import Any

import click

from llmops.cli.output import echo, emit, json_option, print_table, say
from llmops.cli.traffic import lopsided
from llmops.errors import UsageError
from llmops.generation import GenerationParameters
from llmops.models.weights import refuse_lost_weights
from llmops.release_guards import parse_guards, shown_guards
from llmops.settings import Settings
from llmops.versions import Release


@click.group()
def command() -> None:
    """Releases: one prompt version + one model version + parameters, the unit that the gateway serves."""


@command.command()
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
    from llmops.engines.opening import check_parameters
    from llmops.registry import Registry

    chosen = parse_guards(guards)
    settings = Settings.from_environment()
    registry = Registry(settings)
    prompt_version, model_version = registry.prompts.get(prompt), registry.models.get(model)
    refuse_lost_weights(model_version, settings)
    parameters = overridden(prompt_version.template.parameters, params)
    check_parameters(model_version, settings, parameters)
    release, new = registry.release_versions.create(app, prompt_version, model_version, parameters, chosen)
    say(f"{release.ref} {'created' if new else 'has this content already'}")
    emit(as_json, {**to_json(release), "new": new}, lambda: _table([release]))


@command.command("list")
@click.argument("app")
@json_option
def list_releases(app: str, as_json: bool) -> None:
    """List an app's releases, and which one is served.

    \b
    Example: llmops release list assistant
    """
    from llmops.registry import Registry, rolled_back

    registry = Registry(Settings.from_environment())
    releases, left = registry.releases(app), rolled_back(registry.release_versions.history(app))
    shown = [{**to_json(release), "rolled_back": release.ref in left} for release in releases]
    if not releases:
        apps = registry.apps()
        say(f"no app {app}; {'there are ' + ', '.join(apps) if apps else 'no app has a release yet'}")
    emit(as_json, {"releases": shown}, lambda: _table(releases, left))


@command.command()
@click.argument("release")
@json_option
def show(release: str, as_json: bool) -> None:
    """Show one release, its gates, and the app's promotions.

    \b
    Example: llmops release show assistant@1
    """
    from llmops.registry import Registry

    registry = Registry(Settings.from_environment())
    found = registry.release_versions.get(release)
    gates, history = registry.release_versions.gates(found), registry.release_versions.history(found.app)

    def table() -> None:
        _table([found])
        for suite, gate in gates.items():
            echo(f"gate {suite}: {gate['verdict']} against {gate['against'] or 'no champion'} ({gate['at']})")
            for reason in gate["reasons"]:
                echo(f"  {reason}")
        for move in history:
            old, new = move["from"] or "nothing", move["to"] or "nothing"
            echo(f"{move['at']} {move['what']}: {old} → {new} ({move['why']})")

    emit(as_json, {**to_json(found), "gates": gates, "history": history}, table)


@command.command()
@click.argument("release")
@json_option
def challenge(release: str, as_json: bool) -> None:
    """Make a release the challenger, to which a traffic policy sends its share (see `llmops traffic`).

    It stays the challenger until it is promoted or `llmops release withdraw` removes it.

    \b
    Example: llmops release challenge assistant@2
    """
    from llmops.registry import Registry

    settings = Settings.from_environment()
    registry = Registry(settings)
    found = registry.release_versions.get(release)
    refuse_lost_weights(found.model, settings)
    old = registry.release_versions.challenge(found)
    was = old.ref if old is not None and old.version != found.version else None
    value = {"app": found.app, "challenger": found.ref, "was": was}
    emit(as_json, value, lambda: echo(f"{found.app}: challenger is {found.ref} (was {was or 'none'})"))
    policy = registry.release_versions.policy(found.app)
    if policy is not None and (warning := lopsided(found.app, policy)) is not None:
        say(f"warning: {warning}")


@command.command()
@click.argument("app")
@json_option
def withdraw(app: str, as_json: bool) -> None:
    """Withdraw an app's challenger: the champion then answers all plain traffic.

    \b
    Example: llmops release withdraw assistant
    """
    from llmops.registry import Registry

    old = Registry(Settings.from_environment()).release_versions.withdraw(app)
    was = old.ref if old is not None else None
    value = {"app": app, "challenger": None, "was": was}
    emit(as_json, value, lambda: echo(f"{app}: no challenger (was {was or 'none'})"))


def overridden(parameters: GenerationParameters, params: Sequence[str]) -> GenerationParameters:
    """`parameters` with `k=v` texts laid over them; a value is read as JSON, else as text. Raises UsageError."""
    values: dict[str, Any] = {}
    for text in params:
        name, sign, value = text.partition("=")
        if not sign:
            raise UsageError(f"--param {text}: must be NAME=VALUE")
        try:
            values[name] = json.loads(value)
        except ValueError:
            values[name] = value
    checked = GenerationParameters.from_mapping(values)
    return dataclasses.replace(parameters, **{name: getattr(checked, name) for name in values})


def to_json(release: Release) -> dict[str, Any]:
    """The contract's shape of a release."""
    return {
        "app": release.app,
        "version": release.version,
        "prompt": release.prompt.ref,
        "model": release.model.ref,
        "parameters": release.parameters.to_mapping(),
        "guards": dict(release.guards),
        "aliases": list(release.aliases),
    }


def _table(releases: Sequence[Release], left: Collection[str] = ()) -> None:
    """left: the releases that were rolled back."""
    rows = [
        (r.ref, r.prompt.ref, r.model.ref, ", ".join([*r.aliases, *["rolled back"] * (r.ref in left)]), _shown(r))
        for r in releases
    ]
    print_table("Releases", ("release", "prompt", "model", "aliases", "parameters and guards"), rows)


def _shown(release: Release) -> str:
    values = release.parameters.to_mapping()
    fixed = {"response_format": values["response_format"] and values["response_format"]["type"]}
    shown = [f"{key}={value}" for key, value in {**values, **fixed}.items() if value not in (None, [])]
    return ", ".join([*shown, *shown_guards(release.guards)])
