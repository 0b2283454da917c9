"""Text tables, for the console and in Markdown."""

from collections.abc import Sequence

Table = Sequence[dict[str, str]]  # rows with equal keys, which are the column titles


def format_table(table: Table, *, markdown: bool = False, numbers: bool = False) -> str:
    """Format a table as aligned columns or as Markdown. `numbers`: right-align all columns but the first."""
    rows = [list(table[0]), *(list(line.values()) for line in table)]
    if markdown:
        rows.insert(1, ["---"] * len(rows[0]))
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(w) if numbers else cell.ljust(w) for cell, w in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)
