"""Audit logs on each database, and rows of a made-up one."""

from __future__ import annotations

from typing import Any

import pytest

from llmops.audit import AuditEntry, AuditLog, Draft


@pytest.fixture
def audit(log_url):
    """An empty audit log, on each database in turn."""
    return AuditLog(log_url, actor="anna")


@pytest.fixture
def small_audit(tmp_path):
    """An empty audit log on SQLite."""
    return AuditLog(f"sqlite:///{tmp_path}/log.db", actor="anna")


def chain(count: int) -> list[dict[str, Any]]:
    """Rows of a whole chain, as they are stored."""
    last, rows = None, []
    for number in range(count):
        last = AuditEntry.chained(last, f"2026-01-01T00:00:{number:02}", "anna", Draft("note", f"app@{number}"))
        rows.append(last.to_row())
    return rows
