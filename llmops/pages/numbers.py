"""Numbers in words, the same on every page and in every table, and texts that a page may hold."""

import math
import re
from collections.abc import Sequence

NOTHING = "–"

# What neither XML 1.0 nor HTML may hold: control characters, half of a surrogate pair, noncharacters.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")


def number(value: float | None) -> str:
    """Three decimals; fewer from 10 on; two significant digits of a small number; `–` for none."""
    if value is None:
        return NOTHING
    if 1e-12 < abs(value) < 0.0005:  # more than rounding, such as the cost of one answer
        return f"{value:.2g}".replace("-", "−")
    digits = 3 if abs(value) < 9.9995 else 1 if abs(value) < 999.95 else 0
    return f"{value:z,.{digits}f}".replace("-", "−")


def count(value: float | None) -> str:
    """A whole number with thousands set apart; `–` for none."""
    return NOTHING if value is None else f"{value:,.0f}"


def counted(amount: float, singular: str) -> str:
    """`1 row`, `1,200 rows`."""
    return f"{count(amount)} {singular}{'' if amount == 1 else 's'}"


def share(value: float) -> str:
    """`2.1 %`."""
    return f"{100 * value:.1f} %"


def signed(value: float) -> str:
    """A difference: `+0.083`, `−1.250`, `0.000`."""
    shown = number(value)
    return shown if shown.startswith("−") or shown == number(0) else f"+{shown}"


def interval(ci95: Sequence[float] | None, *, of_difference: bool = False) -> str:
    """`0.412 to 0.588`; with signs for an interval of a difference; `–` for none."""
    write = signed if of_difference else number
    return NOTHING if ci95 is None else f"{write(ci95[0])} to {write(ci95[1])}"


def probability(p_value: float) -> str:
    """A p-value as prose has it: `p = 0.031`, `p < 0.001`."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def printable(text: str) -> str:
    """The text with everything that XML or HTML forbids replaced by `�`."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def brief(value: float, share: bool = False) -> str:
    """At most four digits that count; a share as a percentage."""
    if share:
        return f"{value:.1%}" if value >= 0.001 or not value else f"{value:.2%}"
    if not math.isfinite(value):
        return NOTHING
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def shortened(text: str, longest: int) -> str:
    """The text, or its beginning and how much is left out."""
    return text if len(text) <= longest else f"{text[:longest]} … ({count(len(text) - longest)} characters more)"
