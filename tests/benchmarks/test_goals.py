"""The table of goals: what is met, and that every goal is of a part that can be measured."""

import pytest

from benchmarks import costs
from benchmarks.goals import GOALS, Held, page


@pytest.mark.parametrize(("ratio", "met"), [(0.30, "yes"), (0.34, "**no**")])
def test_a_goal_is_met_where_the_ratio_is_at_most_what_it_may_be(ratio, met):
    held = Held("commands: prompts, CPU s", 2.5, 0.75, ratio, 0.28, 0.36, 1 / 3)
    assert held.met == (met == "yes")
    line = f"| commands: prompts, CPU s | 2.5 | 0.75 | {ratio:.2f} (0.28–0.36) | 0.33 | {met} |"
    assert line in page([str(held)], rounds=3).splitlines()


def test_every_goal_is_of_a_part_that_can_be_measured():
    assert GOALS.keys() <= costs.PARTS.keys()
