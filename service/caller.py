"""Who sends a request: what its key allows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """The holder of a key, or anybody where no key exists.

    key_id: the key's public id. name: what its creator called it. apps: the apps it may use, None for all and for bare
    model versions. admin: may use what is not an app's (metrics, other callers' requests).
    """

    key_id: str | None
    name: str
    apps: frozenset[str] | None = None
    admin: bool = False

    @property
    def sees_details(self) -> bool:
        """Whether it is told what is no app's: reasons with paths and upstream URLs, other apps' state."""
        return self.admin or self.apps is None

    def may_use(self, app: str | None) -> bool:
        """Whether it may ask `app`; None: a model version without a release."""
        return self.apps is None or (app is not None and app in self.apps)


ANONYMOUS = Caller(None, "anonymous", admin=True)
"""The caller where no key exists: on loopback, everybody."""
