"""The audit log: every move of an alias, gate, override, rollback and change of traffic, in an append-only chain of
hashes beside the production log."""

from __future__ import annotations

from llmops.audit.alias_state import AliasState, Move
from llmops.audit.entries import AuditEntry, Draft
from llmops.audit.log import AuditLog
from llmops.audit.verification import Verification, check_chain, verify

__all__ = ["AliasState", "AuditEntry", "AuditLog", "Draft", "Move", "Verification", "check_chain", "verify"]
