"""Training curves of a run folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from nat.errors import DataError
from nat.reporting.curves import read_curves

TRAIN = '{"kind": "train", "update": 50, "tokens": 9, "seconds": 1.5, "nll": 2.5, "gradient_norm": 1}\n'
VALID = '{"kind": "valid", "update": 50, "tokens": 9, "seconds": 2.5, "bleu": 7.5, "chrf": 30.0}\n'
AVERAGE = '{"kind": "valid_average", "update": 50, "tokens": 9, "seconds": 2.5, "bleu": 8.5, "chrf": 30.0}\n'


def test_the_points_of_training_and_validation(tmp_path: Path) -> None:
    assert read_curves(tmp_path) == {"train": [], "valid": []}
    (tmp_path / "metrics.jsonl").write_text(TRAIN + VALID + AVERAGE + TRAIN + '{"kind": "tra')
    found = read_curves(tmp_path)
    point = {"update": 50, "tokens": 9, "seconds": 1.5, "nll": 2.5}
    assert found["train"] == [point, point]
    assert found["valid"] == [{"update": 50, "tokens": 9, "seconds": 2.5, "bleu": 7.5, "chrf": 30.0, "nll": None}]


@pytest.mark.parametrize("damaged", ['{"kind": "tra\n', "[]\n", '{"update": 1}\n', "\0\n"])
def test_a_damaged_line_is_named(damaged: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(TRAIN + damaged + VALID)
    with pytest.raises(DataError, match=rf"{tmp_path}/metrics.jsonl, line 2: damaged"):
        read_curves(tmp_path)
