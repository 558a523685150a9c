"""HTML pages from Jinja2 templates: each one file that asks nothing of any network, with every text escaped; and what
charts.html draws with.

The content security policy of base.html lets in our style sheet and the page's script, by their hashes, and nothing
else: should markup ever break out of a text, it could neither run nor fetch anything.
"""

import math
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any, Self

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from llmops.errors import CannotRun
from llmops.pages import numbers
from llmops.pages.numbers import number, signed

_ROOT = Path(__file__).parents[2]
"""The folder that holds our packages; templates are named from there: `llmops/pages/base.html`."""
_END = "\x1e"
"""The record separator, which no printable text holds."""
_BARS = 20
_NICE_STEPS = (1, 2, 2.5, 5, 10)
Point = tuple[float, float, str]
"""A time, the level then, NaN where it is not known, and what to say of it."""


def stream_page(part: str, **values: Any) -> Iterator[str]:
    """A whole page piece by piece, as its template comes to them. part: the template of its body. values: `title`,
    `script` if the page runs one, and what the part needs; what HTML may not hold becomes `�`."""
    return _pieces("llmops/pages/base.html", part, values)


def page(part: str, **values: Any) -> str:
    """As `stream_page`, as a whole."""
    return "".join(stream_page(part, **values))


def embedded(part: str, **values: Any) -> str:
    """A part with its own style, for the body of a page that is not ours."""
    return "".join(_pieces("llmops/pages/embedded.html", part, values))


def render_blocks(template: str, **values: Any) -> str:
    """A text that is no HTML, such as Markdown: its template escapes by itself, and has `end` after each block. Blocks
    are parted by an empty line, whatever space the template leaves between them; empty ones are left out."""
    blocks = _plain.get_template(template).render(values, end=_END).split(_END)
    return "\n\n".join(block.strip("\n") for block in blocks if block.strip()) + "\n"


def write_page(pieces: Iterable[str], path: Path) -> None:
    """Writes the pieces as they come, making the file's folder. Raises CannotRun."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(pieces)
    except OSError as error:
        raise CannotRun(f"cannot write the report to {path}: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class Axis:
    """A range of values drawn over the width of a plot, from one place to the other."""

    low: float
    high: float
    start: float = 18
    end: float = 222

    @classmethod
    def around_zero(cls, values: Iterable[float]) -> Self:
        """As far on either side of 0 as the values reach, rounded up to a number that reads well."""
        reach = _round_up(max((abs(value) for value in values), default=0.0) or 1.0)
        return cls(-reach, reach)

    @classmethod
    def around(cls, values: Sequence[float]) -> Self:
        """From below the smallest to above the largest value, both rounded to a number that reads well."""
        low, high = min(values, default=0.0), max(values, default=1.0)
        step = _round_up((high - low) / 4 or abs(high) or 1.0)
        return cls(math.floor(low / step) * step, math.ceil(high / step) * step)

    def at(self, value: float) -> float:
        """The value's place in the plot."""
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return round(self.start + min(1.0, max(0.0, share)) * (self.end - self.start), 2)

    @property
    def ticks(self) -> tuple[float, ...]:
        return tuple(self.low + (self.high - self.low) * part / 4 for part in range(5))

    def labels(self, differences: bool) -> list[tuple[float, str]]:
        """The places and numbers at its ends and in its middle: `+0.2` rather than `+0.200`."""
        shown = [(tick, signed(tick) if differences else number(tick)) for tick in self.ticks[::2]]
        return [(self.at(tick), text.rstrip("0").rstrip(".") if "." in text else text) for tick, text in shown]


def classes(changes: Sequence[float]) -> tuple[Axis, list[int], int, int, int]:
    """Rows in each class of equal width on either side of 0; and how many went down, stayed the same, went up."""
    axis, counts = Axis.around_zero(changes), [0] * _BARS
    for change in changes:
        if change:
            position = math.floor((change + axis.high) / (2 * axis.high) * _BARS)
            # A change next to 0 keeps to its own side, whatever rounding does.
            low, high = (_BARS // 2, _BARS - 1) if change > 0 else (0, _BARS // 2 - 1)
            counts[min(high, max(low, position))] += 1
    down, up = sum(1 for change in changes if change < 0), sum(1 for change in changes if change > 0)
    return axis, counts, down, len(changes) - down - up, up


def time_scales(points: Sequence[Point]) -> tuple[Axis, Axis, list[list[Point]]]:
    """The axis of times, that of levels, which holds 0, and the points in stretches without a gap."""
    parts = groupby(points, key=lambda point: math.isfinite(point[1]))
    stretches = [list(part) for is_known, part in parts if is_known]
    levels = [level for stretch in stretches for _, level, _ in stretch]
    times = Axis(stretches[0][0][0], stretches[-1][-1][0], 4, 516)
    return times, Axis(min(0.0, *levels), max(levels), 64, 8), stretches


def _round_up(value: float) -> float:
    """The least of 1, 2, 2.5, 5 × a power of ten that is not below the value, rounding errors aside."""
    value = max(value, 1e-9)
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in _NICE_STEPS if step * power >= value * (1 - 1e-9))


def _pieces(template: str, part: str, values: dict[str, Any]) -> Iterator[str]:
    return map(numbers.printable, environment.get_template(template).generate(values, part=part))


def _source(name: str) -> Markup:
    # With universal newlines, as a browser reads them before it computes the hash.
    return Markup((_ROOT / name).read_text(encoding="utf-8"))  # noqa: S704 - our own style sheets and scripts


def _hashed(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(_ROOT),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    words = ("number", "count", "counted", "signed", "interval", "probability", "brief")
    made.filters |= {word: getattr(numbers, word) for word in words} | {"hashed": _hashed}
    made.globals |= {
        "source": _source,
        **{tool.__name__: tool for tool in (Axis, classes, time_scales)},
        "NOTHING": numbers.NOTHING,
    }
    return made


environment = _environment()
_plain = environment.overlay(autoescape=False)
