"""Zeros are given back where they are many, in memory and new; nothing that a program can read changes."""

import mmap
import sys

import pytest

from llmops.engines.zeroed_memory import LEAST_BYTES, mapped, release_zeros

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is given back")

SIZE = LEAST_BYTES * 5 // 4


def new_memory() -> mmap.mmap:
    """Private memory that is no file's, as `malloc` takes it for large buffers."""
    return mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def test_new_zeros_are_given_back_once_and_are_zeros_still():
    before = mapped()
    with new_memory() as memory:
        memory[:] = bytes(SIZE)
        assert LEAST_BYTES <= release_zeros(before) <= SIZE
        assert release_zeros(before) == 0  # they are not in memory any more
        assert memory[:] == bytes(SIZE)


def test_memory_that_was_there_before_or_was_never_written_is_left_alone():
    with new_memory() as old:
        old[:] = bytes(SIZE)
        before = mapped()
        assert release_zeros(before) == 0
        with new_memory():  # which may have grown together with the old
            assert release_zeros(before) == 0


@pytest.mark.parametrize("at", [0, SIZE // 2, SIZE - 1])
def test_what_is_not_zero_stays(at):
    before = mapped()
    with new_memory() as memory:
        memory[:] = bytes(SIZE)
        memory[at] = 7
        release_zeros(before)
        assert memory[at] == 7
        assert memory[:].count(b"\0") == SIZE - 1
