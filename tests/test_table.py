"""The one writer of Markdown tables."""

from __future__ import annotations

from nat.table import markdown_table, rounded


def test_text_is_on_the_left_and_figures_are_on_the_right() -> None:
    table = markdown_table(["system", "BLEU", ""], [["CTC", "12.30", "best"]], text=(0, 2))
    assert table == "| system | BLEU | |\n|:--|--:|:--|\n| CTC | 12.30 | best |"


def test_no_sign_of_a_cell_ends_it() -> None:
    table = markdown_table(["a|b", "c"], [["x | y\nz", "1"]])
    assert table == "| a\\|b | c |\n|:--|--:|\n| x \\| y z | 1 |"


def test_what_is_not_known_is_a_dash() -> None:
    assert [rounded(None, 2), rounded(0.1234, 1, 100), rounded(0, 0)] == ["-", "12.3", "0"]
