"""How an app's traffic is shared out between its champion and its challenger."""

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from llmops.errors import UsageError

Sticky = Literal["user", "key", "request"]
_WHOLE = 2.0**64
STICKY: tuple[Sticky, ...] = get_args(Sticky)


@dataclass(frozen=True, slots=True)
class TrafficPolicy:
    """What of an app's plain traffic (`model: assistant`) its challenger gets; explicit `assistant@…` is never touched.

    canary: share, 0 to 1, that the challenger answers instead of the champion. shadow: share, 0 to 1, of the requests
    that the champion answers which the challenger answers too; that answer is logged and never returned. sticky: what
    stays on one side: a `user` (as the request names it), a `key`, or nothing but the `request`.

    Both shares rest while the app has no challenger.
    """

    canary: float = 0.0
    shadow: float = 0.0
    sticky: Sticky = "user"

    def __post_init__(self) -> None:
        """Raises UsageError starting with the field at fault."""
        for name in ("canary", "shadow"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise UsageError(f"{name}: must be a share from 0 to 1, not {value!r}")
        if self.sticky not in STICKY:
            raise UsageError(f"sticky: must be {', '.join(STICKY[:-1])} or {STICKY[-1]}, not {self.sticky!r}")

    @classmethod
    def from_mapping(cls, values: Any) -> Self:
        """Checked construction from stored values. Raises UsageError starting with the field at fault."""
        if not isinstance(values, Mapping):
            raise UsageError(f"traffic policy: must be an object, not {type(values).__name__}")
        for name in values:
            if name not in cls.__slots__:
                raise UsageError(f"{name}: unknown field of a traffic policy; known: {', '.join(cls.__slots__)}")
        return cls(**values)

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Reads `to_text`'s form. Raises UsageError starting with the field at fault."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"traffic policy: is not JSON: {text[:100]!r}") from error
        return cls.from_mapping(values)

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON values, every field named."""
        return {"canary": float(self.canary), "shadow": float(self.shadow), "sticky": self.sticky}

    def to_text(self) -> str:
        return json.dumps(self.to_mapping())

    def held_to(self, user: str | None, key: str | None, request_id: str) -> str:
        """What decides on which side a request is answered: of user, key and request the first that the policy sticks
        to, where a missing one gives way to the next."""
        if self.sticky == "user" and user:
            return f"user {user}"
        if self.sticky != "request" and key:
            return f"key {key}"
        return request_id

    def is_challengers(self, app: str, held_to: str) -> bool:
        """Whether the challenger answers it: by its place among all of the app's."""
        return bool(self.canary) and position(app, held_to) < self.canary

    def lopsided(self, app: str, keys: Collection[str]) -> str | None:
        """Why one side may get all of the traffic, whatever the canary's share; None where nothing says so.

        keys: ids of the live keys that open the app. Each stays on one side, and with few of them all may fall to one.
        """
        if self.sticky == "request" or not 0 < self.canary < 1 or not keys:
            return None
        taken = sum(self.is_challengers(app, f"key {key}") for key in keys)
        if 0 < taken < len(keys):
            return None
        side = "challenger" if taken else "champion"
        whose = "the one live key" if len(keys) == 1 else f"all {len(keys)} live keys"
        without = "" if self.sticky == "key" else " that name no `user`"
        by_user = "--sticky user where clients send `user`" if self.sticky == "key" else "have clients send `user`"
        return (
            f"requests{without} of {whose} go to the {side} alone, whatever the share, for they stay with their key: "
            f"{by_user}, or set --sticky request, which spreads them one by one"
        )

    @property
    def rests(self) -> bool:
        """Whether all plain traffic is the champion's alone."""
        return not self.canary and not self.shadow

    def __str__(self) -> str:
        return f"canary {self.canary * 100:.6g}%, shadow {self.shadow * 100:.6g}%, sticky by {self.sticky}"


def position(salt: str, value: str) -> float:
    """A place in [0, 1) that depends on salt and value alone, evenly spread over values."""
    digest = hashlib.blake2b(f"{salt}\0{value}".encode(errors="surrogatepass"), digest_size=8).digest()
    # The top 53 bits: all that a float holds, so that no place is rounded up to 1.
    return (int.from_bytes(digest) >> 11 << 11) / _WHOLE


def parse_share(name: str, text: str) -> float:
    """`10%`, `12.5%` or `0.1` as a number from 0 to 1. Raises UsageError starting with `name`."""
    digits = text.strip().removesuffix("%")
    try:
        value = float(digits)
    except ValueError:
        value = math.nan
    share = value / 100 if text.strip().endswith("%") else value
    if not 0 <= share <= 1:
        raise UsageError(f"{name}: {text!r} is not a share; give 0% to 100%, or 0 to 1")
    return share
