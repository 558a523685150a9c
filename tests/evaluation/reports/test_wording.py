import pytest

from llmops.evaluation.reports import wording
from llmops.evaluation.reports.wording import Standing, standing


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
def test_a_standing_needs_significance_and_knows_which_direction_is_better(make_difference, changed, expected):
    assert standing(make_difference(**changed), chosen_beforehand=True) is expected


def test_only_the_metric_chosen_beforehand_goes_by_its_unadjusted_p_value(make_difference):
    metric = make_difference(p_value=0.03, p_adjusted=0.06)
    assert standing(metric, chosen_beforehand=True) is Standing.BETTER
    assert standing(metric, chosen_beforehand=False) is Standing.UNDECIDED


def test_rows_of_a_metric_without_a_better_direction_go_up_and_down(make_difference):
    assert wording.outcomes(make_difference()) == "2 lost · 12 tied · 6 won"
    assert wording.outcomes(make_difference(higher_is_better=None)) == "2 down · 12 the same · 6 up"


def test_the_noise_sentence_sets_what_changed_against_what_noise_would_change(make_report):
    sentence = wording.noise_sentence(make_report()["comparison"]["noise"])
    assert "2.1 % of the rows differently (95 % interval 1.0 % to 5.0 %)" in sentence
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
def test_an_interval_is_told_with_what_limits_it(make_difference, ci95, note, told):
    assert wording.interval_told(make_difference(ci95=ci95, note=note)) == told
    assert told in wording.summary("correct", make_difference(ci95=ci95, note=note), chosen_beforehand=True)


def test_differences_that_count_failed_rows_say_so(make_difference):
    def told(**failed):
        return wording.sentences({"metrics": {"correct": make_difference(**failed)}})

    assert told() == told(failed_a=0, failed_b=0) == []
    assert told(failed_b=1) == told(failed_a=2) == [wording.FAILED_IN_DIFFERENCES]
