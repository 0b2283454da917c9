"""Tables as text."""

from tools.tables import format_table

HEADER, ROWS = ["a", "long name"], [["1", "x"], ["22", ""]]


def test_markdown():
    assert format_table(HEADER, ROWS, markdown=True).splitlines() == [
        "| a | long name |",
        "| --- | --- |",
        "| 1 | x |",
        "| 22 |  |",
    ]


def test_columns():
    assert format_table(HEADER, ROWS).splitlines() == ["a   long name", "1   x", "22"]


def test_numbers_are_aligned_on_the_right():
    assert format_table(HEADER, ROWS, numbers=True).splitlines() == ["a   long name", "1           x", "22"]
