"""Reads `[[descriptor]]` tables: a name, a kind, of what, and the kind's own parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from llmops.settings import Settings
from monitoring.descriptors.computation import Computation, Compute
from monitoring.descriptors.model import Descriptor, Kind, Side
from monitoring.tables import Table

Of = Literal["input", "output", "pair", "record"]
"""What a descriptor reads: a text of the request, both of an answered one (as its record), or any record."""

TEXTS: tuple[Of, ...] = ("input", "output")


@dataclass(frozen=True, slots=True)
class DescriptorKind:
    """A kind that can be declared.

    value: what its values are. make: reads the kind's parameters from the table and gives the computation.
    revision: raised by hand when its code, or the library it calls, changes what it returns. of: what it can read; the
    only one need not be declared. side, harmful, unit: what the file may override. sorts: it is declared once and
    gives one descriptor for each of these.
    """

    value: Kind
    make: Callable[[Table, Settings], Computation]
    revision: int = 1
    of: tuple[Of, ...] = TEXTS
    side: Side | None = None
    harmful: bool = False
    unit: str = ""
    sorts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Declared:
    """A descriptor, what it reads and how its values are computed."""

    descriptor: Descriptor
    of: Of
    compute: Compute
