import numpy as np
import pytest

from monitoring.descriptors.model import Descriptor
from monitoring.store.database import writing
from monitoring.store.rows import ROW_DIMENSIONS, DescribedRows, objects
from monitoring.store.segments import (
    SEGMENT_ROWS,
    decode,
    descriptors_in,
    encode,
    extended,
    holds,
    read_segments,
    rewrite_without,
    write_segments,
)

KINDS = {
    "n": Descriptor("n", "numeric", "input", version="1"),
    "f": Descriptor("f", "flag", "output", version="2"),
    "input.language": Descriptor("input.language", "label", "input", version="3"),
}


def rows_of(count, first=0):
    numbers = np.arange(first, first + count)
    columns = {
        "n": np.where(numbers % 4 == 0, np.nan, numbers / 3).astype(np.float32),
        "f": np.where(numbers % 3 == 0, np.nan, numbers % 2).astype(np.float32),
        "input.language": objects([None if n % 5 == 0 else f"l{n % 3}" for n in numbers]),
    }
    dimensions = {name: objects([None] * count) for name in ROW_DIMENSIONS}
    dimensions["user"] = objects([f"u{n % 2}" for n in numbers])
    dimensions["language"] = columns["input.language"]
    return DescribedRows([f"k{n}" for n in numbers], [f"r{n}" for n in numbers], numbers * 60.0, dimensions, columns)


def assert_same(found, wanted):
    assert list(found.keys) == list(wanted.keys)
    assert list(found.request_ids) == list(wanted.request_ids)
    np.testing.assert_array_equal(found.at, wanted.at)
    for name, column in wanted.columns.items():
        assert found.columns[name].dtype == column.dtype
        np.testing.assert_array_equal(found.columns[name], column)
    for name, values in wanted.dimensions.items():
        assert found.dimensions[name].tolist() == values.tolist()


@pytest.fixture
def append(engine):
    def write(rows, after, through, version="v"):
        with writing(engine) as connection:
            write_segments(connection, extended(connection, version, "a", rows, KINDS, after, through))

    return write


def test_rows_survive_their_segment_with_everything_missing_still_missing_and_columns_can_be_left_out():
    rows = rows_of(50)
    data = encode(rows, KINDS)
    assert_same(decode(data), rows)
    assert descriptors_in(data) == KINDS
    part = decode(data, ["f", "unknown"])
    assert list(part.columns) == ["f"]
    assert part.dimensions["language"].tolist() == rows.dimensions["language"].tolist()


def test_the_newest_segment_is_filled_up_before_another_begins(engine, append):
    append(rows_of(3), 0, 3)
    append(rows_of(SEGMENT_ROWS, first=3), 3, 10_000)
    with engine.connect() as connection:
        parts = list(read_segments(connection, "v", "a"))
    assert [len(part) for part in parts] == [SEGMENT_ROWS, 3]
    assert_same(DescribedRows.concat(parts), rows_of(SEGMENT_ROWS + 3))


def test_a_window_reads_its_rows_alone(engine, append):
    append(rows_of(100), 0, 100)
    with engine.connect() as connection:
        found = DescribedRows.concat(read_segments(connection, "v", "a", since=600, until=1200))
        assert_same(found, rows_of(10, first=10))
        assert list(read_segments(connection, "v", "another")) == []
        assert list(read_segments(connection, "other", "a")) == []


def test_forgotten_rows_are_in_no_version_any_more_and_a_segment_without_rows_is_deleted(engine, append):
    for version in ("v", "w"):
        append(rows_of(100), 0, 100, version)
    forgotten = [f"k{n}" for n in range(0, 100, 7)]
    with writing(engine) as connection:
        assert holds(connection, [*forgotten, "unknown"]) == set(forgotten)
        assert rewrite_without(connection, "a", forgotten) == [0, 1]
        assert rewrite_without(connection, "another", ["k1"]) == []
    with engine.connect() as connection:
        assert holds(connection, forgotten) == set()
        for version in ("v", "w"):
            left = DescribedRows.concat(read_segments(connection, version, "a"))
            assert_same(left, rows_of(100).select(np.arange(100) % 7 != 0))
    with writing(engine) as connection:
        rewrite_without(connection, "a", [f"k{n}" for n in range(100)])
        assert list(read_segments(connection, "v", "a")) == []
