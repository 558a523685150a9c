"""The tables of the production log."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData()

# Numbers rows in the order of their writing, and never gives a number twice: what readers that follow the log count in.
_SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def json_or_text(text: str) -> Any:
    """The value of a JSON text; of what is none the text itself, so that one damaged row does not hide the others."""
    try:
        return json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return text


class _Object(sa.TypeDecorator[Any]):
    """A JSON object, also where a row holds something else."""

    impl = sa.JSON
    cache_ok = True

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:  # noqa: ARG002 - SQLAlchemy's signature
        return value if isinstance(value, dict) else {"unreadable": value}


log_records = sa.Table(
    "log_records",
    metadata,
    sa.Column("seq", _SEQUENCE, primary_key=True),
    sa.Column("key", sa.String(32), nullable=False, unique=True),
    sa.Column("request_id", sa.String(255), nullable=False, index=True),
    sa.Column("at", sa.Float, nullable=False, index=True),
    sa.Column("app", sa.String(255), nullable=False),
    sa.Column("release", sa.String(255)),
    sa.Column("prompt", sa.String(255)),
    sa.Column("model", sa.String(255)),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("outcome", sa.String(32), nullable=False),
    sa.Column("input", sa.Text, nullable=False),
    sa.Column("output", sa.Text, nullable=False),
    sa.Column("tokens_in", sa.BigInteger),
    sa.Column("tokens_out", sa.BigInteger),
    sa.Column("latency_ms", sa.Float),
    sa.Column("first_token_ms", sa.Float),
    sa.Column("details", _Object, nullable=False),
    sa.Column("route", sa.String(32)),
    sa.Column("caller", sa.String(255)),
    sa.Column("user", sa.String(512)),
    sa.Column("text_deleted_at", sa.Float),
    sa.Index("log_records_app_at", "app", "at"),
    sqlite_autoincrement=True,
)
# Most records name no user, and then cost no entry. Of the user alone: with the app's name beside it, an entry could
# outgrow what PostgreSQL takes.
sa.Index(
    "log_records_user",
    log_records.c.user,
    sqlite_where=log_records.c.user.is_not(None),
    postgresql_where=log_records.c.user.is_not(None),
)

# record_key, release, app and their counterparts are copies from the log: votes are counted without reading it.
feedback = sa.Table(
    "feedback",
    metadata,
    sa.Column("seq", _SEQUENCE, primary_key=True),
    sa.Column("key", sa.String(32), nullable=False, unique=True),
    sa.Column("record_key", sa.String(32), nullable=False, index=True),
    sa.Column("request_id", sa.String(255), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("app", sa.String(255), nullable=False, index=True),
    sa.Column("release", sa.String(255)),
    sa.Column("caller", sa.String(255), nullable=False),
    sa.Column("user", sa.String(255)),
    sa.Column("score", sa.Float),
    sa.Column("label", sa.String(255)),
    sa.Column("comment", sa.Text),
    sa.Column("compared_to", sa.String(255)),
    sa.Column("compared_key", sa.String(32)),
    sa.Column("compared_release", sa.String(255)),
    sa.Column("truth", sa.JSON(none_as_null=True)),
    sqlite_autoincrement=True,
)

# A row without a status is a claim: the request that the key came with is still running.
idempotent_replies = sa.Table(
    "idempotent_replies",
    metadata,
    sa.Column("caller", sa.String(255), primary_key=True),
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("token", sa.String(32), nullable=False),
    sa.Column("process", sa.String(255), nullable=False),
    sa.Column("expires_at", sa.Float, nullable=False, index=True),
    sa.Column("request_id", sa.String(255)),
    sa.Column("status", sa.Integer),
    sa.Column("headers", sa.JSON),
    sa.Column("body", sa.LargeBinary),
)

# What keys have used of their token budgets. window: minute or day; begun: of a day its number, of a minute the seconds
# of the clock that measures it.
token_counts = sa.Table(
    "token_counts",
    metadata,
    sa.Column("key_id", sa.String(32), primary_key=True),
    sa.Column("window", sa.String(8), primary_key=True),
    sa.Column("clock", sa.String(64), nullable=False),
    sa.Column("begun", sa.Float, nullable=False),
    sa.Column("used", sa.BigInteger, nullable=False),
)

token_reservations = sa.Table(
    "token_reservations",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("key_id", sa.String(32), nullable=False, index=True),
    sa.Column("tokens", sa.BigInteger, nullable=False),
    sa.Column("process", sa.String(255), nullable=False),
    sa.Column("expires_at", sa.Float, nullable=False),
)
