"""What can be served at one moment: an immutable picture of the registry, in which a request looks up its release."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Protocol

from llmops.versions import CHAMPION, ModelVersion, Release
from service.error_map import ApiError


class ReleaseSource(Protocol):
    """Where releases come from: the registry, or a stand-in. Every method may block.

    Each raises `llmops.errors.StoreUnavailable` when the store cannot be reached.
    """

    def apps(self) -> Sequence[str]:
        """Names of all apps that have a release."""
        ...

    def releases(self, app: str) -> Sequence[Release]:
        """Every version of the app, with its aliases. Cheap when nothing changed since the last call."""
        ...

    def model_versions(self) -> Sequence[ModelVersion]:
        """Every registered model version."""
        ...


@dataclass(frozen=True, slots=True)
class Target:
    """What serves one request: a release, or a model version without one. Found once, so versions cannot mix."""

    model: ModelVersion
    release: Release | None = None

    @property
    def ref(self) -> str:
        """`assistant@3` or `smollm2-135m-instruct@1`: what the reply's `model` says."""
        return self.release.ref if self.release is not None else self.model.ref

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The reply headers that name the versions."""
        found = [(b"x-llmops-model", self.model.ref.encode())]
        if self.release is not None:
            found.append((b"x-llmops-release", self.release.ref.encode()))
            found.append((b"x-llmops-prompt", self.release.prompt.ref.encode()))
        return found


@dataclass(frozen=True)
class Snapshot:
    """Releases by app, and model versions. `targets` maps every `model` string a client may send to what serves it."""

    apps: Mapping[str, tuple[Release, ...]]
    models: tuple[ModelVersion, ...] = ()
    targets: Mapping[str, Target] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        targets = {model.ref: Target(model) for model in self.models}
        for releases in self.apps.values():
            targets.update(_names(releases))
        object.__setattr__(self, "targets", targets)

    @property
    def champions(self) -> Mapping[str, ModelVersion]:
        """The model of each app's champion; apps without a champion are left out."""
        return {app: self.targets[app].model for app in self.apps if app in self.targets}

    def resolve(self, model: str) -> Target:
        """Raises ApiError 404, naming what exists."""
        target = self.targets.get(model)
        if target is None:
            raise unknown_model(model, list(self.targets))
        return target

    def holding_back(self, apps: AbstractSet[str], older: Snapshot) -> Snapshot:
        """This snapshot, with the given apps as they were in `older`."""
        if not apps:
            return self
        return Snapshot({**self.apps, **{app: older.apps[app] for app in apps}}, self.models)


def read_snapshot(source: ReleaseSource) -> Snapshot:
    """One look at the registry; blocks. Raises what the source raises."""
    return Snapshot({app: tuple(source.releases(app)) for app in source.apps()}, tuple(source.model_versions()))


def unknown_model(model: str, names: Sequence[str]) -> ApiError:
    """The 404 for a `model` that nothing serves."""
    shown = ", ".join(names[:20]) + (", …; GET /v1/models lists all" if len(names) > 20 else "")
    there_is = f"there is {shown}" if names else "nothing is registered yet"
    return ApiError(404, f"model {model[:100]!r} does not exist; {there_is}", param="model", code="model_not_found")


def _names(releases: Sequence[Release]) -> dict[str, Target]:
    """Every name the releases of one app go by: `app` (its champion), `app@alias`, `app@version`."""
    names: dict[str, Target] = {}
    for release in releases:
        target = Target(release.model, release)
        if CHAMPION in release.aliases:
            names[release.app] = target
        names.update({f"{release.app}@{alias}": target for alias in release.aliases})
        names[release.ref] = target
    return names
