"""Tables of text, for the console and for Markdown."""

from collections.abc import Sequence

Table = Sequence[dict[str, str]]  # lines of equal keys, the columns' titles


def format_table(table: Table, *, markdown: bool = False, numbers: bool = False) -> str:
    """Aligned columns, or Markdown to paste. `numbers`: all columns but the first are aligned on the right."""
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
