"""Gives memory back to the system that a library has filled with zeros and will need only later, or never.

llama.cpp clears its key-value cache when it opens a model, so that all of it is in memory from then on: 0.7 GB for 16
slots of 2,048 tokens of SmolLM2-135M, whose weights have 0.1 GB. A page that was given back holds zeros again when it
is next touched, so nothing that is computed changes.
"""

import ctypes
import mmap
import sys
from collections.abc import Iterator, Sequence
from io import FileIO
from pathlib import Path

LEAST_BYTES = 64 * 1024 * 1024
"""Of zeros without a gap, all of them in memory: what nothing else leaves there, be it a heap or weights being read."""

_CHUNK = 2 * 1024 * 1024  # a huge page
_DONTNEED = 4  # MADV_DONTNEED, on Linux

Range = tuple[int, int]
"""Addresses: the first, and the one after the last."""


def mapped() -> list[Range]:
    """This process's private memory that is no file's, by ascending address; empty on systems other than Linux."""
    if sys.platform != "linux":
        return []
    ranges = []
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        addresses, rights, _offset, _device, _inode, *name = line.split()
        if rights == "rw-p" and not name:
            first, _, end = addresses.partition("-")
            ranges.append((int(first, 16), int(end, 16)))
    return ranges


def release_zeros(before: Sequence[Range]) -> int:
    """Gives back runs of zeros in memory that came after `mapped` gave `before`; returns how many bytes.

    Nothing may write to that memory meanwhile: what was written between the look and the giving back would be lost.
    """
    added, released = list(_added(before, mapped())), 0
    if not added:
        return 0
    library = ctypes.CDLL(None)
    # Read as a file, memory that another thread unmaps meanwhile is an error; read through a pointer, a crash.
    with Path("/proc/self/mem").open("rb", buffering=0) as memory:
        for first, end in added:
            for start, size in _runs_of_zeros(library, memory, first, end):
                if library.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), _DONTNEED) == 0:
                    released += size
    return released


def _added(before: Sequence[Range], now: Sequence[Range]) -> Iterator[Range]:
    """What of `now` is not in `before`: neighbours may have grown together."""
    for first, end in now:
        for known_first, known_end in before:
            if known_end <= first or known_first >= end:
                continue
            if known_first > first:
                yield first, known_first
            first = known_end
        if first < end:
            yield first, end


def _runs_of_zeros(library: ctypes.CDLL, memory: FileIO, first: int, end: int) -> Iterator[tuple[int, int]]:
    """Starts and sizes of runs of at least `LEAST_BYTES`, in whole chunks."""
    start = -(-first // _CHUNK) * _CHUNK
    for at in range(start, end + 1, _CHUNK):
        if at + _CHUNK <= end and _is_zero(library, memory, at):
            continue
        if at - start >= LEAST_BYTES:
            yield start, at - start
        start = at + _CHUNK


def _is_zero(library: ctypes.CDLL, memory: FileIO, at: int) -> bool:
    """Whether a chunk is wholly in memory and holds nothing but zeros."""
    pages = _CHUNK // mmap.PAGESIZE
    there = (ctypes.c_ubyte * pages)()
    if library.mincore(ctypes.c_void_p(at), ctypes.c_size_t(_CHUNK), there) != 0 or not all(each & 1 for each in there):
        return False
    try:
        memory.seek(at)
        return memory.read(_CHUNK) == bytes(_CHUNK)
    except OSError:
        return False
