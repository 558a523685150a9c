"""What can be served at one moment: an immutable picture of the registry, in which a request looks up its release."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from llmops.traffic_policy import TrafficPolicy
from llmops.versions import (
    CHALLENGER,
    CHAMPION,
    ModelVersion,
    PromptVersion,
    RegisteredVersions,
    Release,
    TabularVersion,
)
from service.error_map import ApiError

_Named = TypeVar("_Named", Release, TabularVersion)


class ReleaseSource(Protocol):
    """Where releases, and tabular models, come from: the registry, or a stand-in."""

    def registered(self) -> RegisteredVersions:
        """Everything there is now: releases and tabular models with their aliases, model versions, traffic policies.
        May block.

        Called every second: it should be cheap when nothing changed, and then return the very object of the last call.
        Raises `llmops.errors.StoreUnavailable` when the store cannot be reached.
        """
        ...


@dataclass(frozen=True, slots=True)
class Target:
    """What serves one request: a release, or a model version without one. Found once, so versions cannot mix.

    bare_prompt: without a release, the registered prompt that a request chose for the model.
    """

    model: ModelVersion
    release: Release | None = None
    bare_prompt: PromptVersion | None = None

    @property
    def ref(self) -> str:
        """`assistant@3` or `smollm2-135m-instruct@1`: what the reply's `model` says."""
        return self.release.ref if self.release is not None else self.model.ref

    @property
    def prompt(self) -> PromptVersion | None:
        """The prompt version that a conversation is rendered with."""
        return self.release.prompt if self.release is not None else self.bare_prompt

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The reply headers that name the versions."""
        found = [(b"x-llmops-model", self.model.ref.encode())]
        if self.release is not None:
            found.append((b"x-llmops-release", self.release.ref.encode()))
        if self.prompt is not None:
            found.append((b"x-llmops-prompt", self.prompt.ref.encode()))
        return found


@dataclass(frozen=True, slots=True)
class Split:
    """An app whose plain traffic is not its champion's alone."""

    champion: Target
    challenger: Target
    policy: TrafficPolicy


@dataclass(frozen=True)
class Snapshot:
    """What the registry held at one moment, looked up by what clients send.

    targets: every `model` string a client may send → what serves it. tabular: the same of tabular models, which are
    asked by another route. splits: app → its champion and challenger, where a traffic policy sends the challenger
    anything.
    """

    registered: RegisteredVersions
    targets: Mapping[str, Target] = field(init=False, repr=False, compare=False)
    tabular: Mapping[str, TabularVersion] = field(init=False, repr=False, compare=False)
    splits: Mapping[str, Split] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        targets = {model.ref: Target(model) for model in self.registered.models}
        for releases in self.apps.values():
            targets.update({name: Target(each.model, each) for name, each in _names(releases).items()})
        object.__setattr__(self, "targets", targets)
        tabular = (_names(versions).items() for versions in self.registered.tabular.values())
        object.__setattr__(self, "tabular", dict(itertools.chain.from_iterable(tabular)))
        object.__setattr__(self, "splits", dict(self._split_apps()))

    @property
    def apps(self) -> Mapping[str, tuple[Release, ...]]:
        """Releases by app."""
        return self.registered.releases

    @property
    def models(self) -> tuple[ModelVersion, ...]:
        """Every model version."""
        return self.registered.models

    @property
    def champions(self) -> Mapping[str, ModelVersion]:
        """The model of each app's champion; apps without a champion are left out."""
        return {app: self.targets[app].model for app in self.apps if app in self.targets}

    @property
    def tabular_champions(self) -> Mapping[str, TabularVersion]:
        """The champion of each tabular model; those without a champion are left out."""
        return {name: self.tabular[name] for name in self.registered.tabular if name in self.tabular}

    @property
    def served_models(self) -> list[ModelVersion]:
        """The models that plain traffic needs: those of the champions, and of the challengers that get any."""
        return [*self.champions.values(), *(split.challenger.model for split in self.splits.values())]

    def resolve(self, model: str) -> Target:
        """Raises ApiError 404, naming what exists."""
        target = self.targets.get(model)
        if target is None:
            raise unknown_model(model, list(self.targets))
        return target

    def holding_back(self, names: AbstractSet[str], older: Snapshot) -> Snapshot:
        """This snapshot, with the given apps' releases, and tabular models' versions, as they were in `older`;
        policies are this one's always."""
        if not names:
            return self
        releases = {**self.apps, **{name: older.apps[name] for name in names & older.apps.keys()}}
        before = older.registered.tabular
        tabular = {**self.registered.tabular, **{name: before[name] for name in names & before.keys()}}
        return Snapshot(dataclasses.replace(self.registered, releases=releases, tabular=tabular))

    def _split_apps(self) -> Iterator[tuple[str, Split]]:
        for app, policy in self.registered.policies.items():
            champion, challenger = self.targets.get(app), self.targets.get(f"{app}@{CHALLENGER}")
            if policy.rests or champion is None or challenger is None or champion.ref == challenger.ref:
                continue
            yield app, Split(champion, challenger, policy)


def unknown_model(model: str, names: Sequence[str]) -> ApiError:
    """The 404 for a `model` that nothing serves."""
    shown = ", ".join(names[:20]) + (", …; GET /v1/models lists all" if len(names) > 20 else "")
    there_is = f"there is {shown}" if names else "none is registered that this caller may use"
    return ApiError(404, f"model {model[:100]!r} does not exist; {there_is}", param="model", code="model_not_found")


def _names(versions: Sequence[_Named]) -> dict[str, _Named]:
    """Every name the versions of one app or model go by: `app` (its champion), `app@alias`, `app@version`."""
    names: dict[str, _Named] = {}
    for version in versions:
        if CHAMPION in version.aliases:
            names[version.name] = version
        names.update({f"{version.name}@{alias}": version for alias in version.aliases})
        names[version.ref] = version
    return names
