"""Own logs of any length, read piece by piece: columns in the files' order, in memory that does not grow with the files.

That holds for Parquet files and for CSV files of the usual kind (`csv_text.lazy`). A CSV file with lines inside quotation marks,
or bytes that are not UTF-8, is read whole first.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from dsrm_jax.data.csv_layout import layout
from dsrm_jax.data.csv_text import lazy
from dsrm_jax.data.log_files import is_parquet, partition_of, plain, root_of
from dsrm_jax.data.parts import alike, from_file, rows_of
from dsrm_jax.data.tables import Parts, Where
from dsrm_jax.errors import InputError, unknown_name

PIECE = 1 << 19  # rows read together


@dataclass(frozen=True)
class Spool:
    """Columns of a table in temporary Parquet files, of which any rows are read quickly."""

    where: Where  # the user's file, or files, for messages
    columns: tuple[str, ...]
    files: tuple[Path, ...]
    sizes: tuple[int, ...]  # rows of each file

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return sum(self.sizes)

    def pieces(self) -> Iterator[pl.DataFrame]:
        """Yield the rows in order, at most `PIECE` at a time; a column's type is its file's."""
        for file, size in zip(self.files, self.sizes, strict=True):
            for first in range(0, size, PIECE):
                yield pl.scan_parquet(file).slice(first, PIECE).collect()

    def column(self, name: str) -> pl.Series:
        """Return one column whole."""
        return pl.concat(alike([pl.read_parquet(file, columns=[name]) for file in self.files]))[name]


def spool(path: Path, columns: Sequence[str], folder: Path) -> Spool:
    """Copy columns of a file, folder or pattern of files (`parts.rows_of`) into a new folder.

    Raises:
        InputError: as `parts.rows_of` and `Rows.read`; a column is not there (with the nearest name that is).
    """
    table = rows_of(path)
    for name in columns:
        if name not in table.names:
            raise InputError(f"{path}: {unknown_name('column', name, table.names)}")
    folder.mkdir()
    files = tuple(folder / f"{number:06}.parquet" for number in range(len(table.files)))
    for file, inside, copy in zip(table.files, table.inside, files, strict=True):
        _copy(file, inside, root_of(path), columns, copy)
    sizes = tuple(pl.scan_parquet(copy).select(pl.len()).collect().item() for copy in files)
    if not sum(sizes):
        raise InputError(f"{path} has no rows; expected at least one")
    where = table.files[0] if len(files) == 1 else Parts(str(path), table.files, sizes)
    return Spool(where, tuple(columns), files, sizes)


def _copy(file: Path, inside: Sequence[str], root: Path, names: Sequence[str], copy: Path) -> None:
    """Copy columns of one file, those that its folders' names give among them."""
    given = {name: pl.lit(value, pl.String) for name, value in partition_of(file, root).items() if name not in inside}
    wanted = [name for name in names if name not in given]
    with plain(file) as bytes_of:
        if wanted and _streamed(file, bytes_of, wanted, given, names, copy):
            return
    from_file(file, inside, root, names).write_parquet(copy, row_group_size=PIECE)


def _streamed(
    file: Path, bytes_of: Path, wanted: Sequence[str], given: dict[str, pl.Expr], names: Sequence[str], copy: Path
) -> bool:
    """Copy columns in bounded memory and say whether that went well; where it did not, a reader that says why will try."""
    found = None
    if is_parquet(bytes_of):
        table: pl.LazyFrame | None = pl.scan_parquet(bytes_of, hive_partitioning=False).select(wanted)
    else:
        found = layout(bytes_of, file)
        table = lazy(found, dict.fromkeys(wanted, pl.String)) if found.plain and found.utf8 else None
    if table is None:
        return False
    if found is not None and len(found.empty):
        kept = table.with_row_index("line").filter(~pl.col("line").is_in(found.empty.astype(np.uint32))).drop("line")
        table = kept
    try:
        table.with_columns(**given).select(names).sink_parquet(copy, row_group_size=PIECE)
    except pl.exceptions.PolarsError:
        return False
    rows = pl.scan_parquet(copy).select(pl.len()).collect().item()
    return found is None or rows == found.lines - len(found.empty)
