"""The declared descriptors together: what they are, and the values they give log records."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llmops.errors import BadFile, CannotRun
from llmops.hashing import content_hash
from llmops.production_log import LogRecord
from llmops.ray_cluster import on_this_machine
from llmops.settings import Settings
from monitoring.descriptors.log_kinds import LOG_KINDS
from monitoring.descriptors.model import (
    Declared,
    Described,
    Descriptor,
    DescriptorKind,
    Failed,
    Of,
    Side,
    Texts,
    as_column,
    compute_safely,
    in_parts,
    is_answered,
    is_sampled,
)
from monitoring.descriptors.outside_kinds import OUTSIDE_KINDS
from monitoring.descriptors.text_kinds import TEXT_KINDS
from monitoring.descriptors.word_kinds import WORD_KINDS
from monitoring.tables import ConfigTable, nearest

if TYPE_CHECKING:
    import numpy as np

KINDS: Mapping[str, DescriptorKind] = {**TEXT_KINDS, **WORD_KINDS, **LOG_KINDS, **OUTSIDE_KINDS}


def read_declarations(tables: Sequence[Mapping[str, Any]], settings: Settings, file: Path | str) -> list[Declared]:
    """The declared descriptors in their order. Raises BadFile."""
    if not isinstance(tables, Sequence) or not all(isinstance(values, Mapping) for values in tables):
        raise BadFile(file, "must be [[descriptor]] tables", field="descriptor")
    return [each for place, values in enumerate(tables, 1) for each in _read_one(values, place, settings, file)]


def _read_one(values: Mapping[str, Any], place: int, settings: Settings, file: Path | str) -> Iterator[Declared]:
    name = values.get("name")
    shown = repr(name) if isinstance(name, str) else f"number {place}"
    with ConfigTable(values, file, f"descriptor {shown}") as table:
        name = table.text("name")
        kind_name = table.choice("kind", KINDS)
        kind = KINDS[kind_name]
        read_from = table.texts("of", kind.of) if len(kind.of) == 1 else table.texts("of")
        if len(read_from) > 1 and "{of}" not in name:
            raise table.wrong("name", "must hold {of}, for the descriptor is declared of several texts")
        sorts = table.texts("sorts", list(kind.sorts)) if kind.sorts else ("",)
        if strange := next((of for of in read_from if of not in kind.of), None):
            raise table.wrong("of", f"{kind_name} reads {' or '.join(kind.of)}, not {strange!r}")
        for of in cast(tuple[Of, ...], read_from):
            for sort in sorts:
                if sort and sort not in kind.sorts:
                    raise table.wrong("sorts", f"there is no {sort!r}{nearest(sort, kind.sorts)}")
                full = f"{name.replace('{of}', of)}_{sort}" if sort else name.replace("{of}", of)
                yield _declared(full, kind_name, kind, of, sort, table, settings)


def _declared(
    name: str, kind_name: str, kind: DescriptorKind, of: Of, sort: str, table: ConfigTable, settings: Settings
) -> Declared:
    own = ConfigTable({**table.values, "sort": sort} if sort else table.values, table.file, table.place)
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


# A part of a batch is described at a time, so that memory is bounded by it whatever the batch is.
_PART_ROWS, _PART_CHARACTERS = 1_000, 2_000_000


@dataclass(frozen=True, slots=True)
class _Source:
    """What a set was declared by. tables: as JSON."""

    tables: str
    settings: Settings
    file: str


class DescriptorSet:
    """Descriptors in the order of their declaration. version: changes when any of them does.

    One that was read from a configuration can be sent to another process, which makes it anew and raises CannotRun
    where its values would be others.
    """

    def __init__(self, declared: Iterable[Declared], source: _Source | None = None) -> None:
        self._declared, self._source = tuple(declared), source
        self.descriptors: Mapping[str, Descriptor] = {each.descriptor.name: each.descriptor for each in self._declared}

    @classmethod
    def from_config(
        cls, tables: Sequence[Mapping[str, Any]], settings: Settings | None = None, *, file: Path | str = "monitor.toml"
    ) -> DescriptorSet:
        """The descriptors that the `[[descriptor]]` tables of `file` declare; nothing heavy is loaded.

        Raises BadFile: names the file, the descriptor, the key, and for an unknown word the nearest known one.
        """
        settings = settings or Settings()
        declared = read_declarations(tables, settings, file)
        for name, count in Counter(each.descriptor.name for each in declared).items():
            if count > 1:
                raise BadFile(file, "is declared twice", field=f"descriptor {name!r}")
        # Nodes have no use for these, which may hold passwords.
        sent = replace(settings, log_url=None, tracking_uri=None, pipelines_url=None, redis_url=None)
        return cls(declared, _Source(json.dumps(tables, default=str), sent, str(file)))

    def __reduce__(self) -> tuple[Any, ...]:
        if self._source is None:
            raise TypeError("only descriptors of a configuration can be sent to another process")
        return _declared_again, (self._source, tuple(self.descriptors), self.version)

    @cached_property
    def version(self) -> str:
        return content_hash([[each.name, each.version] for each in self.descriptors.values()])[:16]

    def only(self, names: Collection[str]) -> DescriptorSet:
        """These descriptors alone, in the same order."""
        return DescriptorSet((each for each in self._declared if each.descriptor.name in names), self._source)

    def describe(self, records: Sequence[LogRecord]) -> Described:
        """The value of every descriptor for each record.

        No row stops it: one that a descriptor raises on has no value there and is counted.

        Raises CannotRun: a descriptor can never work here: a model or data that it needs is missing.
        """
        import numpy as np

        columns: dict[str, list[np.ndarray[Any, Any]]] = {name: [] for name in self.descriptors}
        failed: dict[str, list[Failed]] = {}
        parts = in_parts(
            records, lambda record: len(record.input) + len(record.output), rows=_PART_ROWS, most=_PART_CHARACTERS
        )
        for part in parts if records else [[]]:
            kept = [row for row, record in enumerate(part) if record.text_deleted_at is None]
            whole = [row for row in kept if is_answered(part[row])]
            rows_of: dict[Of, Sequence[int]] = {
                "input": kept,
                "output": whole,
                "pair": whole,
                "record": range(len(part)),
            }
            items_of = {of: _read(of, [part[row] for row in rows]) for of, rows in rows_of.items()}
            for each in self._declared:
                name, share = each.descriptor.name, each.descriptor.sampled
                rows, items = rows_of[each.of], items_of[each.of]
                if share < 1:
                    rows = [row for row in rows if is_sampled(part[row].key, share)]
                    items = _read(each.of, [part[row] for row in rows])
                values = compute_safely(each.compute, items)
                column, reasons = as_column(values, rows, len(part), each.descriptor.kind)
                columns[name].append(column)
                if reasons:
                    failed.setdefault(name, []).extend(reasons)
        return Described(
            {name: parts[0] if len(parts) == 1 else np.concatenate(parts) for name, parts in columns.items()},
            {name: len(reasons) for name, reasons in failed.items()},
            {name: reasons[0].reason for name, reasons in failed.items()},
        )


@lru_cache
def _declared_again(source: _Source, names: tuple[str, ...], version: str) -> DescriptorSet:
    """In another process, once: models that they load stay."""
    made = DescriptorSet.from_config(json.loads(source.tables), on_this_machine(source.settings), file=source.file)
    made = made.only(names)
    if made.version != version:
        raise CannotRun("descriptors have other versions on a node: install the same llmops and models on it")
    return made


def _read(of: Of, records: Sequence[LogRecord]) -> Sequence[Any]:
    """What a descriptor reads of the records."""
    if of == "input":
        return Texts([record.input for record in records])
    if of == "output":
        return Texts([record.output for record in records], [bool(record.details.get("refusal")) for record in records])
    return records


DEFAULT_FILE = Path(__file__).parent.parent / "default.toml"
