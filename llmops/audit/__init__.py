"""The audit log: every move of an alias, gate, override, rollback and change of traffic, in an append-only chain of
hashes beside the production log."""

from __future__ import annotations

from llmops.audit.entries import AuditEntry, Draft
from llmops.audit.log import AuditLog
from llmops.audit.standing import Move, Standing
from llmops.audit.verification import Verification, check_chain, verify

__all__ = ["AuditEntry", "AuditLog", "Draft", "Move", "Standing", "Verification", "check_chain", "verify"]
