"""Every kind of descriptor by its name in the configuration file, and the reader of `[[descriptor]]` tables."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from llmops.errors import BadFile
from llmops.hashing import content_hash
from llmops.settings import Settings
from monitoring.descriptors.declared import Declared, DescriptorKind, Of
from monitoring.descriptors.log_kinds import LOG_KINDS
from monitoring.descriptors.model import Descriptor, Side
from monitoring.descriptors.outside_kinds import OUTSIDE_KINDS
from monitoring.descriptors.text_kinds import TEXT_KINDS
from monitoring.descriptors.word_kinds import WORD_KINDS
from monitoring.tables import Table

KINDS: Mapping[str, DescriptorKind] = {**TEXT_KINDS, **WORD_KINDS, **LOG_KINDS, **OUTSIDE_KINDS}


def read_declarations(tables: Sequence[Mapping[str, Any]], settings: Settings, file: Path | str) -> list[Declared]:
    """The declared descriptors in their order. Raises BadFile."""
    if not isinstance(tables, Sequence) or not all(isinstance(values, Mapping) for values in tables):
        raise BadFile(file, "must be [[descriptor]] tables", field="descriptor")
    return [each for place, values in enumerate(tables, 1) for each in _read_one(values, place, settings, file)]


def _read_one(values: Mapping[str, Any], place: int, settings: Settings, file: Path | str) -> Iterator[Declared]:
    name = values.get("name")
    with Table(
        values, file, f"descriptor {name!r}" if isinstance(name, str) else f"descriptor number {place}"
    ) as table:
        name = table.text("name")
        kind_name = table.choice("kind", KINDS)
        kind = KINDS[kind_name]
        read_from = table.texts("of", list(kind.of[:1]) if len(kind.of) == 1 else None) if _has_of(table, kind) else ()
        if len(read_from) > 1 and "{of}" not in name:
            raise table.wrong("name", "must hold {of}, for the descriptor is declared of several texts")
        sorts = table.texts("sorts", list(kind.sorts)) if kind.sorts else ("",)
        for of in read_from or kind.of[:1]:
            if of not in kind.of:
                raise table.wrong("of", f"{kind_name} reads {' or '.join(kind.of)}, not {of!r}")
            for sort in sorts:
                if sort and sort not in kind.sorts:
                    near = difflib.get_close_matches(sort, kind.sorts, n=1, cutoff=0.0)[0]
                    raise table.wrong("sorts", f"there is no {sort!r}; did you mean {near}?")
                full = f"{name.replace('{of}', of)}_{sort}" if sort else name.replace("{of}", of)
                yield _declared(full, kind_name, kind, of, sort, table, settings)


def _has_of(table: Table, kind: DescriptorKind) -> bool:
    """Whether the table says of what; where the kind can read several things it must."""
    if len(kind.of) == 1:
        return table.any("of", None) is not None
    table.any("of")
    return True


def _declared(
    name: str, kind_name: str, kind: DescriptorKind, of: Of, sort: str, table: Table, settings: Settings
) -> Declared:
    own = Table({**table.values, "sort": sort} if sort else table.values, table.file, table.place)
    made = kind.make(own, settings)
    table.taken.update({key: value for key, value in own.taken.items() if key != "sort"})
    sides: dict[Of, Side] = {"input": "input", "output": "output", "pair": "output", "record": "service"}
    side = table.choice("side", ("input", "output", "service"), kind.side or sides[of])
    sampled = table.number("sampled", 1.0, least=0.0, most=1.0)
    value = made.value or kind.value
    definition = {
        "kind": kind_name,
        "revision": kind.revision,
        "value": value,
        "of": of,
        "sampled": sampled,
        "parameters": own.taken,
        "identity": dict(made.identity),
    }
    descriptor = Descriptor(
        name=name,
        kind=value,
        side=cast(Side, side),
        harmful=table.switch("harmful", kind.harmful),
        unit=table.text("unit", kind.unit, empty=True),
        version=content_hash(definition)[:16],
        sampled=sampled,
    )
    if descriptor.harmful and value != "flag":
        raise table.wrong("harmful", f"goes with flags, and this is a {value} descriptor")
    return Declared(descriptor, of, made.compute)
