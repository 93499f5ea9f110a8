"""The study's tables."""

from __future__ import annotations

from nat.studies.modes.tables import system_cells


def test_shares_are_of_all_sentences() -> None:
    """Those in which no word tells a language count, too."""
    scores = {"mixing": 0.1, "floor": 0.02, "excess": 0.08, "excess_error": 0.01}
    row = scores | {"name": "CTC", "bleu": 12.345, "sentences_by_language": {"de": 6, "fr": 2}, "num_untold": 2}
    cells = ["CTC", "-", "12.35", "-", "10.00", "2.00", "8.00", "1.00", "60.0", "20.0", "-"]
    assert system_cells(row, ["de", "fr"]) == cells
    nothing = row | {"sentences_by_language": {"de": 0, "fr": 0}, "num_untold": 0}
    assert system_cells(nothing, ["de", "fr"])[8:10] == ["0.0", "0.0"]
