from __future__ import annotations

import io
from typing import Any

import pytest

from labs.replay_figure import replay_figure

ERRORS = {"2012-01": 90.0, "2012-02": 45.0, "2012-03": 50.0}


def result() -> dict[str, Any]:
    looked = [{"window": name, "error": error, "alarm": name == "2012-01"} for name, error in ERRORS.items()]
    return {"lab": "bike", "monitoring": looked, "retrained": [{"at": "2012-01", "to": "bike@2"}]}


def test_errors_alarms_and_promotions_are_drawn() -> None:
    (axes,) = replay_figure(result()).axes
    served, promotion = axes.lines
    assert list(served.get_ydata()) == list(ERRORS.values())
    assert promotion.get_xdata()[0] == 0.5  # between January and February
    assert axes.collections[0].get_offsets().tolist() == [[0, 90.0]]
    assert [text.get_text() for text in axes.texts] == ["bike@2 ▸"]
    assert axes.get_ylabel() == "RMSE, rentals an hour"


def test_what_would_have_been_is_drawn_where_it_is_known() -> None:
    unchanged = {"2012-01": 90.0, "2012-02": 106.0, "2012-03": 149.0}
    figure = replay_figure(result(), unchanged)
    assert list(figure.axes[0].lines[0].get_ydata()) == list(unchanged.values())
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    assert picture.getvalue().startswith(b"\x89PNG")


@pytest.mark.parametrize("alarm", [True, False])
def test_a_quiet_year_has_no_promotion(alarm: bool) -> None:
    quiet = {**result(), "retrained": []}
    quiet["monitoring"] = [{**each, "alarm": alarm} for each in quiet["monitoring"]]
    (axes,) = replay_figure(quiet).axes
    assert len(axes.collections[0].get_offsets()) == 3 * alarm
    assert not axes.texts
