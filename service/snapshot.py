"""What can be served at one moment: an immutable picture of the registry, in which a request looks up its release; and
its keeper, which polls the registry in the background and swaps in what changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from llmops.engines.opening import EnginePool
from llmops.errors import LlmopsError, StoreUnavailable
from llmops.keys import Key
from llmops.load_once import ModelCache, Version
from llmops.processes import run_blocking
from llmops.traffic_policy import TrafficPolicy, position
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

logger = logging.getLogger("llmops.service")

_Named = TypeVar("_Named", Release, TabularVersion)
Arm = Literal["champion", "challenger", "explicit"]


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
    def app(self) -> str | None:
        """What a key must open; None without a release."""
        return None if self.release is None else self.release.app

    @property
    def prompt(self) -> PromptVersion | None:
        """The prompt version that a conversation is rendered with."""
        return self.release.prompt if self.release is not None else self.bare_prompt

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The reply headers that name the versions."""
        headers = [(b"x-llmops-model", self.model.ref.encode())]
        if self.release is not None:
            headers.append((b"x-llmops-release", self.release.ref.encode()))
        if self.prompt is not None:
            headers.append((b"x-llmops-prompt", self.prompt.ref.encode()))
        return headers


@dataclass(frozen=True, slots=True)
class TrafficSplit:
    """An app whose plain traffic is not its champion's alone."""

    champion: Target
    challenger: Target
    policy: TrafficPolicy


class Snapshot:
    """What the registry held at one moment, looked up by what clients send. Nothing in it changes.

    apps: releases by app. targets: every `model` string a client may send → what serves it. tabular: the same of
    tabular models, which are asked by another route. splits: app → its champion and challenger, where a traffic policy
    sends the challenger anything.
    """

    def __init__(self, registered: RegisteredVersions) -> None:
        self.registered, self.apps = registered, registered.releases
        self.targets = {model.ref: Target(model) for model in registered.models}
        for releases in self.apps.values():
            self.targets.update({name: Target(each.model, each) for name, each in _names(releases).items()})
        self.tabular: dict[str, TabularVersion] = {}
        for versions in registered.tabular.values():
            self.tabular.update(_names(versions))
        self.splits = dict(self._split_apps())

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

    def _split_apps(self) -> Iterator[tuple[str, TrafficSplit]]:
        for app, policy in self.registered.policies.items():
            champion, challenger = self.targets.get(app), self.targets.get(f"{app}@{CHALLENGER}")
            if policy.rests or champion is None or challenger is None or champion.ref == challenger.ref:
                continue
            yield app, TrafficSplit(champion, challenger, policy)


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


@dataclass(frozen=True, slots=True)
class Routed:
    """What serves one request.

    arm: `champion` or `challenger` where the client named only the app, `explicit` where it named a version, an alias
    or a model. shadow: what shall answer too, unseen; None for most requests.
    """

    target: Target
    arm: Arm
    shadow: Target | None = None


class Router:
    """Applies traffic policies.

    The same user (or key) of an app stays on one side while the shares are what they are; a larger canary moves some
    from the champion to the challenger and none back. Every worker decides alike, and remembers nothing.

    is_loaded: whether a model's engine can answer at once. A challenger that cannot gets nothing yet.
    """

    def __init__(self, is_loaded: Callable[[ModelVersion], bool]) -> None:
        self._is_loaded = is_loaded

    def choose(
        self, snapshot: Snapshot, model: str, *, request_id: str, user: str | None = None, key: str | None = None
    ) -> Routed:
        """What serves a request for `model`.

        user: as the request names it. key: id of the caller's key. Where a policy sticks to one that is missing, the
        next of user, key, request takes its place. Raises ApiError 404, naming what exists.
        """
        split = snapshot.splits.get(model)
        if split is None:
            return Routed(snapshot.resolve(model), "champion" if model in snapshot.apps else "explicit")
        if not self._is_loaded(split.challenger.model):
            return Routed(split.champion, "champion")
        policy = split.policy
        if policy.is_challengers(model, policy.held_to(user, key, request_id)):
            return Routed(split.challenger, "challenger")
        # Shadowed requests are drawn one by one: a few users' traffic alone would not be a fair sample.
        shadowed = policy.shadow and position(f"{model} shadow", request_id) < policy.shadow
        return Routed(split.champion, "champion", split.challenger if shadowed else None)

    def notes(self, snapshot: Snapshot, callers: Sequence[Key] = ()) -> list[str]:
        """Why apps with a traffic policy are served as if they had none; empty when every policy is in force.

        callers: the keys that are good now.
        """
        registered = snapshot.registered
        notes = [f"traffic policy of {app} cannot be read: {why}" for app, why in registered.policy_problems.items()]
        for app, policy in registered.policies.items():
            split = snapshot.splits.get(app)
            if split is None and not policy.rests:
                notes.append(f"traffic policy of {app} rests: there is no challenger beside a champion")
            elif split is not None and not self._is_loaded(split.challenger.model):
                notes.append(f"traffic policy of {app} waits for the engine of {split.challenger.ref}")
            elif split is not None:
                keys = [caller.id for caller in callers if caller.may_use(app)]
                if (why := policy.lopsided(app, keys)) is not None:
                    notes.append(f"traffic policy of {app}: {why}")
        return notes


class SnapshotKeeper:
    """Holds the current snapshot.

    An app, or a tabular model, moves to a newer snapshot only when its new champion is loaded, so that moving an alias
    never makes a request wait for weights. Engines of challengers that a traffic policy sends anything are loaded and
    kept too. While the source is down, or a champion cannot be loaded, the last good state keeps serving.

    What vanishes from the source while it is served is a fault of the source, not news: it is served on as it was.

    read: gives everything that is registered now, the very object of the last time where nothing has changed. It may
    block, and raises StoreUnavailable when the store cannot be reached. seconds: pause between two looks at it.
    held_back: apps and tabular models whose old champion serves; vanished: those among them that the source has no
    more.
    """

    def __init__(
        self,
        read: Callable[[], RegisteredVersions],
        pool: EnginePool,
        tabular: ModelCache[TabularVersion, Any],
        seconds: float,
    ) -> None:
        self._read, self._pool, self._tabular, self._seconds = read, pool, tabular, seconds
        self._snapshot: Snapshot | None = None
        self._fresh = Snapshot(RegisteredVersions({}))
        self._read_at = 0.0
        self._wake = asyncio.Event()
        self._looked = asyncio.Event()
        self.last_error: str | None = None
        self.held_back: tuple[str, ...] = ()
        self.vanished: tuple[str, ...] = ()
        pool.on_load = self._tabular.on_load = self._wake.set

    @property
    def snapshot(self) -> Snapshot:
        """The current snapshot. Raises StoreUnavailable before the first one was read."""
        if self._snapshot is None:
            raise StoreUnavailable("the registry has not been read yet")
        return self._snapshot

    @property
    def age(self) -> float | None:
        """Seconds since the source was last read with success; None before the first time."""
        return None if self._snapshot is None else time.monotonic() - self._read_at

    async def run(self) -> None:
        """Looks at the source for ever: every `seconds`, and as soon as a preload ended."""
        while True:
            await self.look()
            self._looked.set()
            try:
                async with asyncio.timeout(self._seconds):
                    await self._wake.wait()
            except TimeoutError:
                continue
            self._wake.clear()

    async def wait_for_first_look(self, seconds: float) -> None:
        """Waits until `run` has looked once, however that went; at most so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._looked.wait()

    async def look(self) -> None:
        """One look at the source: begins to load what new champions need, swaps in what is ready."""
        try:
            registered = await run_blocking(self._read, name="read registry")
        except LlmopsError as error:
            self.last_error = str(error)
            return
        except Exception as error:
            logger.exception("the registry cannot be read")
            self.last_error = f"unexpected {type(error).__name__}"
            return
        self.last_error, self._read_at = None, time.monotonic()
        if registered is not self._fresh.registered:
            self._fresh = Snapshot(registered)
        self._swap_in(self._fresh)

    def _swap_in(self, fresh: Snapshot) -> None:
        old = self._snapshot or Snapshot(RegisteredVersions({}))
        self._pin(fresh, old)
        for model in fresh.served_models:
            self._pool.preload(model)
        for version in fresh.tabular_champions.values():
            self._tabular.preload(version)
        waiting = [
            *_waiting(self._pool, old.champions, fresh.champions),
            *_waiting(self._tabular, old.tabular_champions, fresh.tabular_champions),
        ]
        # Those with a champion of which there is no version any more.
        gone = [name for name in old.champions if not fresh.apps.get(name)]
        gone += [name for name in old.tabular_champions if not fresh.registered.tabular.get(name)]
        for name in set(gone) - set(self.vanished):
            logger.error("%s is gone from the registry while it is served; its last champion serves on", name)
        self.vanished = tuple(gone)
        self.held_back = (*waiting, *gone)
        self._snapshot = fresh.holding_back(frozenset(self.held_back), old)
        self._pin(fresh, self._snapshot)

    def _pin(self, *snapshots: Snapshot) -> None:
        self._pool.pin([model for each in snapshots for model in each.served_models])
        self._tabular.pin([version for each in snapshots for version in each.tabular_champions.values()])


def _waiting(pool: ModelCache[Version, Any], old: Mapping[str, Version], new: Mapping[str, Version]) -> list[str]:
    """Whose old champion can serve and whose new one cannot yet."""
    served = [(name, old[name], version) for name, version in new.items() if name in old]
    return [name for name, before, version in served if pool.is_loaded(before) and not pool.is_loaded(version)]
