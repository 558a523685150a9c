"""The audit log's table, and what keeps it append-only: triggers that refuse everything but the next entry."""

from __future__ import annotations

import sqlalchemy as sa

_LOCK = 0x6C6C6D03  # one of PostgreSQL's advisory locks, which are named by numbers

metadata = sa.MetaData()
# Numbered by its writer, so that a missing entry leaves a gap. `previous` is unique: a chain cannot fork.
audit_log = sa.Table(
    "audit_log",
    metadata,
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=False),
    sa.Column("at", sa.String(32), nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("action", sa.String(32), nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("details", sa.Text, nullable=False),
    sa.Column("previous", sa.String(64), nullable=False, unique=True),
    sa.Column("hash", sa.String(64), nullable=False, unique=True),
)

_REFUSAL = "the audit log is append-only"
# INSERT OR REPLACE deletes without asking the trigger of deletion, so an insert must go on from the last entry.
_SQLITE = [
    f"CREATE TRIGGER IF NOT EXISTS audit_log_no_{event.lower()} BEFORE {event} ON audit_log {when}"
    f"BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
    for event, when in (
        ("UPDATE", ""),
        ("DELETE", ""),
        ("INSERT", "WHEN NEW.seq <> (SELECT coalesce(max(seq), 0) + 1 FROM audit_log) "),
    )
]
_POSTGRESQL = [
    f"""CREATE OR REPLACE FUNCTION audit_log_refuses() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN RAISE EXCEPTION '{_REFUSAL}'; END $$""",
    "CREATE TRIGGER audit_log_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log"
    " FOR EACH STATEMENT EXECUTE FUNCTION audit_log_refuses()",
]


def is_made(connection: sa.Connection) -> bool:
    """Whether the table is there."""
    return sa.inspect(connection).has_table(audit_log.name)


def make_table(connection: sa.Connection) -> None:
    """Makes the table and its triggers. Call while the chain is held (`hold_chain`)."""
    connection.execute(sa.schema.CreateTable(audit_log))
    for statement in _POSTGRESQL if connection.dialect.name == "postgresql" else _SQLITE:
        connection.exec_driver_sql(statement)


def hold_chain(connection: sa.Connection) -> None:
    """From here to the transaction's end no other writer continues the chain. SQLite's writers are alone anyway."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
