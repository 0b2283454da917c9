"""Text tables: aligned columns and Markdown."""

from tools.tables import format_table


def test_markdown_and_columns():
    table = [{"a": "1", "long name": "x"}, {"a": "22", "long name": ""}]
    assert format_table(table, markdown=True).splitlines() == [
        "| a | long name |",
        "| --- | --- |",
        "| 1 | x |",
        "| 22 |  |",
    ]
    assert format_table(table, markdown=False).splitlines() == ["a   long name", "1   x", "22"]
    assert format_table(table, numbers=True).splitlines() == ["a   long name", "1           x", "22"]
