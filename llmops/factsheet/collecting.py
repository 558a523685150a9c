"""Puts a fact sheet together: everything that registry, runs and audit log know of one version."""

from __future__ import annotations

import dataclasses

from llmops import __version__
from llmops.errors import UnknownVersion
from llmops.factsheet.contents import Factsheet, Model, Prompt, Registered
from llmops.factsheet.evaluations import data_of, evaluations_of, gates_of, recorded_of
from llmops.factsheet.history import AuditTrail, audit_trail, history_of
from llmops.factsheet.limits import limits_of, unknown_of
from llmops.factsheet.monitoring import monitoring_of
from llmops.factsheet.tabular import tabular_sheet
from llmops.factsheet.times import iso, now
from llmops.recording.facts import Registration, prompt_registration, registration, shown_store
from llmops.registry import Registry
from llmops.release_guards import shown_guards
from llmops.versions import ModelVersion, PromptVersion, Ref, Release


def make_factsheet(registry: Registry, ref: str) -> Factsheet:
    """The sheet of a release or a tabular model: `assistant@3`, `bike@champion`, or `assistant` (its champion).

    Raises:
        UnknownVersion: there is no such version; names those there are. UsageError: `ref` is no name of one.
        StoreUnavailable, Corrupted.
    """
    name, apps, models = Ref.parse(ref).name, registry.apps(), registry.tabular_versions.names()
    if name in apps:
        sheet = _of_release(registry, registry.release_versions.get(ref))
    elif name in models:
        sheet = tabular_sheet(registry, registry.tabular_versions.get(ref))
    else:
        known = ", ".join([*apps, *models]) or "none"
        raise UnknownVersion(f"no app or tabular model {name!r} is registered; there are: {known}")
    return dataclasses.replace(sheet, limits=limits_of(sheet), unknown=unknown_of(sheet))


def _of_release(registry: Registry, release: Release) -> Factsheet:
    store = registry.store
    gates_on_record = registry.release_versions.gates(release)
    trail = audit_trail(registry, release.app)
    history = history_of(trail, registry.release_versions.history(release.app), release)
    recorded = recorded_of(store, release, gates_on_record)
    return Factsheet(
        ref=release.ref,
        kind="release",
        made_at=now(),
        llmops=__version__,
        store=shown_store(store),
        aliases=release.aliases,
        description="",
        registered=tuple(_registered(registry, release, trail)),
        parameters={name: value for name, value in release.parameters.to_mapping().items() if value not in (None, [])},
        guards=tuple(shown_guards(release.guards)),
        prompt=_prompt(release.prompt),
        model=_model(release.model),
        data=data_of(recorded),
        evaluations=evaluations_of(store, recorded, gates_on_record),
        further_runs=recorded.further,
        other_parameters=recorded.others,
        gates=gates_of(gates_on_record, recorded.verdicts, trail, release.ref),
        history=history,
        monitoring=monitoring_of(store, release.app, release.ref, history.periods),
    )


def _registered(registry: Registry, release: Release, trail: AuditTrail) -> list[Registered]:
    store, prompt, model = registry.store, release.prompt, release.model
    return [
        _part("release", release.ref, registration(store, release.app, release.version), trail),
        _part("prompt", prompt.ref, prompt_registration(store, prompt.name, prompt.version), trail),
        _part("model", model.ref, registration(store, model.name, model.version), trail),
    ]


def _prompt(prompt: PromptVersion) -> Prompt:
    template = prompt.template
    turns = tuple((turn["role"], turn["content"]) for turn in template.turns)
    return Prompt(prompt.ref, template.content_hash, template.input_variable, turns, template.description)


def _model(model: ModelVersion) -> Model:
    return Model(
        model.ref,
        model.source,
        model.format,
        model.sha256,
        model.licence or None,
        model.size_bytes or None,
        dict(model.provenance),
    )


def _part(what: str, ref: str, found: Registration, trail: AuditTrail) -> Registered:
    """A part of a version, with who registered it and when, by the audit log before MLflow."""
    return Registered(what, ref, iso(found.at), trail.registrar(ref) or found.by)
