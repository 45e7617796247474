"""Which checksum every row has: what binds a row to its place.

A row carries its own crc32c, which tells that it is whole, not that it is here where it belongs:
two objects of one array that changed places are whole, and so are their rows. Therefore the crc32c
of every row stands once more in a plain array of the store, beside those of all arrays that were
written together; the sha256 of its small objects is in the commit records.

    row_checksums        (V, N, A) uint32: of the A arrays of the first run, named in its attributes
    row_checksums.g3     likewise of targets that run 3 has added

What is summed are the bytes of a row as Zarr gives it back, before any compression.
"""

from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from reskd.common.distill.arrays import ArraySpec

TABLE: Final = "row_checksums"
UNBOUND_ROWS: Final = (
    "made before rows were bound to their places: objects that were swapped are found by "
    "`reskd cache verify --level bytes` alone"
)
"""Of a cache without such an array."""
_COLUMNS: Final = "arrays"


class _Run(Protocol):
    @property
    def number(self) -> int: ...

    @property
    def arrays(self) -> tuple[str, ...]: ...


def checksum_tables(runs: Iterable[_Run]) -> tuple[ArraySpec, ...]:
    """The arrays that hold the checksums of what some runs write, in order."""
    known: set[str] = set()
    tables = []
    for run in runs:
        new = [name for name in run.arrays if name not in known]
        if new:
            known.update(new)
            name = TABLE if run.number == 1 else f"{TABLE}.g{run.number}"
            tables.append(
                ArraySpec(
                    name=name, row_shape=(len(new),), dtype="uint32", attributes={_COLUMNS: new}
                )
            )
    return tuple(tables)


def is_table(array: ArraySpec) -> bool:
    """Whether an array holds checksums of others."""
    return array.name.split(".")[0] == TABLE


def summed_arrays(table: ArraySpec) -> Sequence[str]:
    """Names of the arrays whose rows a table has the checksums of, by column."""
    names: Sequence[str] = table.attributes[_COLUMNS]
    return names


def is_written_with(array: ArraySpec, names: Iterable[str]) -> bool:
    """Whether a run that writes arrays of these names writes this one; tables come along."""
    needed = summed_arrays(array) if is_table(array) else [array.name]
    return set(needed) <= set(names)


def table_of(name: str, tables: Iterable[ArraySpec]) -> tuple[ArraySpec, int] | None:
    """The table that sums an array, and the array's column in it; None if none of these does."""
    for table in tables:
        if name in summed_arrays(table):
            return table, summed_arrays(table).index(name)
    return None
