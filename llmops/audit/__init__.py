"""The audit log: every alias move, gate, override, rollback and traffic change, in an append-only hash chain in the
production log's database."""

from llmops.audit.entries import AliasState, AuditEntry, Move, Verification, check_chain
from llmops.audit.log import AuditLog, os_user, verify

__all__ = ["AliasState", "AuditEntry", "AuditLog", "Move", "Verification", "check_chain", "os_user", "verify"]
