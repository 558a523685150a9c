"""The audit log: every alias move, gate, override, rollback and traffic change, in an append-only hash chain in the
production log's database."""

from __future__ import annotations

from llmops.audit.alias_state import AliasState, Move
from llmops.audit.entries import AuditEntry, Draft
from llmops.audit.log import AuditLog
from llmops.audit.verification import Verification, check_chain, verify

__all__ = ["AliasState", "AuditEntry", "AuditLog", "Draft", "Move", "Verification", "check_chain", "verify"]
