"""Audit logs on each database."""

import pytest

from llmops.audit import AuditLog


@pytest.fixture
def audit(log_url):
    """An empty audit log, on each database in turn."""
    return AuditLog(log_url, actor="anna")


@pytest.fixture
def small_audit(tmp_path):
    """An empty audit log on SQLite."""
    return AuditLog(f"sqlite:///{tmp_path}/log.db", actor="anna")
