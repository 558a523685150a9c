"""The production log on each database in turn."""

import pytest


@pytest.fixture
def log(any_log):
    return any_log
