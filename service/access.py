"""Who may come in: checks keys, counts their limits, and answers 401, 403 and 429 before anything else runs.

Where no key was ever made, everybody on loopback is ANONYMOUS and may do everything, but for web pages from elsewhere
that had their name point here (DNS rebinding): the Host header gives them away. As soon as one exists, revoked or not,
a live one is needed: revoking the last key locks the door, it does not open it.
"""

import asyncio
import hmac
import ipaddress
import logging
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from llmops.errors import LlmopsError
from llmops.keys import Key, KeyStore, parse_key, secret_hash
from llmops.processes import run_blocking
from llmops.settings import Settings
from service.error_map import RETRY_SECONDS, ApiError
from service.key_limits import Headers, RateLimits

ANONYMOUS = Key("", "anonymous", "", datetime.fromtimestamp(0, UTC), admin=True)
"""The caller where no key exists: on loopback, everybody."""

logger = logging.getLogger("llmops.service")

OPEN_PATHS = frozenset({"/", "/livez", "/readyz", "/docs", "/openapi.json"})
"""What needs no key: health, the API's description, and the page, which holds no data of its own."""
OPEN_PREFIXES = ("/page/", "/docs/assets/")
COUNTED_PREFIX = "/v1/"
"""What counts towards a key's requests per minute, and needs some left."""
ADMIN_PATHS = frozenset({"/metrics"})
"""What needs an admin key. From loopback too: a proxy on this machine would make everybody local."""

_LOOK_SECONDS = 5.0
_LOCAL_SUFFIXES = (".localhost", ".local", ".internal", ".lan", ".home.arpa", ".test")
_NOBODY = secret_hash("")


class Access:
    """The keys as they were at the last look, and what they have used.

    keys: looked at in the background, every `settings.keys_poll` seconds; while it cannot be read, the last known keys
    stay good. Before the first look nobody gets in: `running` makes it.
    """

    def __init__(self, keys: KeyStore, settings: Settings, rate_limit_folder: Path | None = None) -> None:
        """rate_limit_folder: as `RateLimits` has its folder. Raises UsageError: `settings.redis_url` cannot be read."""
        self._source, self._seconds = keys, settings.keys_poll
        self._rates = RateLimits(settings.redis_url, rate_limit_folder)
        self._keys: Sequence[Key] = ()
        self._known: Mapping[str, Key] | None = None
        self._failure: str | None = None
        self._reading: asyncio.Task[Sequence[Key]] | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Looks at the keys once, then again and again while the block runs."""

        async def poll() -> None:
            while True:
                await asyncio.sleep(self._seconds)
                await self.look()

        await self.look()
        polling = asyncio.create_task(poll(), name="key poll")
        try:
            yield
        finally:
            polling.cancel()
            await asyncio.gather(polling, return_exceptions=True)
            if self._reading is not None:  # else whoever closes the source would close it under its reader
                await asyncio.wait([self._reading], timeout=_LOOK_SECONDS)
            await self._rates.close()

    @property
    def problem(self) -> str | None:
        """Why keys are not as fresh as they should be; None when they are."""
        return "keys not read yet" if self._known is None and self._failure is None else self._failure

    @property
    def limits_problem(self) -> str | None:
        """Why limits are looser than they should be; None when they hold exactly. No reason to turn traffic away."""
        return self._rates.problem

    def live_keys(self) -> int | None:
        """How many keys are good now; None before the first look."""
        return None if self._known is None else len(self.callers())

    @property
    def key_exists(self) -> bool:
        """Whether any key was ever made, so that one is needed."""
        return bool(self._known)

    def callers(self) -> list[Key]:
        """The keys that are good now."""
        now = datetime.now(UTC)
        return [key for key in self._keys if key.live(now)]

    async def look(self) -> None:
        """One look at the keys, of at most a few seconds; what goes wrong stands in `problem`."""
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                self._reading = asyncio.create_task(run_blocking(self._source.read, name="read keys"))
                # Of a read that was too slow nobody asks any more how it ended.
                self._reading.add_done_callback(lambda task: task.cancelled() or task.exception())
                keys = await asyncio.shield(self._reading)
        except TimeoutError:
            self._failure = f"keys cannot be read: no answer within {_LOOK_SECONDS:g} s"
        except LlmopsError as error:
            self._failure = f"keys cannot be read: {error}"
        except Exception as error:
            logger.exception("keys cannot be read")
            self._failure = f"keys cannot be read: unexpected {type(error).__name__}"
        else:
            if self._known is None or keys is not self._keys:
                # One assignment: a request sees the old keys or the new ones.
                self._keys, self._known = keys, {key.id: key for key in keys}
            self._failure = None

    def check(self, headers: Iterable[tuple[bytes, bytes]], *, local: bool = True) -> Key:
        """The caller whose key the request carries (`Authorization: Bearer …`), or ANONYMOUS where no key exists.

        local: whether the request came to a loopback address; no other lets anonymous callers in.

        Raises ApiError: 401 no key, or not a live one; 403 no key exists, and the Host header names another machine;
        503 the keys have not been read yet.
        """
        if self._known is None:
            message = "the gateway has not read its keys yet"
            raise ApiError(503, message, kind="server_error", code="store_unavailable", retry_after=RETRY_SECONDS)
        if not self._known and local:
            if not is_own_host(next((value for name, value in headers if name == b"host"), b"")):
                message = (
                    "without keys the gateway answers only to names of this machine, such as localhost; make a key"
                )
                raise ApiError(403, message, kind="permission_error", code="host_not_allowed")
            return ANONYMOUS
        sent = next((value for name, value in headers if name == b"authorization"), b"")
        scheme, _, text = sent.decode("latin-1").partition(" ")
        if scheme.lower() != "bearer":
            raise _unauthorized("an API key is needed: send the header `Authorization: Bearer <key>`")
        key_id, secret = parse_key(text.strip()) or ("", "")
        key = self._known.get(key_id)
        # Unknown ids are compared too, so that the time taken tells nothing.
        matches = hmac.compare_digest(secret_hash(secret), _NOBODY if key is None else key.hash)
        if key is None or not matches:
            raise _unauthorized("the API key is not valid")
        if key.revoked_at is not None:
            raise _unauthorized("the API key was revoked")
        if key.expires_at is not None and not key.live(datetime.now(UTC)):
            raise _unauthorized("the API key has expired")
        return key

    def known(self, headers: Iterable[tuple[bytes, bytes]], *, local: bool = True) -> Key | None:
        """As `check`; None for whom it would not let in."""
        try:
            return self.check(headers, local=local)
        except ApiError:
            return None

    async def enter(self, headers: Iterable[tuple[bytes, bytes]], local: bool, reply_headers: Headers) -> Key:
        """As `check`, and counts the request. Raises ApiError 429 too."""
        caller = self.check(headers, local=local)
        if caller.requests_per_minute is not None:
            await self._rates.admit(caller, reply_headers)
        return caller


class AccessCheck:
    """ASGI layer, inside RequestContext: lets a request through to what its key opens, or answers it.

    Everything needs a key but OPEN_PATHS and OPEN_PREFIXES; ADMIN_PATHS need an admin's. The caller of what needs one
    is in `scope["state"]["caller"]`.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or is_open(scope["path"]):
            await self._app(scope, receive, send)
            return
        state = scope["state"]
        path, headers, local = scope["path"], scope["headers"], is_local(scope)
        try:
            if path.startswith(COUNTED_PREFIX):
                caller = await self._access.enter(headers, local, state["reply_headers"])
            else:
                caller = self._access.check(headers, local=local)
                if path in ADMIN_PATHS and not caller.admin:
                    raise ApiError(403, "this needs an admin key", kind="permission_error", code="admin_key_needed")
        except ApiError as refusal:
            response = refusal.response()
            if refusal.status == 401:
                response.headers["www-authenticate"] = "Bearer"
            await response(scope, receive, send)
            return
        state["caller"] = caller
        await self._app(scope, receive, send)


def require(caller: Key, app: str | None) -> None:
    """Raises ApiError 403 when the caller's key does not open `app`; None: a model version without a release."""
    if not caller.may_use(app):
        what = f"the app {app!r}" if app is not None else "model versions without a release"
        message = f"this API key does not open {what}"
        raise ApiError(403, message, kind="permission_error", param="model", code="app_not_allowed")


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key")


@lru_cache(maxsize=64)
def is_own_host(host: bytes) -> bool:
    """Whether nobody else can own the name in a Host header: an address, a name without dots, or a local suffix.

    Without the header no browser sent the request.
    """
    name = host.decode("latin-1").lower()
    name = re.sub(r":\d*\Z", "", name).removesuffix(".")
    try:
        return bool(ipaddress.ip_address(name.removeprefix("[").removesuffix("]")))
    except ValueError:
        return "." not in name or name.endswith(_LOCAL_SUFFIXES)


def is_open(path: str) -> bool:
    """Whether the path needs no key."""
    return path in OPEN_PATHS or path.startswith(OPEN_PREFIXES)


def is_local(scope: Scope) -> bool:
    """Whether the connection came to a loopback address; no address means that there is no network in between."""
    server = scope.get("server")
    return server is None or _is_loopback(server[0])


@lru_cache(maxsize=64)
def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True  # a Unix socket's path, or a transport in this process
