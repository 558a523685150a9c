from llmops.evaluation.reports.row_selection import most_changed, select, worst_first


def ids(selection):
    return [row["id"] for row in selection.rows]


def test_the_rows_that_changed_most_come_first_then_failed_ones_then_the_order_of_the_set(make_row):
    rows = [make_row(1), make_row(2, 0.3), make_row(3, error_b="timeout"), make_row(4, -1.0), make_row(5, None)]
    assert ids(select(rows, 10, most_changed)) == ["row-4", "row-2", "row-3", "row-1", "row-5"]


def test_losses_come_first_whichever_direction_is_better(make_row):
    rows = [make_row(1, 0.5), make_row(2, -0.5), make_row(3)]
    assert ids(select(rows, 10, worst_first(True))) == ["row-2", "row-3", "row-1"]
    assert ids(select(rows, 10, worst_first(False))) == ["row-1", "row-3", "row-2"]
    assert ids(select(rows, 10, worst_first(None))) == ["row-1", "row-2", "row-3"]


def test_rows_are_read_once_and_counted_beyond_those_that_are_kept(make_row):
    selection = select((make_row(number, 1.0 if number < 30 else 0.0) for number in range(1000)), 20, most_changed)
    assert (len(selection.rows), selection.total, selection.changed) == (20, 1000, 30)
    assert selection.sentence("the changed") == (
        "20 of 1,000 rows are shown, the changed first; 10 changed rows are left out."
    )


def test_nothing_is_said_of_a_cut_that_was_not_made(make_row):
    assert select([make_row(1)], 1, most_changed).sentence("any") == ""
    cut = select([make_row(1, 1.0), make_row(2)], 1, most_changed)
    assert cut.sentence("any").endswith("every changed row is among them.")


def test_changes_are_kept_for_numbers_scored_on_both_sides_only(make_row):
    scores = {"rouge": {"a": 0.5, "b": 0.75}, "correct": {"a": True, "b": False}, "half": {"a": None, "b": 1.0}}
    selection = select([make_row(1, scores=scores), make_row(2, scores=scores)], 1, most_changed)
    assert {name: list(changes) for name, changes in selection.changes.items()} == {"rouge": [0.25, 0.25]}
