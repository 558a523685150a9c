"""Which version answers a request: what the client named, or the app's traffic policy's choice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from llmops.traffic_policy import Sticky
from llmops.versions import ModelVersion
from service.snapshot import Snapshot, Target

Arm = Literal["champion", "challenger", "explicit"]

_WHOLE = 2.0**64


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
        if policy.canary and position(model, _held_to(policy.sticky, user, key, request_id)) < policy.canary:
            return Routed(split.challenger, "challenger")
        # Shadowed requests are drawn one by one: a few users' traffic alone would not be a fair sample.
        shadowed = policy.shadow and position(f"{model} shadow", request_id) < policy.shadow
        return Routed(split.champion, "champion", split.challenger if shadowed else None)

    def notes(self, snapshot: Snapshot) -> list[str]:
        """Why apps with a traffic policy are served as if they had none; empty when every policy is in force."""
        registered = snapshot.registered
        found = [f"traffic policy of {app} cannot be read: {why}" for app, why in registered.policy_problems.items()]
        for app, policy in registered.policies.items():
            split = snapshot.splits.get(app)
            if split is None and not policy.rests:
                found.append(f"traffic policy of {app} rests: there is no challenger beside a champion")
            elif split is not None and not self._is_loaded(split.challenger.model):
                found.append(f"traffic policy of {app} waits for the engine of {split.challenger.ref}")
        return found


def position(salt: str, value: str) -> float:
    """A place in [0, 1) that depends on salt and value alone, evenly spread over values."""
    digest = hashlib.blake2b(f"{salt}\0{value}".encode(errors="surrogatepass"), digest_size=8).digest()
    # The top 53 bits: all that a float holds, so that no place is rounded up to 1.
    return (int.from_bytes(digest) >> 11 << 11) / _WHOLE


def _held_to(sticky: Sticky, user: str | None, key: str | None, request_id: str) -> str:
    if sticky == "user" and user:
        return f"user {user}"
    if sticky != "request" and key:
        return f"key {key}"
    return request_id
