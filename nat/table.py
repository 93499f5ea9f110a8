"""Tables in Markdown, for README files and for people to read."""

from __future__ import annotations

from collections.abc import Collection, Sequence

UNKNOWN = "-"


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, text: Collection[int] = (0,)) -> str:
    """Lines of a table, without a line break behind the last. text: numbers, from 0, of the columns that hold text, on
    the left; all others hold figures, on the right. Cells may hold any signs, a line break becomes a space."""
    rule = "|" + "".join(":--|" if i in text else "--:|" for i in range(len(headings)))
    return "\n".join([table_line(headings), rule, *map(table_line, rows)])


def table_line(cells: Sequence[str]) -> str:
    plain = (" ".join(cell.replace("|", "\\|").split()) for cell in cells)
    return "|" + "|".join(f" {cell} " if cell else " " for cell in plain) + "|"


def rounded(value: float | None, digits: int, factor: float = 1.0) -> str:
    """A number of so many digits behind the point; UNKNOWN for None."""
    return UNKNOWN if value is None else f"{value * factor:.{digits}f}"
