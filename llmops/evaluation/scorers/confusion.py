"""A confusion matrix as a picture."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any

# More classes than this do not fit a readable picture: then those that are confused most are shown.
MOST_CLASSES = 40
_SHOWN_OF_MANY = 30
_LONGEST_NAME = 32
OTHER = "(other)"

# Without parse_math a name between dollar signs would be set as mathematics.
_NAMES: dict[str, Any] = {"fontsize": 8, "parse_math": False}

Pairs = Mapping[tuple[str, str], int]


def confusion_png(pairs: Pairs) -> bytes:
    """The picture of `confusion_figure`."""
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a box in its place will do
        confusion_figure(pairs).savefig(picture, format="png")
    return picture.getvalue()


def confusion_figure(pairs: Pairs) -> Any:
    """A matplotlib Figure of how often each (expected, said) pair occurred: a row for each expected class, a column for
    each class said, coloured by the share of the row. Of more than 40 classes the 30 with most errors are shown, and
    what was said besides them stands under `(other)`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, columns, title = _shown(pairs)
    counts = _counts(pairs, rows, columns)
    side = 0.34
    figure = Figure(figsize=(3.6 + side * len(columns), 3.2 + side * len(rows)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)  # draws by itself, whatever pyplot is set to elsewhere
    axes = figure.add_subplot()
    shares = [[n / max(sum(line), 1) for n in line] for line in counts]
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0, aspect="equal")
    axes.set_xticks(range(len(columns)), [_short(name) for name in columns], rotation=90, **_NAMES)
    axes.set_yticks(range(len(rows)), [_short(name) for name in rows], **_NAMES)
    axes.set_xlabel("said")
    axes.set_ylabel("expected")
    axes.set_title(title, fontsize=9)
    for y, line in enumerate(counts):
        for x, n in enumerate(line):
            if n:
                colour = "white" if shares[y][x] > 0.5 else "black"
                axes.text(x, y, str(n), ha="center", va="center", fontsize=7, color=colour)
    return figure


def _shown(pairs: Pairs) -> tuple[list[str], list[str], str]:
    """Classes of the rows, those of the columns, and the title. Classes that nobody expected are columns only."""
    expected = sorted({wanted for wanted, _ in pairs}, key=str.casefold)
    said_only = sorted({said for _, said in pairs} - set(expected))
    n_rows = sum(pairs.values())
    title = f"{n_rows} row{'' if n_rows == 1 else 's'}"
    if len(expected) + len(said_only) <= MOST_CLASSES:
        return expected, [*expected, *said_only], title
    errors: Counter[str] = Counter()
    for (wanted, said), n in pairs.items():
        if wanted != said:
            errors[wanted] += n
            errors[said] += n
    ranked = sorted(expected, key=lambda name: (-errors[name], name))
    rows = sorted(ranked[:_SHOWN_OF_MANY], key=str.casefold)
    few = sorted(said_only, key=lambda name: (-errors[name], name))[: MOST_CLASSES - _SHOWN_OF_MANY - 1]
    if len(rows) < len(expected):
        title += f"; the {len(rows)} of {len(expected)} classes with most errors"
    return rows, [*rows, *sorted(few), OTHER], title


def _counts(pairs: Pairs, rows: list[str], columns: list[str]) -> list[list[int]]:
    row_of = {name: i for i, name in enumerate(rows)}
    column_of = {name: i for i, name in enumerate(columns)}
    counts = [[0] * len(columns) for _ in rows]
    for (wanted, said), n in pairs.items():
        if wanted in row_of:
            counts[row_of[wanted]][column_of.get(said, len(columns) - 1)] += n
    return counts


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
