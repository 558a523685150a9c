"""The declared descriptors together: what they are, and the values they give log records."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops.errors import BadFile
from llmops.hashing import content_hash
from llmops.production_log import LogRecord
from llmops.settings import Settings
from monitoring.descriptors.answered import is_answered, is_sampled
from monitoring.descriptors.computation import Failed, as_column, compute_safely
from monitoring.descriptors.declared import Declared, Of
from monitoring.descriptors.kinds import read_declarations
from monitoring.descriptors.model import Described, Descriptor
from monitoring.descriptors.texts import Texts

if TYPE_CHECKING:
    import numpy as np

# A part of a batch is described at a time, so that memory is bounded by it whatever the batch is.
_PART_ROWS, _PART_CHARACTERS = 1_000, 2_000_000


class DescriptorSet:
    """Descriptors in the order of their declaration. version: changes when any of them does."""

    def __init__(self, declared: Iterable[Declared]) -> None:
        self._declared = tuple(declared)
        self.descriptors: Mapping[str, Descriptor] = {each.descriptor.name: each.descriptor for each in self._declared}

    @classmethod
    def from_config(
        cls, tables: Sequence[Mapping[str, Any]], settings: Settings | None = None, *, file: Path | str = "monitor.toml"
    ) -> DescriptorSet:
        """The descriptors that the `[[descriptor]]` tables of `file` declare; nothing heavy is loaded.

        Raises:
            BadFile: names the file, the descriptor, the key, and for an unknown word the nearest known one.
        """
        declared = read_declarations(tables, settings or Settings(), file)
        names: set[str] = set()
        for each in declared:
            if each.descriptor.name in names:
                raise BadFile(file, "is declared twice", field=f"descriptor {each.descriptor.name!r}")
            names.add(each.descriptor.name)
        return cls(declared)

    @cached_property
    def version(self) -> str:
        return content_hash([[each.name, each.version] for each in self.descriptors.values()])[:16]

    def only(self, names: Collection[str]) -> DescriptorSet:
        """These descriptors alone, in the same order."""
        return DescriptorSet(each for each in self._declared if each.descriptor.name in names)

    def describe(self, records: Sequence[LogRecord]) -> Described:
        """The value of every descriptor for each record.

        No row stops it: one that a descriptor raises on has no value there and is counted.

        Raises:
            CannotRun: a descriptor can never work here: a model or data that it needs is missing.
        """
        import numpy as np

        columns: dict[str, list[np.ndarray[Any, Any]]] = {name: [] for name in self.descriptors}
        failed: dict[str, list[Failed]] = {}
        for part in _parts(records) if records else [[]]:
            seen = _Part(part)
            for each in self._declared:
                column, reasons = seen.column(each)
                columns[each.descriptor.name].append(column)
                if reasons:
                    failed.setdefault(each.descriptor.name, []).extend(reasons)
        return Described(
            {name: parts[0] if len(parts) == 1 else np.concatenate(parts) for name, parts in columns.items()},
            {name: len(reasons) for name, reasons in failed.items()},
            {name: reasons[0].reason for name, reasons in failed.items()},
        )


class _Part:
    """Some records, with the texts of each side made once."""

    def __init__(self, records: Sequence[LogRecord]) -> None:
        self._records = records
        kept = [record.text_deleted_at is None for record in records]
        whole = [is_answered(record) for record in records]
        rows = range(len(records))
        self._positions: dict[Of, list[int]] = {
            "input": [row for row in rows if kept[row]],
            "output": [row for row in rows if kept[row] and whole[row]],
            "pair": [row for row in rows if kept[row] and whole[row]],
            "record": list(rows),
        }
        self._items = {of: self._read(of, positions) for of, positions in self._positions.items()}

    def column(self, declared: Declared) -> tuple[np.ndarray[Any, Any], list[Failed]]:
        positions, items = self._positions[declared.of], self._items[declared.of]
        share = declared.descriptor.sampled
        if share < 1:
            positions = [row for row in positions if is_sampled(self._records[row].key, share)]
            items = self._read(declared.of, positions)
        values = compute_safely(declared.compute, items)
        return as_column(values, positions, len(self._records), declared.descriptor.kind)

    def _read(self, of: Of, positions: Sequence[int]) -> Sequence[Any]:
        if of == "input":
            return Texts([self._records[row].input for row in positions])
        if of == "output":
            answers = [self._records[row] for row in positions]
            return Texts([it.output for it in answers], [bool(it.details.get("refusal")) for it in answers])
        return [self._records[row] for row in positions]


def _parts(records: Sequence[LogRecord]) -> Iterator[list[LogRecord]]:
    part: list[LogRecord] = []
    characters = 0
    for record in records:
        size = len(record.input) + len(record.output)
        if part and (len(part) >= _PART_ROWS or characters + size > _PART_CHARACTERS):
            yield part
            part, characters = [], 0
        part.append(record)
        characters += size
    if part:
        yield part
