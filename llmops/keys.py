"""Gateway keys: made once, stored hashed, in the database of the production log.

A key reads `llmops_<id>_<secret>`. The id is public: it finds the row, and is what people and logs name. Of the secret
only its SHA-256 is kept. A fast hash is right here: slow ones (bcrypt, argon2) make guessing a *chosen* password dear,
but nobody guesses 256 random bits, at any speed; and the gateway computes the hash for every request.
"""

import hashlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from llmops.errors import StoreUnavailable, UnknownVersion, UsageError
from llmops.production_log.budgets import DAY, MINUTE
from llmops.production_log.database import database_url, open_engine, translated
from llmops.production_log.tables import is_complete, make_tables, storable
from llmops.state_files import FileIdentity, make_private_folder, shown

__all__ = ["Key", "KeyStore", "parse_key", "secret_hash"]

logger = logging.getLogger("llmops.keys")

PREFIX = "llmops"
_ID_BYTES, _SECRET_BYTES = 6, 32
LARGEST_LIMIT = 10**12

_LIMITS = ("requests_per_minute", "tokens_per_minute", "tokens_per_day")
metadata = sa.MetaData()
_keys = sa.Table(
    "gateway_keys",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("name", sa.String(255), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
    sa.Column("apps", sa.JSON(none_as_null=True)),
    sa.Column("admin", sa.Boolean, nullable=False),
    *(sa.Column(name, sa.BigInteger) for name in _LIMITS),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("expires_at", sa.Float),
    sa.Column("revoked_at", sa.Float),
)
# A clock would do worse than counts: two machines' clocks differ, and a revocation could look like an old change.
_COUNTS = sa.select(sa.func.count(), sa.func.count(_keys.c.revoked_at)).select_from(_keys)
_ALL = sa.select(_keys).order_by(_keys.c.created_at, _keys.c.id)
_READ_AGAIN_SECONDS = 60.0
_TIMES = ("created_at", "expires_at", "revoked_at")


@dataclass(frozen=True, slots=True)
class Key:
    """A key as it is stored, everything but its secret; to the gateway, the caller that holds it.

    apps: the apps it may use; None: all, and model versions without a release. admin: may use what is no app's, such
    as metrics and other callers' requests. requests_per_minute, tokens_per_minute, tokens_per_day: None: no limit;
    tokens are read plus made. expires_at, revoked_at: from when on it opens nothing.
    """

    id: str
    name: str
    hash: str = field(repr=False)
    created_at: datetime
    apps: tuple[str, ...] | None = None
    admin: bool = False
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def live(self, at: datetime) -> bool:
        """Whether it opens anything at that time."""
        return self.revoked_at is None and (self.expires_at is None or at < self.expires_at)

    def may_use(self, app: str | None) -> bool:
        """Whether it opens `app`; None: a model version without a release."""
        return self.apps is None or app in self.apps

    @property
    def sees_details(self) -> bool:
        """Whether its holder is told what is no app's: reasons with paths and upstream URLs, other apps' state."""
        return self.admin or self.apps is None

    @property
    def token_limits(self) -> dict[str, int]:
        """Its token budgets by window, as `TokenBudgets` names them."""
        limits = {MINUTE: self.tokens_per_minute, DAY: self.tokens_per_day}
        return {window: limit for window, limit in limits.items() if limit is not None}

    def limits(self) -> dict[str, int | None]:
        """Its limits by name; None: none."""
        return {name: getattr(self, name) for name in _LIMITS}

    def to_json(self) -> dict[str, Any]:
        """What may be shown: neither secret nor hash."""
        times = {name: at and at.isoformat() for name in _TIMES for at in [getattr(self, name)]}
        apps = None if self.apps is None else list(self.apps)
        return {"id": self.id, "name": self.name, "apps": apps, "admin": self.admin, "limits": self.limits(), **times}


def secret_hash(secret: str) -> str:
    """What is stored of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def parse_key(text: str) -> tuple[str, str] | None:
    """A key's id and secret; None when the text does not have a key's form."""
    parts = text.split("_", 2)
    if len(parts) != 3 or parts[0] != PREFIX or not parts[1] or not parts[2]:
        return None
    return parts[1], parts[2]


class KeyStore:
    """Makes, lists and revokes keys. Safe to share between threads and processes.

    A store that has ever held a key and holds none is damaged, and is not read as one without keys. Opening it connects
    to nothing. Every method may block, and raises StoreUnavailable when the database cannot be reached or written.
    """

    def __init__(self, log_url: str, *, home: Path | None = None, file: FileIdentity | None = None) -> None:
        """
        log_url: SQLAlchemy URL of the production log.
        home: where it is remembered that keys exist, in a file with a line for each database; None: nowhere.
        file: as `open_engine`.

        Raises StoreUnavailable when the URL cannot be one.
        """
        self.url = log_url
        self._engine = open_engine(log_url, file)
        self._marker = None if home is None else home / "databases-with-keys"
        self._place = "" if home is None else _place(home, log_url)
        self._is_marked = self._is_made = False
        self._reading = threading.Lock()
        self._keys: tuple[Key, ...] = ()
        self._counts: tuple[int, ...] | None = None
        self._read_again_at = 0.0

    def create(
        self,
        name: str = "",
        *,
        apps: Sequence[str] | None = None,
        admin: bool = False,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        tokens_per_day: int | None = None,
        expires_at: datetime | None = None,
    ) -> tuple[Key, str]:
        """Makes a key. Returns it with the text its holder sends, which cannot be had again. Arguments as in `Key`.

        Raises UsageError: a limit below 1, an empty list of apps, or an expiry in the past.
        """
        now = datetime.now(UTC)
        if apps is not None and not all([*apps, apps]):
            raise UsageError("apps: name at least one, or none for all")
        if expires_at is not None and expires_at <= now:
            raise UsageError("expires_at: must be in the future")
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        key = Key(
            id=secrets.token_hex(_ID_BYTES),
            name=storable(name)[:255],
            hash=secret_hash(secret),
            created_at=now,
            apps=None if apps is None else tuple(sorted({storable(app) for app in apps})),
            admin=admin,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            tokens_per_day=tokens_per_day,
            expires_at=expires_at,
        )
        for limit, value in key.limits().items():
            if value is not None and not 1 <= value <= LARGEST_LIMIT:
                raise UsageError(f"{limit}: must be from 1 to {LARGEST_LIMIT}")
        with self._transaction(writes=True) as connection:
            connection.execute(sa.insert(_keys).values(_to_row(key)))
        self._mark()
        return key, f"{PREFIX}_{key.id}_{secret}"

    def read(self) -> Sequence[Key]:
        """Every key, revoked and expired ones too, oldest first; the very same object when nothing has changed.

        Only creating and revoking count as changes; what else was done to the table is seen within a minute. Raises
        StoreUnavailable too when there were keys, and are none.
        """
        with self._reading:
            with self._transaction() as connection:
                counts = tuple(connection.execute(_COUNTS).one())
            now = time.monotonic()
            if counts != self._counts or now >= self._read_again_at:
                with self._transaction() as connection:
                    keys = tuple(_from_row(row) for row in connection.execute(_ALL).mappings())
                if keys:
                    self._mark()
                elif self._keys or self._was_marked():
                    marker = "" if self._marker is None else f", or remove {self._marker} to serve without keys"
                    gone = f"production log {shown(self.url)}: its keys are gone, so that nobody is let in"
                    raise StoreUnavailable(f"{gone}; restore it, make a key{marker}")
                self._keys = self._keys if keys == self._keys else keys
                # Counted before it was read: a change in between is found at the next call.
                self._counts, self._read_again_at = counts, now + _READ_AGAIN_SECONDS
            return self._keys

    def revoke(self, key_id: str) -> Key:
        """Shuts a key out for good; one that is revoked already stays as it is. Raises UnknownVersion."""
        this, now = _keys.c.id == key_id, datetime.now(UTC).timestamp()
        with self._transaction(writes=True) as connection:
            connection.execute(sa.update(_keys).where(this, _keys.c.revoked_at.is_(None)).values(revoked_at=now))
            row = connection.execute(sa.select(_keys).where(this)).mappings().one_or_none()
        if row is None:
            raise UnknownVersion(f"key {key_id!r} does not exist; `llmops keys list` shows those that do")
        return _from_row(row)

    def has_live_key(self) -> bool:
        """Whether any key opens anything now: what serving beyond loopback asks for."""
        now = datetime.now(UTC)
        return any(key.live(now) for key in self.read())

    def close(self) -> None:
        self._engine.dispose()

    def _was_marked(self) -> bool:
        """Whether keys were ever seen there. Raises StoreUnavailable when that cannot be known."""
        if not self._is_marked and self._marker is not None:
            try:
                self._is_marked = self._place in self._marker.read_text(encoding="utf-8").splitlines()
            except FileNotFoundError:
                return False
            except OSError as error:
                raise StoreUnavailable(f"{self._marker}: cannot be read: {error.strerror}") from error
        return self._is_marked

    def _mark(self) -> None:
        """Remembers, outside the database, that keys were made in it: one that has lost them must let nobody in. Where
        that cannot be written, this process does, and says so."""
        if self._is_marked or self._marker is None:
            return
        try:
            if not self._was_marked():
                make_private_folder(self._marker.parent)
                with os.fdopen(os.open(self._marker, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600), "w") as file:
                    file.write(f"{self._place}\n")
        except (OSError, StoreUnavailable) as error:
            logger.warning("that keys exist cannot be remembered for a restart: %s", error)
        self._is_marked = True

    @contextmanager
    def _transaction(self, *, writes: bool = False) -> Iterator[sa.Connection]:
        """Makes the table at first use, because the store may be down when it is opened."""
        with translated(self.url):
            if not self._is_made:
                with self._engine.begin() as connection:
                    self._is_made = is_complete(connection, metadata)
            if not self._is_made:
                with self._engine.execution_options(writes=True).begin() as connection:
                    make_tables(connection, metadata)
                self._is_made = True
            with self._engine.execution_options(writes=writes).begin() as connection:
                yield connection


def _place(home: Path, log_url: str) -> str:
    """A database's place that stays the same when its home is moved, and holds no password."""
    url = database_url(log_url)
    if url.get_backend_name() != "sqlite" or not url.database:
        return str(url.set(password=None))
    file, home = Path(url.database).resolve(), home.resolve()
    return str(file.relative_to(home) if file.is_relative_to(home) else file)


def _to_row(key: Key) -> dict[str, Any]:
    times = {name: at and at.timestamp() for name in _TIMES for at in [getattr(key, name)]}
    return {**asdict(key), **times, "apps": None if key.apps is None else list(key.apps)}


def _from_row(row: sa.RowMapping) -> Key:
    times = {name: None if row[name] is None else datetime.fromtimestamp(row[name], UTC) for name in _TIMES}
    return Key(**{**row, **times, "apps": None if row["apps"] is None else tuple(row["apps"])})
