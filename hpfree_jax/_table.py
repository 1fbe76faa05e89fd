"""A table of text, and the one way to print it."""

import dataclasses
from collections.abc import Collection, Iterable, Sequence


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of text under headings; numbers are aligned to the right."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Collection[
        str
    ] = ()  # headings of columns that hold words, as the first does

    def __rich__(self):
        """The table for ``rich``, whose console prints it."""
        from rich import box
        from rich.table import Table as RichTable

        shown = RichTable(
            title=self.title or None, title_justify="left", box=box.SIMPLE_HEAD
        )
        for index, heading in enumerate(self.headings):
            is_number = self._is_number(index)
            justify = "right" if is_number else "left"
            shown.add_column(heading, justify=justify, no_wrap=is_number or index == 0)
        for row in self.rows:
            shown.add_row(*row)
        return shown

    def markdown(self) -> str:
        """The table in Markdown, without its title.

        >>> print(Table("", ("name", "size"), [("fcn", "4")]).markdown())
        | name | size |
        |---|---:|
        | fcn | 4 |
        """
        columns = range(len(self.headings))
        rule = "|".join("---:" if self._is_number(i) else "---" for i in columns)
        lines = [" | ".join(row) for row in (self.headings, *self.rows)]
        first, *rest = [f"| {line} |" for line in lines]
        return "\n".join([first, f"|{rule}|", *rest])

    def _is_number(self, index: int) -> bool:
        return index > 0 and self.headings[index] not in self.words


def print_tables(tables: Iterable[Table]) -> None:
    """Prints tables as wide as the terminal, or as they are where there is none."""
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 10_000  # a file has no width: each row is one line
    for table in tables:
        console.print(table)
