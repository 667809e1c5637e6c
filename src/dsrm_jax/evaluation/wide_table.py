"""A table that is never wider than its page: columns that do not fit stand below, their rows named again."""

from collections.abc import Iterator, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

GAP = 2  # between columns, of which the box takes one


class WideTable:
    """Rows under headings; add rows, then print it."""

    def __init__(self, *headings: str, title: str = "", keys: int = 1, left: Sequence[str] = ()) -> None:
        """Begin a table.

        Args:
            headings: of the columns.
            title: a line above it; empty: none.
            keys: how many first columns name a row; they are left-aligned, and repeated where the table is split.
            left: headings of other left-aligned columns.
        """
        self.headings, self.title, self.keys, self.left = headings, title, keys, (*headings[:keys], *left)
        self.rows: list[tuple[tuple[str, ...], str | None]] = []

    def add_row(self, *cells: str, style: str | None = None) -> None:
        """Add a row, with empty cells where there are fewer than headings."""
        self.rows.append(((*cells, *[""] * (len(self.headings) - len(cells))), style))

    def widths(self) -> list[int]:
        """Return how wide each column is."""
        columns = zip(self.headings, *(cells for cells, _ in self.rows), strict=True)
        return [max(cell_len(line) for text in column for line in text.split("\n")) for column in columns]

    def parts(self, width: int) -> list[list[int]]:
        """Return which columns stand beside each other, the keys left out: as many as fit, one at least."""
        widths = [w + GAP for w in self.widths()]
        room = width + GAP - sum(widths[: self.keys])
        parts: list[list[int]] = [[]]
        for column in range(self.keys, len(widths)):
            if parts[-1] and sum(widths[i] for i in [*parts[-1], column]) > room:
                parts.append([])
            parts[-1].append(column)
        return parts

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Say how narrow and how wide it can be."""
        widths = self.widths()
        whole, least = (sum(some) + GAP * (len(some) - 1) for some in (widths, widths[: self.keys + 1]))
        return Measurement(least, whole).with_maximum(options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text | Table]:
        """Print the parts below each other, a blank line between them."""
        if self.title:
            yield Text(self.title, style="italic")
        for number, part in enumerate(self.parts(options.max_width)):
            if number:
                yield Text("")
            table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
            columns = [*range(self.keys), *part]
            for column in columns:
                heading = self.headings[column]
                table.add_column(heading, justify="left" if heading in self.left else "right", overflow="fold")
            for cells, style in self.rows:
                table.add_row(*(cells[column] for column in columns), style=style)
            yield table
