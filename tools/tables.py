"""Tables as text, for the console or to paste into Markdown."""

from collections.abc import Iterable, Sequence


def format_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, markdown: bool = False, numbers: bool = False
) -> str:
    """Aligned columns, or Markdown. `numbers`: all columns but the first are aligned on the right."""
    lines = [header, *rows]
    aligned = ["<", *[">" if numbers else "<"] * (len(header) - 1)]
    if markdown:
        lines.insert(1, ["---:" if side == ">" else "---" for side in aligned])
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    columns = list(zip(aligned, widths, strict=True))
    return "\n".join(
        "  ".join(f"{cell:{side}{width}}" for cell, (side, width) in zip(cells, columns, strict=True)).rstrip()
        for cells in lines
    )
