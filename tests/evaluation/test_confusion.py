"""The confusion matrix as a picture."""

from __future__ import annotations

import io
import sys
from collections import Counter

import matplotlib.image
import pytest

from llmops.evaluation.scorers.classification import MOST_CLASSES, OTHER, _counts, _shown, confusion_png


def size(picture: bytes) -> tuple[int, int]:
    height, width = matplotlib.image.imread(io.BytesIO(picture)).shape[:2]
    return width, height


def many(n: int) -> Counter[tuple[str, str]]:
    """Class i is said to be the next one i times."""
    names = [f"class {i:03}" for i in range(n)]
    pairs = Counter({(name, name): 5 for name in names})
    pairs.update({(name, names[(i + 1) % n]): i for i, name in enumerate(names) if i})
    return pairs


def test_all_classes_are_shown_while_they_fit() -> None:
    rows, columns, title = _shown(Counter({("b", "b"): 3, ("A", "b"): 1, ("b", "(none)"): 2}))
    assert (rows, columns, title) == (["A", "b"], ["A", "b", "(none)"], "6 rows")
    assert len(_shown(many(MOST_CLASSES))[0]) == MOST_CLASSES


def test_of_too_many_those_with_most_errors_are_shown_and_no_row_is_lost() -> None:
    pairs = many(77)

    rows, columns, title = _shown(pairs)
    counts = _counts(pairs, rows, columns)

    assert rows == [f"class {i:03}" for i in range(47, 77)]
    assert columns == [*rows, OTHER]
    assert title.endswith("; the 30 of 77 classes with most errors")
    for name, line in zip(rows, counts, strict=True):
        assert sum(line) == sum(n for (expected, _), n in pairs.items() if expected == name)


def test_of_many_classes_nobody_expected_the_commonest_are_columns() -> None:
    pairs = Counter({("a", f"wild {i:03}"): i + 1 for i in range(100)})
    rows, columns, title = _shown(pairs)
    assert rows == ["a"]
    assert columns[-2:] == ["wild 099", OTHER]
    assert len(columns) <= MOST_CLASSES
    assert title == "5050 rows"


@pytest.mark.parametrize("n", [1, 3, 77])
def test_it_is_a_picture_that_grows_with_the_classes(n: int) -> None:
    width, height = size(confusion_png(many(n)))
    assert 300 <= width <= 2000
    assert 300 <= height <= 2000


def test_names_may_hold_anything() -> None:
    assert size(confusion_png(Counter({("$a$ _{b}", "日本 🎉"): 1, ("x" * 500, "\\frac"): 2})))


def test_pyplot_and_its_state_are_left_alone() -> None:
    before = "matplotlib.pyplot" in sys.modules
    confusion_png(Counter({("a", "a"): 1}))
    assert ("matplotlib.pyplot" in sys.modules) is before
