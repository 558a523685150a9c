"""The production log on each database in turn."""

from __future__ import annotations

import pytest


@pytest.fixture
def log(any_log):
    return any_log
