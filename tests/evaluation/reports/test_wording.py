import pytest

from llmops.evaluation.comparison import Comparison
from llmops.evaluation.reports import wording
from llmops.evaluation.reports.wording import Standing, most_changed, select, standing, worst_first
from tests.evaluation.reports.conftest import difference, report, row


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, Standing.BETTER),
        ({"difference": -0.2}, Standing.WORSE),
        ({"difference": -0.2, "higher_is_better": False}, Standing.BETTER),
        ({"higher_is_better": None}, Standing.CHANGED),
        ({"p_value": 0.05, "p_adjusted": 0.05}, Standing.UNDECIDED),
    ],
)
def test_a_standing_needs_significance_and_knows_which_direction_is_better(changed, expected):
    assert standing(difference(**changed), chosen_beforehand=True) is expected


def test_only_the_metric_chosen_beforehand_goes_by_its_unadjusted_p_value():
    metric = difference(p_value=0.03, p_adjusted=0.06)
    assert standing(metric, chosen_beforehand=True) is Standing.BETTER
    assert standing(metric, chosen_beforehand=False) is Standing.UNDECIDED


def test_rows_of_a_metric_without_a_better_direction_go_up_and_down():
    assert wording.outcomes(difference()) == "2 lost · 12 tied · 6 won"
    assert wording.outcomes(difference(higher_is_better=None)) == "2 down · 12 the same · 6 up"


def test_the_noise_sentence_sets_what_changed_against_what_noise_would_change():
    sentence = wording.sentences(report().comparison)[0]
    assert "2.1 % of the rows differently (95 % interval 1.3 % to 3.2 %)" in sentence
    assert sentence.startswith("8 answers changed; noise alone would change about 0.4: ")


@pytest.mark.parametrize(
    ("ci95", "note", "told"),
    [
        ([-0.1, 0.2], "", "−0.100 to +0.200"),
        ([-1.0, 1.0], "3 clusters are too few", "−1.000 to +1.000 (3 clusters are too few)"),
        (None, "one pair says nothing about others", "none (one pair says nothing about others)"),
        (None, "", "–"),
    ],
)
def test_an_interval_is_told_with_what_limits_it(ci95, note, told):
    assert wording.interval_told(difference(ci95=ci95, note=note)) == told
    assert told in wording.summary("correct", difference(ci95=ci95, note=note), chosen_beforehand=True)


def test_differences_that_count_failed_rows_say_so():
    def told(**failed):
        return wording.sentences(Comparison("a", "b", 1, {"correct": difference(**failed)}, {}, []))

    assert told() == told(failed_a=0, failed_b=0) == []
    assert told(failed_b=1) == told(failed_a=2) == [wording.FAILED_IN_DIFFERENCES]


# Which rows are shown


def ids(selection):
    return [each.id for each in selection.rows]


def test_the_rows_that_changed_most_come_first_then_failed_ones_then_the_order_of_the_set():
    rows = [row(1), row(2, 0.3), row(3, error_b="timeout"), row(4, -1.0), row(5, None)]
    assert ids(select(rows, 10, most_changed)) == ["row-4", "row-2", "row-3", "row-1", "row-5"]


def test_losses_come_first_whichever_direction_is_better():
    rows = [row(1, 0.5), row(2, -0.5), row(3)]
    assert ids(select(rows, 10, worst_first(True))) == ["row-2", "row-3", "row-1"]
    assert ids(select(rows, 10, worst_first(False))) == ["row-1", "row-3", "row-2"]
    assert ids(select(rows, 10, worst_first(None))) == ["row-1", "row-2", "row-3"]


def test_rows_are_read_once_and_counted_beyond_those_that_are_kept():
    selection = select((row(number, 1.0 if number < 30 else 0.0) for number in range(1000)), 20, most_changed)
    assert (len(selection.rows), selection.total, selection.changed) == (20, 1000, 30)
    assert selection.sentence("the changed") == (
        "20 of 1,000 rows are shown, the changed first; 10 changed rows are left out."
    )


def test_nothing_is_said_of_a_cut_that_was_not_made():
    assert select([row(1)], 1, most_changed).sentence("any") == ""
    cut = select([row(1, 1.0), row(2)], 1, most_changed)
    assert cut.sentence("any").endswith("every changed row is among them.")


def test_changes_are_kept_for_numbers_scored_on_both_sides_only():
    scores = {"rouge": {"a": 0.5, "b": 0.75}, "correct": {"a": True, "b": False}, "half": {"a": None, "b": 1.0}}
    selection = select([row(1, scores=scores), row(2, scores=scores)], 1, most_changed)
    assert {name: list(changes) for name, changes in selection.changes.items()} == {"rouge": [0.25, 0.25]}
