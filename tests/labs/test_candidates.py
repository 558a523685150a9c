from __future__ import annotations

from labs.candidates import Candidate

TREES = Candidate("trees", "", lambda parameters: parameters, {"depth": (1, 2), "size": (30, 10)}, growing="size")
PLAIN = Candidate("plain", "", lambda parameters: parameters, {"depth": (1, 2), "rate": (0.1, 0.5)})


def test_every_combination_but_of_what_grows() -> None:
    assert list(TREES.combinations()) == [{"depth": 1}, {"depth": 2}]
    assert len(list(PLAIN.combinations())) == 4


def test_sizes_grow() -> None:
    assert list(TREES.sizes) == [10, 30]
    assert TREES.with_size({"depth": 1}, 30) == {"depth": 1, "size": 30}


def test_without_growth_there_is_one_size() -> None:
    assert list(PLAIN.sizes) == [None]
    assert PLAIN.with_size({"depth": 1}, None) == {"depth": 1}


def test_without_a_grid_there_is_one_combination() -> None:
    assert list(Candidate("none", "", lambda parameters: parameters).combinations()) == [{}]
