"""Which rows show, choose and judge."""

from dataclasses import replace

import pytest

from llmops.errors import CannotRun
from llmops.evaluation.contamination import Pieces, row_groups
from llmops.evaluation.eval_set import EvalRow
from llmops.optimizing.split import FEWEST_HELD_OUT, RowSplit, split_rows
from tests.optimizing.conftest import rows_of

ROWS = rows_of(range(100))


def parts(split: RowSplit) -> list[set[str]]:
    return [set(split.demonstrations), set(split.selection), set(split.held_out)]


@pytest.mark.parametrize(("pool", "sizes"), [(False, [20, 35, 45]), (True, [0, 50, 50])])
def test_every_row_is_in_one_part(pool, sizes):
    found = parts(split_rows(ROWS, seed=0, pool=pool))
    assert [len(part) for part in found] == sizes
    assert set.union(*found) == {row.id for row in ROWS}


def test_a_split_is_the_same_for_a_seed_whatever_the_order_and_the_ids_of_rows():
    turned = [replace(row, id=f"other {row.id}") for row in reversed(ROWS)]
    first, again, other = split_rows(ROWS, seed=1), split_rows(turned, seed=1), split_rows(ROWS, seed=2)
    assert [{f"other {row_id}" for row_id in part} for part in parts(first)] == parts(again)
    assert set(first.held_out_keys) == set(again.held_out_keys)
    assert parts(first) != parts(other)


def test_rows_of_one_cluster_near_duplicates_and_rows_on_one_context_stay_together():
    rows = [
        *(replace(row, tags={"source": str(n // 10)}) for n, row in enumerate(ROWS[:50])),
        *(replace(row, contexts=(f"passage {n // 5}",)) for n, row in enumerate(ROWS[50:75])),
        *ROWS[75:],
        *(replace(row, id=f"{row.id} again", inputs={"question": f"  {row.inputs['question']}!"}) for row in ROWS[75:]),
    ]
    groups = [{rows[position].id for position in group} for group in row_groups(rows, "tags.source")]
    assert sorted(map(len, groups)) == [2] * 25 + [5] * 5 + [10] * 5
    found = parts(split_rows(rows, seed=0, cluster_by="tags.source"))
    assert all(any(group <= part for part in found) for group in groups)


def test_rows_that_were_read_are_never_held_out_again_nor_are_those_that_belong_to_them():
    near = replace(ROWS[0], id="near", inputs={"question": f"{ROWS[0].inputs['question']}!"})
    rows = [*ROWS, near]
    first = split_rows(rows, seed=0)
    second = split_rows(rows, seed=1, read=first.held_out_keys)
    assert not set(first.held_out_keys) & set(second.held_out_keys)
    only_near = split_rows(rows, seed=2, read=split_rows([near, *ROWS[1:]], seed=0).held_out_keys)
    assert ("near" in only_near.held_out) == (ROWS[0].id in only_near.held_out)


def test_too_few_rows_are_refused_and_it_says_how_many_new_ones_it_takes():
    with pytest.raises(CannotRun, match="of 30 rows would be held out, it takes 20: add rows"):
        split_rows(ROWS[:30], seed=0)
    read = {key for seed in (0, 1) for key in split_rows(ROWS, seed=seed).held_out_keys}
    left = len(ROWS) - len(read)
    assert left < 45
    with pytest.raises(CannotRun, match="held-out rows are read once") as refused:
        split_rows(ROWS, seed=2, read=read | set(split_rows(ROWS, seed=3, read=read).held_out_keys))
    assert "new rows or more" in str(refused.value)
    assert f"it takes {FEWEST_HELD_OUT}" in str(refused.value)


LONG = "seven quick brown foxes jump over two lazy dogs near an old mill"


@pytest.mark.parametrize(
    ("text", "role", "held"),
    [
        ("They say quick brown foxes jump over two lazy dogs.", "user", True),  # eight words in a row
        ("Quick brown foxes jump over three lazy dogs", "user", False),
        ("Who wrote Emma?", "system", True),  # a short question as a whole
        ("Who wrote it?", "system", False),
        ("Say Jane Austen.", "user", True),  # an answer of several words, anywhere
        ("Answer: Thames", "assistant", True),  # an answer of one word, where the prompt speaks
        ("Does the Thames flow?", "user", False),
        ("Is it yes or no?", "system", False),  # a label
    ],
)
def test_pieces_of_rows_are_found_in_a_prompt(text, role, held):
    rows = [
        EvalRow("long", {"text": LONG}, {"expected_json": {"city": "Thames", "n": 3}}),
        EvalRow("short", {"text": "Who wrote Emma?"}, {"answers": ["Jane Austen"]}),
        *(EvalRow(f"label-{n}", {"text": f"{n} is it so"}, {"answers": ["yes"]}) for n in range(6)),
    ]
    assert bool(Pieces(rows).held_by([{"role": role, "content": text}])) == held
