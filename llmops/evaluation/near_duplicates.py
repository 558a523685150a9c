"""Texts that are nearly the same: candidates by MinHash, each verified by its real similarity.

Every text becomes the set of its four-character shingles; of each set, 160 hash functions keep the least value
(Broder, 1997). Texts that agree in all four values of one of 40 bands are candidates (locality-sensitive hashing), and
count when their similarity reaches the limit. Time and memory grow with the number of texts, not with its square.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

_SHINGLE = 4
_BANDS, _BAND_WIDTH = 40, 4
# In a bucket of a band, each text is compared with its neighbours in alphabetical order: all others of a small bucket,
# a few in a large one. A hundred thousand texts of one pattern are then still found to be alike, through each other.
_SMALL_BUCKET, _NEIGHBOURS = 20, 4
_BANDS_TOGETHER = 8  # candidates are freed of repeats after so many bands
_CHUNK_CHARACTERS, _CHUNK_PAIRS = 200_000, 100_000
_SPACE = re.compile(r"\s+")


def folded(text: str) -> str:
    """Text as it is compared: without case and spare white space."""
    return _SPACE.sub(" ", text.replace("\0", " ")).strip().casefold()


def near_duplicates(texts: Sequence[str], least: float) -> Iterator[tuple[int, int, float]]:
    """Pairs of positions, the smaller first, whose similarity is `least` or more, in order.

    Similarity is the Indel ratio of the folded texts: 1 − insertions and deletions / both lengths, from 0 to 1. The
    search may miss a pair: of 45,751 questions that were edited to a similarity of 0.9 or more, among 100,000, it
    missed 62.
    """
    import numpy as np
    from rapidfuzz import fuzz, process

    compared = [folded(text) or " " for text in texts]
    # Two alphabetical orders, read forwards and read backwards: one of them brings texts that differ in one place side
    # by side.
    places = []
    for read in (compared, [text[::-1] for text in compared]):
        place = np.empty(len(compared), dtype=np.int64)
        place[sorted(range(len(compared)), key=read.__getitem__)] = np.arange(len(compared))
        places.append(place)
    pairs = _candidates(_signatures(compared), places)
    for start in range(0, len(pairs), _CHUNK_PAIRS):
        left, right = pairs[start : start + _CHUNK_PAIRS].T
        scores = process.cpdist(
            [compared[i] for i in left],
            [compared[i] for i in right],
            scorer=fuzz.ratio,
            score_cutoff=100 * least,
            dtype=np.float64,
        )
        for i in np.flatnonzero(scores):
            yield int(left[i]), int(right[i]), float(scores[i]) / 100


def _signatures(texts: Sequence[str]) -> np.ndarray[Any, Any]:
    """The least value of each hash function over a text's shingles; one row a text."""
    import numpy as np

    chance = np.random.default_rng(0)
    factors = chance.integers(1, 2**63, _BANDS * _BAND_WIDTH, dtype=np.uint64) | np.uint64(1)
    signatures = np.empty((len(texts), len(factors)), dtype=np.uint32)
    start = 0
    while start < len(texts):  # in parts of bounded length
        end, size = start + 1, len(texts[start])
        while end < len(texts) and size + len(texts[end]) <= _CHUNK_CHARACTERS:
            size += len(texts[end])
            end += 1
        chunk = texts[start:end]
        lengths = np.fromiter(map(len, chunk), dtype=np.int64, count=len(chunk))
        begins = np.cumsum(lengths) - lengths
        shingles = _shingle_hashes(chunk)
        for column, factor in enumerate(factors):
            values = ((shingles * factor) >> np.uint64(32)).astype(np.uint32)
            signatures[start:end, column] = np.minimum.reduceat(values, begins)
        start = end
    return signatures


def _shingle_hashes(texts: Sequence[str]) -> np.ndarray[Any, Any]:
    """A hash of the four characters from each character on; a text's last ones are filled up with NUL."""
    import numpy as np

    filled = "".join(text + "\0" * (_SHINGLE - 1) for text in texts)
    # surrogatepass: JSON may hold half a surrogate pair.
    codes = np.frombuffer(filled.encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32).astype(np.uint64)
    count = len(codes) - _SHINGLE + 1
    hashes = np.zeros(count, dtype=np.uint64)
    for offset in range(_SHINGLE):
        hashes = (hashes ^ codes[offset : offset + count]) * np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(29)
    starts: np.ndarray[Any, Any] = hashes[codes[:count] != 0]
    return starts


def _candidates(signatures: np.ndarray[Any, Any], places: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """Distinct pairs of texts that share a band, as two columns of positions."""
    import numpy as np

    total = np.int64(len(signatures))
    pairs = np.empty(0, dtype=np.int64)
    found: list[np.ndarray[Any, Any]] = []
    for band in range(_BANDS):
        keys = np.zeros(len(signatures), dtype=np.uint64)
        for column in range(band * _BAND_WIDTH, (band + 1) * _BAND_WIDTH):
            keys = (keys ^ signatures[:, column].astype(np.uint64)) * np.uint64(0xFF51AFD7ED558CCD)
            keys ^= keys >> np.uint64(33)
        order = np.lexsort((places[band % len(places)], keys))
        for left, right in _neighbours(keys[order]):
            first, second = order[left], order[right]
            found.append(np.minimum(first, second) * total + np.maximum(first, second))
        if band % _BANDS_TOGETHER == _BANDS_TOGETHER - 1:
            pairs = np.unique(np.concatenate([pairs, *found]))
            found.clear()
    return np.column_stack((pairs // total, pairs % total)) if len(pairs) else pairs.reshape(0, 2)


def _neighbours(sorted_keys: np.ndarray[Any, Any]) -> Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Places of equal keys, near each other."""
    import numpy as np

    _, bucket, sizes = np.unique(sorted_keys, return_inverse=True, return_counts=True)
    in_small = sizes[bucket] <= _SMALL_BUCKET
    for apart in range(1, _SMALL_BUCKET):
        alike = sorted_keys[:-apart] == sorted_keys[apart:]
        if apart > _NEIGHBOURS:
            alike &= in_small[:-apart]
        left = np.flatnonzero(alike)
        if not len(left):
            return
        yield left, left + apart
