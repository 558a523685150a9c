"""Two runs joined row by row, whatever the order; a row waits only until the other run comes to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.errors import CannotRun
from llmops.evaluation.comparison import paired
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, RowResult

IDS = st.lists(st.integers(0, 30).map(str), unique=True, max_size=20)


def run(name: str, ids: Sequence[str]) -> list[RowResult]:
    return [RowResult(EvalRow(id_, {"question": f"question {id_}"}), Output(f"{name} says {id_}"), {}) for id_ in ids]


def joined(a: Sequence[str], b: Sequence[str]) -> list[str]:
    """Ids of the pairs, in order; each is checked to hold one row of each run."""
    pairs = list(paired(run("a", a), run("b", b)))
    for left, right in pairs:
        assert left.row.id == right.row.id
        assert (left.output.text, right.output.text) == (f"a says {left.row.id}", f"b says {left.row.id}")
    return [left.row.id for left, _ in pairs]


def test_runs_in_one_order_are_joined_in_that_order() -> None:
    assert joined("abcd", "abcd") == list("abcd")


def test_runs_in_different_orders_are_joined_all_the_same() -> None:
    assert sorted(joined("abcd", "dbca")) == list("abcd")


@pytest.mark.parametrize(("a", "b"), [("abcdef", "abc"), ("abc", "abcdef"), ("xaybzc", "abc"), ("cab", "bca")])
def test_only_rows_of_both_runs_are_joined(a: str, b: str) -> None:
    assert sorted(joined(a, b)) == list("abc")


def test_the_order_of_pairs_is_the_same_in_every_process() -> None:
    # Two pairs are completed by the same step, for each of many swapped neighbours.
    a = [f"{kind}{number}" for number in range(40) for kind in "xy"]
    b = [f"{kind}{number}" for number in range(40) for kind in "yx"]

    assert joined(a, b) == b


def test_rows_of_one_order_never_wait() -> None:
    taken = 0

    def counted(results: Sequence[RowResult]) -> Iterator[RowResult]:
        nonlocal taken
        for result in results:
            taken += 1
            yield result

    pairs = paired(counted(run("a", "abcdef")), counted(run("b", "abcdef")))
    next(pairs)

    assert taken == 2


@pytest.mark.parametrize(("a", "b"), [("abc", "xyz"), ("abc", ""), ("", "abc"), ("", "")])
def test_runs_that_share_no_row_are_refused(a: str, b: str) -> None:
    with pytest.raises(CannotRun, match="share no row"):
        joined(a, b)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0]])
def test_a_row_id_that_stands_for_different_inputs_is_refused(order: list[int]) -> None:
    other = run("b", "abc")
    other[1] = RowResult(EvalRow("b", {"question": "another question"}), Output("x"), {})

    with pytest.raises(CannotRun, match="'b' has different inputs"):
        list(paired(run("a", "abc"), [other[i] for i in order]))


@given(IDS, IDS)
def test_every_shared_row_is_joined_exactly_once(a: list[str], b: list[str]) -> None:
    shared = set(a) & set(b)
    if not shared:
        with pytest.raises(CannotRun):
            joined(a, b)
    else:
        assert sorted(joined(a, b)) == sorted(shared)
