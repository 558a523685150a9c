"""The comparison of two builds: the interval that decides, and a real earlier commit."""

import math
import sys

import pytest

from benchmarks import against, costs
from benchmarks.__main__ import main


def test_a_ratio_is_a_geometric_mean_with_students_interval_of_the_logarithms():
    middle, low, high = against.ratio([2.0, 8.0, 4.0], [1.0, 1.0, 1.0])
    assert middle == pytest.approx(4.0)
    half = 4.302653 * math.log(2) / math.sqrt(3)  # t(0.975, 2)
    assert (low, high) == pytest.approx((4 * math.exp(-half), 4 * math.exp(half)), rel=1e-6)


def test_a_build_runs_its_own_tree_wherever_it_is_started(tmp_path):
    (tmp_path / "llmops").mkdir()
    (tmp_path / "llmops/__init__.py").write_text("print('another tree')\n")
    assert costs.Build("other", tmp_path).run("-c", "import llmops") == "another tree\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("endurance", "--against", "HEAD"), "no part 'endurance'; there are commands"),
        (("predict", "--against", "HEAD", "--rounds", "4"), "--rounds must be at least 5"),
    ],
)
def test_what_cannot_be_compared_is_refused(arguments, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, said in capsys.readouterr().err) == (2, True)
