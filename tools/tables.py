"""Tables of text, for the console and for Markdown."""

Table = list[dict[str, str]]  # lines of equal keys, the columns' titles


def format_table(table: Table, *, markdown: bool) -> str:
    """Aligned columns, or Markdown to paste."""
    if not table:
        return ""
    rows = [list(table[0]), *(list(line.values()) for line in table)]
    if markdown:
        rows.insert(1, ["---"] * len(rows[0]))
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
