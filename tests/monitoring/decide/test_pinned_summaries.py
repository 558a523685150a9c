import dataclasses

from monitoring.decide.pinned_summaries import PinnedSummaries, count_families, slices_to_test
from monitoring.store.summaries import FlagSummary, Summary


def part(rows, hits=1, first_at=0.0):
    return Summary(rows, first_at, first_at + 10, flags={"error": FlagSummary(rows, hits)})


WHOLE, ENGLISH = part(100), part(80)
REFERENCE = PinnedSummaries({("", ""): WHOLE, ("language", "en"): ENGLISH})


def families(whole, **slices):
    return count_families(slices_to_test("assistant", whole, slices, REFERENCE, 20))


def test_a_release_that_answered_everything_is_no_second_family():
    assert families(part(50), release={"assistant@1": part(50)}) == 1
    assert families(part(50), release={"assistant@1": part(30), "assistant@2": part(20)}) == 3


def test_a_language_of_all_rows_is_a_second_family_for_its_past_is_another():
    assert families(part(50), language={"en": part(50)}) == 2


def test_slices_of_other_rows_at_the_same_moments_are_different_families():
    imported = {"assistant@1": part(25, 1), "assistant@2": part(25, 2)}
    assert families(dataclasses.replace(part(50), last_at=0.0), release=imported) == 3
