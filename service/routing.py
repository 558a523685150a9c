"""Which version answers a request: what the client named, or the app's traffic policy's choice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from llmops.traffic_policy import position
from llmops.versions import ModelVersion
from service.caller import Caller
from service.snapshot import Snapshot, Target

Arm = Literal["champion", "challenger", "explicit"]


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

    def notes(self, snapshot: Snapshot, callers: Sequence[Caller] = ()) -> list[str]:
        """Why apps with a traffic policy are served as if they had none; empty when every policy is in force.

        callers: whose keys are good now.
        """
        registered = snapshot.registered
        found = [f"traffic policy of {app} cannot be read: {why}" for app, why in registered.policy_problems.items()]
        for app, policy in registered.policies.items():
            split = snapshot.splits.get(app)
            if split is None and not policy.rests:
                found.append(f"traffic policy of {app} rests: there is no challenger beside a champion")
            elif split is not None and not self._is_loaded(split.challenger.model):
                found.append(f"traffic policy of {app} waits for the engine of {split.challenger.ref}")
            elif split is not None:
                keys = [caller.key_id for caller in callers if caller.key_id is not None and caller.may_use(app)]
                if (why := policy.lopsided(app, keys)) is not None:
                    found.append(f"traffic policy of {app}: {why}")
        return found
