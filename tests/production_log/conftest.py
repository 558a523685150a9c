"""The production log on each database in turn, or on SQLite."""

from contextlib import closing

import pytest

from llmops.production_log import ProductionLog, open_engine


def execute(url, *statements):
    """Executes statements on the log's database in a transaction of their own."""
    engine = open_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


@pytest.fixture
def log(any_log):
    return any_log


@pytest.fixture
def sqlite_log(tmp_path):
    with closing(ProductionLog(f"sqlite:///{tmp_path}/log.db")) as log:
        yield log
